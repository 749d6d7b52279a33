"""`comprehension`: the rationale from which the student understands gold best.

AMPO's comprehension score (arXiv 2510.02227), as a purifier:

    gain_i = p(gold | q, r_i) - p(gold | q)

with p of the student as it is now, the geometric mean over gold's tokens, or with ``options`` the probability of gold
among the options' texts. r_i is read without the sentences that hand over its answer (`student_tasks`).

Where we depart: AMPO takes right teachers' answers from its pool, clips the gain at 0 and adds a bonus for format; here
candidates are the teachers that reached gold on their own (``right_only``), and the gain is kept as it is, so that
`utility` can tell a rationale that harms. AMPO's guidance only where no attempt of the student is right is
``where_wrong``: a question that the student answers without help is rejected, with that reason.

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
from purifiers.gold_first import NOBODY_RIGHT
from purifiers.student_tasks import (
    Floats,
    answers_right,
    golds,
    names_of_gold,
    option_certainty,
    reading,
    without_conclusion,
)
from schemas.corpus import Corpus

KNOWS_IT = "the student answers it without a rationale"


class Comprehension(Purifier):
    """The student's gain in the probability of gold from reading the rationale; needs a student."""

    name = "comprehension"
    signals = frozenset({Signal.GOLD, Signal.STUDENT, Signal.ANSWERS, Signal.QUESTION, Signal.RATIONALES})
    learns = True

    right_only: bool = Field(True, description="only rationales whose teacher reached gold")
    where_wrong: bool = Field(False, description="reject questions that the student answers without a rationale")
    options: bool = Field(False, description="probability among the options; off: of gold's tokens, fewer passes")

    _consensus: Consensus = PrivateAttr(default_factory=lambda: Consensus())  # noqa: PLW0108
    _seen: dict[bytes, float] = PrivateAttr(default_factory=dict)
    """What the student said before, by prompt, gold and options: folds ask the same again."""

    def fit(self, corpus: Corpus) -> Self:
        """Fit the consensus for the questions without gold."""
        copy = self.restore({}, corpus.teachers)
        copy._consensus = Consensus().fit(corpus)
        return copy

    def score(self, corpus: Corpus) -> Scores:
        """Where gold is known the gain, NaN for who is no candidate; else the probability of `consensus`."""
        scores = self._consensus.score(corpus.hide_gold())
        labelled = np.flatnonzero(corpus.labelled)
        scores[labelled] = self.gains(corpus.take(labelled))
        return scores

    def purify(self, corpus: Corpus) -> Purified:
        """Keep the highest gain."""
        kept = self._consensus.purify(corpus.hide_gold())
        labelled = np.flatnonzero(corpus.labelled)
        part = corpus.take(labelled)
        gains = self.gains(part)
        heard = np.asarray(part.usable.any(axis=1))
        why = {int(labelled[i]): NOBODY_RIGHT for i in np.flatnonzero(heard & np.isnan(gains).all(axis=1))}
        for i, reason in self._left_out(part, gains).items():
            gains[i] = np.nan
            why[int(labelled[i])] = reason
        return overrule(kept, labelled, gains, why)

    def _left_out(self, part: Corpus, gains: Scores) -> dict[int, str]:
        """Row -> why a labelled question gets no rationale although it has a candidate."""
        candidates = np.flatnonzero(~np.isnan(gains).all(axis=1))
        if not self.where_wrong or not len(candidates):
            return {}
        asked = part.take(candidates)
        prompts = [reading(q, "") for q in asked.question_texts()]
        options = [list(c.values()) for c in asked.choice_texts()]
        knows = answers_right(self.student, prompts, [text or "" for text in golds(asked)], options)
        return dict.fromkeys(candidates[knows].tolist(), KNOWS_IT)

    def gains(self, corpus: Corpus) -> Scores:
        """(Q, T) gain of each candidate, NaN for others; every question has gold."""
        open_ = corpus.usable & (corpus.correct == 1) if self.right_only else corpus.usable
        row, column = np.nonzero(open_)
        names = names_of_gold(corpus)
        texts = [
            without_conclusion(text, names[r])
            for r, text in zip(row.tolist(), corpus.rationale_texts(row, column), strict=True)
        ]
        asked = np.unique(row)
        alone = np.zeros(len(corpus))
        alone[asked] = self._certainties(corpus, asked, [""] * len(asked))
        found = np.full(open_.shape, np.nan, np.float32)
        found[row, column] = self._certainties(corpus, row, texts) - alone[row]
        return found

    def _certainties(self, corpus: Corpus, rows: npt.NDArray[np.int64], rationales: list[str]) -> Floats:
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
            student, [prompts[i] for i in new], [targets[i] for i in new], [options[i] for i in new]
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
        copy._consensus = Consensus().restore(mine, teachers)
        return copy
