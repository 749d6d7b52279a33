"""`aggregate`: one LLM merges the rationales of a question into a single one.

Knowledge purification's aggregation (arXiv 2602.01064): r = LLM(instruction, worked examples, question, r_1 .. r_n).
The paper's prompt was not at hand; ours shows the rationales without names, identical ones once, in an order drawn per
question. It is the paper's weakest method, and the only one whose text no teacher wrote.

A merged rationale is taken only if it can be used: there is a reply, whole and not too long, and its answer is the one
it must reach: gold where gold is shown, the majority's where that is stated, else one that some rationale reached.
Where it cannot, the best single rationale by ``fallback`` is kept and ``note`` says why. A question with one rationale
(or one and its copies) asks nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import orjson
from pydantic import Field

from builders.asker import Call, Said
from builders.read_answer import read_answer, same_answer
from purifiers.asking import FOLDER, Asked, ShowsGold, best_of, blocks, written
from purifiers.base import Purified, Purifier, Scores, Signal, Synthesis
from purifiers.gold_first import NOBODY_RIGHT
from purifiers.majority import NO_ANSWER
from purifiers.votes import votes
from schemas.corpus import UNREAD, Corpus
from schemas.errors import InputError

SLACK = 1.5
"""A merged rationale may have so many times the words that the prompt asks for."""
NOT_TAKEN = "the merged rationale was not taken"


class Aggregate(ShowsGold):
    """An LLM merges the rationales into one; a single one where the merged one cannot be used."""

    name = "aggregate"
    variables: ClassVar[frozenset[str]] = frozenset({"rationales", "gold", "majority", "words", "examples"})

    judge: str | None = Field(None, description="who merges: a judge of the recipe, or one of its teachers")
    examples: str | None = Field(None, description="JSONL file of worked examples, best of the same dataset")
    shots: int = Field(2, ge=0, description="worked examples shown")
    majority: bool = Field(False, description="say which answer most rationales reach")
    words: int = Field(200, gt=0, description="longest merged rationale asked for; half as many more are let pass")
    fallback: str = Field("majority", description="which method scores single rationales; one that needs no fit")

    def score(self, corpus: Corpus) -> Scores:
        """Of the single rationales, by ``fallback``; NaN where gold is shown and not reached."""
        scores = _single(self.fallback).score(corpus.hide_gold())
        return np.where(corpus.correct == 0, np.nan, scores) if self.gold else scores

    def purify(self, corpus: Corpus) -> Purified:
        """Merge; see the module."""
        judge, singles = self._judge(), self._singles(corpus)
        must, made, notes = self._must_reach(corpus), dict[int, Synthesis](), dict[int, str]()
        marks = _marks(judge, corpus)
        for block, share in blocks(corpus, self.seed):
            merged = [q for q in block if len(q.candidates) > 1]
            said = self.ask(list(self._calls(merged, judge, must, corpus)), share)
            for question, reply in zip(merged, said, strict=True):
                synthesis = _read(question, reply, must.get(question.row), judge, self.words)
                if isinstance(synthesis, Synthesis):
                    made[question.row] = synthesis
                    shown = [f"gold was shown to {judge}"] if self.gold and question.gold else []
                    notes[question.row] = "; ".join([*shown, *marks])
                else:
                    notes[question.row] = f"{NOT_TAKEN}: {synthesis}"
        singles.teacher[list(made)], singles.score[list(made)] = -1, np.nan
        rejected = {
            row: f"{why}; {notes[row]}" if row in notes else why
            for row, why in singles.rejected.items()
            if row not in made
        }
        kept_notes = {row: note for row, note in notes.items() if note and row not in rejected}
        return Purified(singles.teacher, singles.score, rejected=rejected, synthesised=made, notes=kept_notes)

    def _judge(self) -> str:
        if self.judge is None:
            raise InputError(
                f"{self.name} needs one LLM that merges: name it with --judge, a judge or teacher of the recipe"
            )
        return self.asker.check(self.judge)

    def _singles(self, corpus: Corpus) -> Purified:
        """The best single rationale of each question."""
        scores = self.score(corpus)
        kept = best_of(scores, corpus, self.seed, NO_ANSWER)
        wrong = corpus.labelled if self.gold else np.zeros(len(corpus), np.bool_)
        lone = (corpus.usable.sum(axis=1) == 1) & (kept.teacher < 0) & ~wrong  # kept also if its answer is unread
        why = {r: NOBODY_RIGHT if wrong[r] and w == NO_ANSWER else w for r, w in kept.rejected.items() if not lone[r]}
        return Purified(np.where(lone, corpus.usable.argmax(axis=1), kept.teacher), kept.score, rejected=why)

    def _must_reach(self, corpus: Corpus) -> dict[int, str]:
        """Row -> the only answer that a merged rationale may reach."""
        code = np.full(len(corpus), UNREAD)
        if self.majority:
            count = votes(corpus)
            best = count.argmax(axis=1)
            top = corpus.answer[np.arange(len(corpus)), best]
            rivals = np.where(corpus.answer == top[:, None], 0, count).max(axis=1, initial=0)
            code = np.where(count.max(axis=1, initial=0) > rivals, top, UNREAD)
        if self.gold:
            code = np.where(corpus.labelled, corpus.gold, code)
        return {int(row): corpus.vocabulary[int(code[row])].as_py() for row in np.flatnonzero(code != UNREAD)}

    def _calls(self, questions: list[Asked], judge: str, must: dict[int, str], corpus: Corpus) -> Iterator[Call]:
        template = self.template()
        own = self.equipment.folder / Path(self.examples).expanduser() if self.examples else None
        examples = _examples(own or FOLDER / "aggregate-examples.jsonl")
        for q in questions:
            gold = q.gold if self.gold else None
            most = must.get(q.row) if self.majority and not gold else None
            messages = self.render(
                template,
                q.question,
                rationales=[c.shown(q.task) for c in q.candidates],
                gold=written(gold, q.task),
                majority=written(most, q.task),
                words=self.words,
                examples=[e for e in examples if e["question"].strip() != q.question["question"].strip()][: self.shots],
            )
            about = tuple(corpus.teachers[c.columns[0]] for c in q.candidates)
            yield Call(judge, q.id, "aggregate", messages, about, gold_shown=gold is not None)


def _single(name: str) -> Purifier:
    from purifiers.registry import method

    found = method(name)()
    if found.needs_fit or not found.publishable or Signal.LLM in found.looks_at:
        raise InputError(f"aggregate cannot fall back on '{name}': take a method that learns nothing, such as majority")
    return found


def _marks(judge: str, corpus: Corpus) -> list[str]:
    return [f"merged by {judge}, itself one of the teachers"] if judge in corpus.teachers else []


def _read(question: Asked, said: Said, must: str | None, judge: str, words: int) -> Synthesis | str:
    """The merged rationale, or why it is not taken."""
    if said.text is None:
        return said.why_not
    answer = read_answer(said.text, question.task, question.question["choices"])
    said.verdict, length = answer.value, len(answer.rationale.split())
    problems = {
        "it was cut at the token limit": said.status == "truncated",
        "it is empty": not answer.rationale,
        f"it has {length} words, {words} were asked for": length > SLACK * words,
        "no answer could be read in it": answer.value is None,
    }
    problem = next((why for why, found in problems.items() if found), None)
    if problem or answer.value is None:
        return problem or ""
    reached_by_some = [c.answer for c in question.candidates if c.answer is not None]
    given = [must] if must is not None else reached_by_some or [answer.value]
    same = next((a for a in given if same_answer(answer.value, a, question.task)), None)
    if same is None:
        reached = written(answer.value, question.task)
        wanted = f"not in {written(must, question.task)}" if must is not None else "which no rationale reached"
        return f"it concludes in {reached}, {wanted}"
    columns = sorted(c for candidate in question.candidates for c in candidate.columns)
    return Synthesis(answer.rationale, same, tuple(columns), written_by=judge)


def _examples(path: Path) -> list[dict[str, Any]]:
    """Worked examples: objects with task, question, choices, context, rationales (text, answer), rationale and answer.

    Raises:
        InputError: the file cannot be read, or a line is not such an object.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"examples {path}: cannot be read as UTF-8 text ({error})") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            example = {"choices": [], "context": None, **orjson.loads(line)}
            example.setdefault("task", "choice" if example["choices"] else "text")
            [(r["text"], r["answer"]) for r in example["rationales"]]
            (example["question"].strip(), example["rationale"].strip(), example["answer"].strip())
        except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
            raise InputError(
                f"examples {path}, line {number}: needs the texts question, rationale and answer, and rationales as a "
                'list of {"text": ..., "answer": ...}'
            ) from None
        found.append(example)
    return found
