"""`keep-all`: no purification. Every usable rationale is kept, as TinyLLM (arXiv 2402.04616) trains on them.

The baseline that a purifier must beat. It publishes one row per question and teacher, so a student trained on it sees
each question as often as teachers answered it; TinyLLM gives each teacher an instruction of its own.
"""

from __future__ import annotations

import numpy as np

from purifiers.base import NO_RESPONSE, Purified, Purifier, Scores, Signal, only_usable
from schemas.corpus import Corpus
from schemas.tables import KEEP_ALL


class KeepAll(Purifier):
    """Keep every usable rationale, right or wrong: what purification is compared with."""

    name = KEEP_ALL
    signals = frozenset[Signal]()
    chooses = False

    def score(self, corpus: Corpus) -> Scores:
        """All alike."""
        return only_usable(np.zeros(corpus.usable.shape), corpus)

    def purify(self, corpus: Corpus) -> Purified:
        """Every usable rationale; a question without any is rejected."""
        empty = np.flatnonzero(~corpus.usable.any(axis=1))
        return Purified(
            teacher=np.full(len(corpus), -1),
            score=np.full(len(corpus), np.nan, np.float32),
            rejected=dict.fromkeys(empty.tolist(), NO_RESPONSE),
            every=corpus.usable,
        )
