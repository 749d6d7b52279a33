"""`verified`: where gold is known, only rationales whose teacher reached it; where it is not, `consensus`.

Among right rationales the most typical one is kept: the one whose vector is closest to the mean of the right ones (one
that reached gold by an odd way, or by luck, stands apart). With ``encoder`` null it is the one whose words support the
answer best, which needs no model; with ``by_gain``, which needs a student, the one from which it gains most
(`purifiers.comprehension`). Two vectors are equally close to their mean: of two right ones, the words decide. Who is
still equal is kept by `noise`.

A labelled train question that nobody got right is rejected, unless ``judge`` names somebody to ask again with the gold
answer shown (rationalisation, as in STaR, arXiv 2203.14465). Such a rationale is kept if it concludes in gold and does
not say that it was given the answer; ``note`` marks it, and it has no parents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, PrivateAttr

from builders.asker import Call, Said
from builders.prompt import Prompt
from builders.read_answer import grade, read_answer
from purifiers.asking import asker_of
from purifiers.base import Purified, Purifier, Scores, Signal, Synthesis, choose
from purifiers.best_teacher import accuracy
from purifiers.comprehension import Comprehension
from purifiers.consensus import Consensus
from purifiers.encoder import DEFAULT_ENCODER, embed
from purifiers.equipment import BEST
from purifiers.gold_first import NOBODY_RIGHT
from purifiers.votes import noise
from purifiers.words import own_support, read
from schemas.corpus import Corpus

TOLD = re.compile(
    r"\b(?:given|provided|stated|supplied|correct|gold)\s+(?:correct\s+|right\s+)?answer\b"
    r"|\banswer\s+(?:is|was)\s+(?:already\s+)?(?:given|provided|stated)\b",
    re.IGNORECASE,
)
"""A rationale that speaks of the answer it was shown."""


class Verified(Purifier):
    """Right rationales by gold, the most typical of them; consensus where gold is hidden or unknown."""

    name = "verified"
    signals = frozenset({Signal.GOLD, Signal.ANSWERS, Signal.QUESTION, Signal.RATIONALES})
    learns = True

    encoder: str | None = Field(DEFAULT_ENCODER, description="encoder of the rationales; null = choose by their words")
    by_gain: bool = Field(False, description="choose by a student's gain in p(gold) from reading the rationale")
    threshold: float = Field(0.0, ge=0, le=1, description="without gold: reject below this probability")
    judge: str | None = Field(
        None,
        description="who is asked again, with gold shown, where no teacher reached it: a judge or teacher of the "
        "recipe, or `best` for the teacher best on train; null = nobody",
    )

    _best: str | None = PrivateAttr(None)
    _consensus: Consensus = PrivateAttr(default_factory=lambda: Consensus())  # noqa: PLW0108

    def fit(self, corpus: Corpus) -> Self:
        """Fit the consensus for the questions without gold."""
        copy = self.restore({}, corpus.teachers)
        copy._consensus = Consensus(threshold=self.threshold).fit(corpus)
        copy._best = corpus.teachers[int(accuracy(corpus).argmax())]
        return copy

    @property
    def looks_at(self) -> frozenset[Signal]:
        """An LLM or a student, too, if one is asked."""
        asked = {Signal.LLM} if self.judge else set()
        return self.signals | asked | ({Signal.STUDENT} if self.by_gain else set())

    def score(self, corpus: Corpus) -> Scores:
        """Where gold is known: 1 plus what a right rationale is worth, NaN for others; else the probability."""
        scores = self._consensus.score(corpus.hide_gold())
        labelled = np.flatnonzero(corpus.labelled)
        scores[labelled] = self._right_ones(corpus.take(labelled))
        return scores

    def purify(self, corpus: Corpus) -> Purified:
        """Keep the best right rationale; see the module."""
        kept = self._consensus.purify(corpus.hide_gold())
        labelled = np.flatnonzero(corpus.labelled)
        part = corpus.take(labelled)
        scores = self._right_ones(part)
        right = choose(scores, ties=self._ties(part, scores))
        solved = right.teacher >= 0
        kept.teacher[labelled], kept.score[labelled] = right.teacher, right.score
        rejected = {r: why for r, why in kept.rejected.items() if not corpus.labelled[r]}
        heard = np.asarray(corpus.usable.any(axis=1))
        for row in labelled[~solved].tolist():
            rejected[row] = NOBODY_RIGHT if heard[row] else kept.rejected[row]
        made, notes = self._asked_again(corpus, labelled[~solved], rejected) if self.judge else ({}, {})
        return Purified(kept.teacher, kept.score, kept.probabilities, rejected, made, notes)

    def _asked_again(
        self, corpus: Corpus, rows: npt.NDArray[np.int64], rejected: dict[int, str]
    ) -> tuple[dict[int, Synthesis], dict[int, str]]:
        """Rationales from somebody who was shown gold, with their notes; what they settle leaves ``rejected``."""
        asker = asker_of(self)
        judge = asker.check(self._best or corpus.teachers[0] if self.judge == BEST else str(self.judge))
        prompt, part = Prompt.load("teacher-forced"), corpus.take(rows)
        gold = [part.vocabulary[int(code)].as_py() for code in part.gold]
        questions = part.asked()
        calls = [
            Call(judge, q["question_id"], "rationalise", prompt.messages({**q, "answer": g}), gold_shown=True)
            for q, g in zip(questions, gold, strict=True)
        ]
        made, notes = dict[int, Synthesis](), dict[int, str]()
        for row, q, g, said in zip(rows.tolist(), questions, gold, asker.ask(calls), strict=True):
            found = _rationalised(said, q, g, judge)
            if isinstance(found, Synthesis):
                del rejected[row]
                made[row], notes[row] = found, f"no teacher reached gold: it was shown to {judge}"
            else:
                rejected[row] = f"{rejected[row]}; {judge}, shown gold, {found}"
        return made, notes

    def _right_ones(self, corpus: Corpus) -> Scores:
        """(Q, T) 1 + typicality, support or gain of each right rationale, NaN elsewhere, and where there is no gain."""
        right = corpus.usable & (corpus.correct == 1)
        several = np.flatnonzero(right.sum(axis=1) > 1)
        scores = np.where(right, 1.0, np.nan)
        if len(several):
            part = corpus.take(several)
            scores[several] += self._worth(part, right[several])
        return scores.astype(np.float32)

    def _ties(self, corpus: Corpus, scores: Scores) -> npt.NDArray[np.float64]:
        """(Q, T) what decides among equal worths: of two that would be as typical, the support; then `noise`."""
        ties = 1e-4 * noise(corpus, 0).astype(np.float64)
        two = np.flatnonzero((~np.isnan(scores)).sum(axis=1) == 2)
        if self.encoder is not None and not self.by_gain:
            ties[two] += own_support(read(corpus.take(two)))
        return ties

    def _worth(self, corpus: Corpus, right: npt.NDArray[np.bool_]) -> npt.NDArray[np.floating]:
        """(Q, T) by what right rationales are told apart: gain, support or typicality."""
        if self.by_gain:
            student = replace(self.equipment, student=self.student)  # which says in our name that there is none
            return Comprehension().equipped(student).gains(corpus)
        return own_support(read(corpus)) if self.encoder is None else self._typical(corpus, right)

    def _typical(self, corpus: Corpus, right: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        row, column = np.nonzero(right)
        vectors = embed(corpus.rationale_texts(row, column), self.encoder or DEFAULT_ENCODER, self.equipment.on_fit)
        grid = np.zeros(right.shape)
        grid[row, column] = typicality(vectors, row)
        return grid

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What the consensus learned."""
        return self._consensus.state()

    def restore(self, state: Mapping[str, npt.NDArray[Any]], teachers: tuple[str, ...]) -> Self:
        """See `Purifier.restore`."""
        copy = super().restore(state, teachers)
        copy._consensus = Consensus(threshold=self.threshold).restore(state, teachers)
        return copy


def _rationalised(said: Said, question: dict[str, Any], gold: str, judge: str) -> Synthesis | str:
    """The rationale, or what is wrong with it."""
    if said.text is None:
        return f"gave no reply ({said.why_not})"
    answer = read_answer(said.text, question["task"], question["choices"])
    said.verdict = answer.value
    if said.status != "ok":
        return "was cut at the token limit"
    if not grade(answer.value, gold, question["task"]):
        return "does not conclude in it"
    if not answer.rationale or TOLD.search(answer.rationale):
        return "does not derive it but says that it was given"
    return Synthesis(answer.rationale, gold, (), written_by=judge)


def typicality(vectors: npt.NDArray[np.float32], question: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """(N,) closeness in 0..1, (1 + cosine) / 2, of each unit vector to the mean of its question's vectors."""
    total = np.zeros((int(question.max()) + 1, vectors.shape[1]))
    np.add.at(total, question, vectors)
    mean = total[question]
    cosine = (vectors * mean).sum(axis=1) / np.linalg.norm(mean, axis=1).clip(1e-12)
    closeness: npt.NDArray[np.float64] = (1 + cosine) / 2
    return closeness
