"""`utility`: explain only where it pays, and never where it harms.

Saha, Hase and Bansal, "Can language models teach weaker agents?" (arXiv 2306.09299): the utility of an explanation is

    u(q) = p(gold | q, explanation) - p(gold | q)

by the student's probabilities of the options, and only the share ``budget`` of the questions with the highest utility
is explained. Here each labelled question has the utility of its best rationale, and ``budget`` is a share of those that
have a candidate. The others are rejected, so that a trainer learns their answer alone: with a reason of its own where
u < 0, where no rationale of it helps.

The threshold is that of the train questions seen by `fit`, so that one question's fate does not hang on which others
are judged beside it; a student that is warmed up has seen these, too, and gains less there than where it has not.

Where we depart: utilities are the student's own, not a teacher's guess at them from a few examples.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field

from purifiers.base import Scores
from purifiers.comprehension import Comprehension
from schemas.corpus import Corpus

HARMS = "every rationale lowers the student's probability of gold"


class Utility(Comprehension):
    """The gain of `comprehension`, under a budget: rationales only where they help most; needs a student."""

    name = "utility"

    options: bool = Field(True, description="probability among the options; off: of gold's tokens, fewer passes")
    budget: float = Field(1.0, gt=0, le=1, description="share of the questions with a candidate that may keep it")

    def fit(self, corpus: Corpus) -> Self:
        """Find the utility that the budget asks for, beside what `Comprehension.fit` does."""
        copy = super().fit(corpus)
        best = _best(copy.gains(corpus.take(np.flatnonzero(corpus.labelled))))
        known = best[~np.isnan(best)]
        least = float(np.quantile(known, 1 - self.budget)) if len(known) and self.budget < 1 else -np.inf
        copy._learned = {"least": np.array([least])}
        return copy

    def _left_out(self, part: Corpus, gains: Scores) -> dict[int, str]:
        found = super()._left_out(part, gains)
        best, least = _best(gains), float(self.learned("least")[0])
        outside = f"outside the budget: its utility is not among the highest {self.budget:g}"
        for i in np.flatnonzero(~np.isnan(best)).tolist():
            if best[i] < 0:
                found[i] = HARMS
            elif best[i] < least:
                found[i] = outside
        return found


def _best(gains: Scores) -> Scores:
    """(Q,) highest gain of each question, NaN where there is no candidate."""
    top = np.where(np.isnan(gains), -np.inf, gains).max(axis=1, initial=-np.inf)
    return np.where(np.isfinite(top), top, np.nan).astype(np.float32)
