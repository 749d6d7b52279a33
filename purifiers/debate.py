"""`debate`: the teachers read each other's rationales and revise their own; the most confident one is kept.

The text side of MAD-OPD (arXiv 2605.01347): R = 2 rounds; each teacher sees its own rationale and, without names, those
of the others, revises, and says how sure it is, c in 0..100; w = softmax(c / 100 / tau). MAD-OPD distils with the
weights w from the teachers' logits; here the revised rationale of the greatest weight is published, as synthesised.

Where we depart: a confidence that cannot be read takes the teacher out of the choice instead of counting as average;
equal confidences, which are common, fall to the answer with the greater weight in all, then by a hash. A teacher that
gives no usable reply in a round stays with what it said before. Questions with one rationale are not debated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from builders.asker import Call, Said
from builders.read_answer import read_answer, same_answer
from purifiers.asking import Asked, AsksTeachers, Candidate, blocks, nameless
from purifiers.base import NO_RESPONSE, Purified, Scores, Synthesis, softmax
from purifiers.verdicts import confidence
from purifiers.votes import noise
from schemas.corpus import Corpus
from schemas.errors import InputError

NOT_SURE = "no teacher said readably how sure it is"


@dataclass
class Stance:
    """What a teacher says at the moment; ``sure`` is None until it has said so readably, ``revised`` until it has."""

    column: int
    said: Candidate
    sure: float | None = None
    revised: bool = False


class Debate(AsksTeachers):
    """The teachers revise their rationales after reading the others'; the most confident revision is kept."""

    name = "debate"
    variables: ClassVar[frozenset[str]] = frozenset({"rationales", "own"})

    rounds: int = Field(2, ge=1, description="how often each teacher revises (MAD-OPD: 2, and 3 was worse)")
    tau: float = Field(1.0, gt=0, description="temperature of the weights")

    def score(self, corpus: Corpus) -> Scores:
        """(Q, T) weights of the teachers after the debate; NaN without a readable confidence."""
        return self._debated(corpus)[0]

    def purify(self, corpus: Corpus) -> Purified:
        """Keep the most confident revision; see the module."""
        weights, stances = self._debated(corpus)
        ties = noise(corpus, self.seed)
        teacher, score = np.full(len(corpus), -1), np.full(len(corpus), np.nan, np.float32)
        rejected, made = dict[int, str](), dict[int, Synthesis]()
        tasks = {row: q.task for row, (q, _) in stances.items()}
        for row in range(len(corpus)):
            q, said = stances[row]
            if len(q.candidates) == 1:
                teacher[row] = said[0].column
                continue
            sure = [s for s in said if s.sure is not None and s.revised]
            if not sure:
                rejected[row] = NOT_SURE if said else NO_RESPONSE
                continue
            best = max(sure, key=lambda s: (*_rank(s, sure, weights[row], tasks[row]), ties[row, s.column]))
            author = corpus.teachers[best.column]
            score[row] = weights[row, best.column]
            parents = tuple(sorted(c for candidate in q.candidates for c in candidate.columns))
            made[row] = Synthesis(best.said.text, best.said.answer, parents, written_by=author)
        return Purified(teacher, score, weights, rejected, made)

    def _debated(self, corpus: Corpus) -> tuple[Scores, dict[int, tuple[Asked, list[Stance]]]]:
        """(Q, T) weights, and per question where every teacher ended."""
        if not any(t in self.asker.teachers for t in corpus.teachers):
            raise InputError(f"{self.name} is held between the teachers, and the recipe has none of them")
        sure = np.full(corpus.usable.shape, np.nan, np.float32)
        ended: dict[int, tuple[Asked, list[Stance]]] = {}
        for block, share in blocks(corpus, self.seed):
            held = [(q, [Stance(c, candidate) for candidate in q.candidates for c in candidate.columns]) for q in block]
            for number in range(1, self.rounds + 1):
                left = (self.rounds - number) / self.rounds * len(block) / len(corpus)
                self._round(held, corpus, number, share - left)
            for q, stances in held:
                ended[q.row] = (q, stances)
                for s in stances:
                    if s.sure is not None:
                        sure[q.row, s.column] = s.sure
        return softmax(sure / np.float32(100 * self.tau)), ended

    def _round(self, held: Sequence[tuple[Asked, list[Stance]]], corpus: Corpus, number: int, share: float) -> None:
        """Ask every teacher to revise, given what all said before."""
        template, calls, speakers = self.template(), [], []
        for q, stances in held:
            for s in stances if len(q.candidates) > 1 else ():
                if corpus.teachers[s.column] not in self.asker.teachers:
                    continue
                others = [o for o in stances if o is not s]
                own, *shown = [_shown(o.said, q, corpus) for o in (s, *others)]
                messages = self.render(template, q.question, own=own, rationales=shown)
                about = tuple(corpus.teachers[o.column] for o in (s, *others))
                calls.append(Call(corpus.teachers[s.column], q.id, f"debate {number}", messages, about))
                speakers.append((q, s))
        for (q, s), said in zip(speakers, self.ask(calls, share), strict=True):
            _revise(q, s, said)


def _shown(said: Candidate, q: Asked, corpus: Corpus) -> dict[str, str | None]:
    """What a template sees of a rationale, which may have been revised meanwhile."""
    clean = nameless(said.text, corpus.teachers, q.question)
    return Candidate(said.columns, clean, said.answer).shown(q.task)


def _revise(q: Asked, stance: Stance, said: Said) -> None:
    """Take over what a teacher says now, if it can be used."""
    if said.text is None or said.status != "ok":
        return
    sure = confidence(said.text)
    answer = read_answer(_without_confidence(said.text), q.task, q.question["choices"])
    if not answer.rationale or answer.value is None:
        return
    known = next((c.answer for c in q.candidates if c.answer and same_answer(c.answer, answer.value, q.task)), None)
    stance.said = Candidate((stance.column,), answer.rationale, known or answer.value)
    stance.sure, stance.revised = sure, True
    said.verdict = answer.value + ("" if sure is None else f", {sure:g}")


def _without_confidence(text: str) -> str:
    lines = text.rstrip().splitlines()
    return "\n".join(line for line in lines if not line.strip(" *_\"'`").lower().startswith("confidence"))


def _rank(stance: Stance, sure: list[Stance], weights: Scores, task: str) -> tuple[float, float]:
    """Own weight, then that of all who end in the same answer."""
    allies = sum(float(weights[o.column]) for o in sure if _agree(o, stance, task))
    return round(float(weights[stance.column]), 6), round(allies, 6)


def _agree(a: Stance, b: Stance, task: str) -> bool:
    return a.said.answer is not None and b.said.answer is not None and same_answer(a.said.answer, b.said.answer, task)
