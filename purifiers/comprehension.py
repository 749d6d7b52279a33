"""`comprehension`: the rationale from which the student understands gold best.

AMPO's comprehension score (arXiv 2510.02227), as a purifier:

    gain_i = p(gold | q, r_i) - p(gold | q)

with p of the student as it is now, the geometric mean over gold's tokens, or with ``options`` the probability of gold
among the options' texts. r_i is read without the sentences that hand over its answer (`student_tasks`).

Where we depart: AMPO takes right teachers' answers from its pool, clips the gain at 0 and adds a bonus for format; here
candidates are the teachers that reached gold on their own (``right_only``), and the gain is kept as it is, so that
`utility` can tell a rationale that harms. AMPO's guidance only where no attempt of the student is right is
``where_wrong``: a question that the student answers without help is rejected, with that reason.

A student that starts from nothing understands nothing yet: with ``warm_up`` a fresh one first learns, from the train
questions that `fit` sees, to answer with and without such a rationale. It is not saved with what was learned.

A question whose gold is hidden or unknown cannot be scored so: `consensus` chooses there, and its score is a
probability, not a gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import xxhash
from pydantic import Field, PrivateAttr

from purifiers.base import Purified, Purifier, Scores, Signal, overrule
from purifiers.consensus import Consensus
from purifiers.equipment import Student
from purifiers.gold_first import NOBODY_RIGHT
from purifiers.student_tasks import (
    Floats,
    Rows,
    answers_right,
    golds,
    names_of_gold,
    option_certainty,
    reading,
    without_conclusion,
)
from purifiers.votes import noise
from schemas.corpus import Corpus
from schemas.errors import InputError

KNOWS_IT = "the student answers it without a rationale"
BATCH = 32
"""Questions per step of the warm-up."""


class Comprehension(Purifier):
    """The student's gain in the probability of gold from reading the rationale; needs a student."""

    name = "comprehension"
    signals = frozenset({Signal.GOLD, Signal.STUDENT, Signal.ANSWERS, Signal.QUESTION, Signal.RATIONALES})
    learns = True

    right_only: bool = Field(default=True, description="only rationales whose teacher reached gold")
    where_wrong: bool = Field(
        default=False, description="reject questions that the student answers without a rationale"
    )
    options: bool = Field(
        default=False, description="probability among the options; off: of gold's tokens, fewer passes"
    )
    warm_up: int = Field(
        default=0, ge=0, description="passes over train in which a fresh student learns to read rationales"
    )
    seed: int = Field(default=0, description="of the warm-up")

    _consensus: Consensus = PrivateAttr(default_factory=lambda: Consensus())  # noqa: PLW0108
    _seen: dict[bytes, float] = PrivateAttr(default_factory=dict)
    """What the student said before, by prompt, gold and options: folds ask the same again."""
    _reader: Student | None = PrivateAttr(None)
    """The student that was warmed up."""

    @property
    def student(self) -> Student:
        """The one that was warmed up, or else the one it was handed."""
        return self._reader or super().student

    def fit(self, corpus: Corpus) -> Self:
        """Fit the consensus for the questions without gold, and warm the student up where that is asked for."""
        copy = self.restore({}, corpus.teachers)
        copy._consensus = Consensus().fit(corpus)
        if self.warm_up:
            copy._reader, copy._seen = copy._taught(corpus.take(np.flatnonzero(corpus.labelled))), {}
        return copy

    def _taught(self, corpus: Corpus) -> Student:
        """A fresh student that learned gold of labelled questions, alone and after a candidate drawn at random."""
        row, _, texts = self._candidates(corpus)
        mine = [np.flatnonzero(row == r) for r in range(len(corpus))]
        questions, gold = corpus.question_texts(), [text or "" for text in golds(corpus)]
        rng, student = np.random.default_rng(self.seed), self.student.fresh(self.seed)
        asked, done = np.unique(row), 0
        for _ in range(self.warm_up):
            order = rng.permutation(asked)
            for part in (order[i : i + BATCH].tolist() for i in range(0, len(order), BATCH)):
                alone = [reading(questions[r], "") for r in part]
                helped = [reading(questions[r], texts[rng.choice(mine[r])]) for r in part]
                loss = student.learn(alone + helped, [gold[r] for r in part] * 2)
                done += len(part)
                self.equipment.on_fit(done, self.warm_up * len(asked), f"warming the student up, loss {loss:.3f}")
        return student

    def score(self, corpus: Corpus) -> Scores:
        """Where gold is known the gain, NaN for who is no candidate; else the probability of `consensus`."""
        scores = self._consensus.score(corpus.hide_gold())
        labelled = np.flatnonzero(corpus.labelled)
        scores[labelled] = self.gains(corpus.take(labelled))
        return scores

    def purify(self, corpus: Corpus) -> Purified:
        """Keep the highest gain, of equal ones by `noise`."""
        kept = self._consensus.purify(corpus.hide_gold())
        labelled = np.flatnonzero(corpus.labelled)
        part = corpus.take(labelled)
        gains = self.gains(part)
        heard = np.asarray(part.usable.any(axis=1))
        why = {int(labelled[i]): NOBODY_RIGHT for i in np.flatnonzero(heard & np.isnan(gains).all(axis=1))}
        for i, reason in self._left_out(part, gains).items():
            gains[i] = np.nan
            why[int(labelled[i])] = reason
        return overrule(kept, labelled, gains, noise(part, 0), why)

    def _left_out(self, part: Corpus, gains: Scores) -> dict[int, str]:
        """Row -> why a labelled question gets no rationale although it has a candidate."""
        candidates = np.flatnonzero(~np.isnan(gains).all(axis=1))
        if not self.where_wrong or not len(candidates):
            return {}
        asked = part.take(candidates)
        prompts = [reading(q, "") for q in asked.question_texts()]
        options = [list(c.values()) for c in asked.choice_texts()]
        gold = [text or "" for text in golds(asked)]
        knows = answers_right(self.student, prompts, gold, options, self.equipment.on_fit)
        return dict.fromkeys(candidates[knows].tolist(), KNOWS_IT)

    def gains(self, corpus: Corpus) -> Scores:
        """(Q, T) gain of each candidate, NaN for others; every question has gold."""
        if self.warm_up and not self._reader:
            raise InputError(
                f"{self.name} warmed a student up when it was fitted, which is not saved with it: fit it again, or "
                "set warm_up to 0 and give it a trained student"
            )
        row, column, texts = self._candidates(corpus)
        asked = np.unique(row)
        sure = self._certainties(corpus, np.concatenate([asked, row]), [""] * len(asked) + texts)
        alone = np.zeros(len(corpus))
        alone[asked] = sure[: len(asked)]
        found = np.full(corpus.usable.shape, np.nan, np.float32)
        found[row, column] = sure[len(asked) :] - alone[row]
        return found

    def _candidates(self, corpus: Corpus) -> tuple[Rows, Rows, list[str]]:
        """(N,) row and (N,) column of each rationale that may be kept, and its text without the answer.

        One that is nothing but the answer has no text left, and a gain of 0 that says nothing of it: it may be kept
        only where no other of the question says more.
        """
        row, column = np.nonzero(corpus.usable & (corpus.correct == 1) if self.right_only else corpus.usable)
        names = names_of_gold(corpus)
        read = zip(row.tolist(), corpus.rationale_texts(row, column), strict=True)
        texts = [without_conclusion(text, names[r]) for r, text in read]
        says = np.array([bool(text) for text in texts], np.bool_)
        mine = np.flatnonzero(says | ~np.isin(row, row[says]))
        return row[mine], column[mine], [texts[i] for i in mine.tolist()]

    def _certainties(self, corpus: Corpus, rows: Rows, rationales: list[str]) -> Floats:
        """(N,) probability of gold after reading each rationale on the question of that row."""
        questions, gold = corpus.question_texts(), golds(corpus)
        choices = [list(c.values()) if self.options else [] for c in corpus.choice_texts()]
        student = self.student
        prompts = [reading(questions[r], text) for r, text in zip(rows.tolist(), rationales, strict=True)]
        targets = [gold[r] or "" for r in rows.tolist()]
        options = [choices[r] for r in rows.tolist()]
        keys = [
            xxhash.xxh3_128_digest("\0".join([student.name, prompt, target, *texts]).encode("utf-8", "replace"))
            for prompt, target, texts in zip(prompts, targets, options, strict=True)
        ]
        new = [i for i, key in enumerate(keys) if key not in self._seen]
        said = option_certainty(
            student,
            [prompts[i] for i in new],
            [targets[i] for i in new],
            [options[i] for i in new],
            self.equipment.on_fit,
        )
        self._seen.update((keys[i], p) for i, p in zip(new, said.tolist(), strict=True))
        return np.array([self._seen[key] for key in keys])

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What the consensus learned, and what a subclass did."""
        return {**self._learned, **{f"consensus.{name}": array for name, array in self._consensus.state().items()}}

    def restore(self, state: Mapping[str, npt.NDArray[Any]], teachers: tuple[str, ...]) -> Self:
        """See `Purifier.restore`."""
        mine = {n.removeprefix("consensus."): a for n, a in state.items() if n.startswith("consensus.")}
        copy = super().restore({n: a for n, a in state.items() if not n.startswith("consensus.")}, teachers)
        copy._consensus, copy._reader = Consensus().restore(mine, teachers), None
        return copy
