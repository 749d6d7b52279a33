"""`majority`: keep a rationale of the answer that most teachers reached."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from purifiers.base import NO_RESPONSE, Purified, Purifier, Scores, Signal, choose, only_usable
from purifiers.votes import noise, votes
from schemas.corpus import UNREAD, Corpus

NO_ANSWER = "no teacher's answer could be read"


class Majority(Purifier):
    """Plain vote over the read answers, label-free and without fitting.

    score = share of the read answers that equal the teacher's. Ties between answers, and the choice among the
    teachers that reached the winning one, fall by a hash of seed, question and teacher.
    """

    name = "majority"
    signals = frozenset({Signal.ANSWERS})

    seed: int = Field(0, description="breaks ties")

    def score(self, corpus: Corpus) -> Scores:
        """Vote share in 0..1; NaN where the rationale is unusable or its answer unread."""
        n = np.maximum((corpus.answer != UNREAD).sum(axis=1, keepdims=True), 1)
        return only_usable(np.where(corpus.answer == UNREAD, np.nan, votes(corpus) / n), corpus)

    def purify(self, corpus: Corpus) -> Purified:
        """Break ties by `noise`; tell unread answers from missing responses."""
        kept = choose(self.score(corpus), ties=noise(corpus, self.seed))
        heard = np.asarray(corpus.usable.any(axis=1))
        reasons = {row: NO_ANSWER if heard[row] else NO_RESPONSE for row in kept.rejected}
        return Purified(kept.teacher, kept.score, rejected=reasons)
