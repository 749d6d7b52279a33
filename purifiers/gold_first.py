"""`gold-first`: a rationale whose teacher was right; without gold the vote, ties to the better teacher."""

from __future__ import annotations

import numpy as np

from purifiers.base import NO_RESPONSE, Purified, Scores, Signal, choose, only_usable
from purifiers.best_teacher import BestTeacher, by_teacher
from purifiers.majority import NO_ANSWER
from purifiers.votes import noise, votes
from schemas.corpus import UNREAD, Corpus

NOBODY_RIGHT = "no teacher was right"


class GoldFirst(BestTeacher):
    """Take a rationale that led its teacher to gold; among several, the teacher with the best accuracy on train.

    A labelled train question that no teacher got right is rejected: its rationales argue for a wrong answer. Where
    gold is hidden (validation, test) or unknown, keep the answer with most votes; equal votes, and the choice among
    the teachers with that answer, fall to the better accuracy on train.
    """

    name = "gold-first"
    signals = frozenset({Signal.GOLD, Signal.ANSWERS})
    learns = True

    def score(self, corpus: Corpus) -> Scores:
        """Votes plus accuracy on train (0..1, it breaks ties); NaN where unread, or known to be wrong."""
        ranked = by_teacher(self.learned("accuracy"), self._teachers, corpus, missing=0.0)
        wrong = corpus.labelled[:, None] & (corpus.correct != 1)
        score = np.where(wrong | (corpus.answer == UNREAD), np.nan, votes(corpus) + 0.999 * ranked)
        return only_usable(score, corpus)

    def purify(self, corpus: Corpus) -> Purified:
        """Break ties by `noise`; tell wrong and unread answers from missing responses."""
        kept = choose(self.score(corpus), ties=noise(corpus, 0))
        heard = np.asarray(corpus.usable.any(axis=1))
        unsolved = np.where(corpus.labelled, NOBODY_RIGHT, NO_ANSWER)
        reasons = {r: str(unsolved[r]) if heard[r] else NO_RESPONSE for r in kept.rejected}
        return Purified(kept.teacher, kept.score, rejected=reasons)
