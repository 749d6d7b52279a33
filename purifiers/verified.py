"""`verified`: where gold is known, only rationales whose teacher reached it; where it is not, `consensus`.

Among right rationales the most typical one is kept: the one whose vector is closest to the mean of the right ones (one
that reached gold by an odd way, or by luck, stands apart). With ``encoder`` null it is the one whose words support the
answer best, which needs no model.

A labelled train question that nobody got right is rejected. Asking a teacher again with the gold answer shown
(rationalisation) is not done here: it needs a running teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, PrivateAttr

from purifiers.base import Purified, Purifier, Scores, Signal
from purifiers.consensus import Consensus
from purifiers.encoder import DEFAULT_ENCODER, embed
from purifiers.gold_first import NOBODY_RIGHT
from purifiers.words import own_support, read
from schemas.corpus import Corpus


class Verified(Purifier):
    """Right rationales by gold, the most typical of them; consensus where gold is hidden or unknown."""

    name = "verified"
    signals = frozenset({Signal.GOLD, Signal.ANSWERS, Signal.QUESTION, Signal.RATIONALES})
    learns = True

    encoder: str | None = Field(DEFAULT_ENCODER, description="encoder of the rationales; null = choose by their words")
    threshold: float = Field(0.0, ge=0, le=1, description="without gold: reject below this probability")

    _consensus: Consensus = PrivateAttr(default_factory=lambda: Consensus())  # noqa: PLW0108

    def fit(self, corpus: Corpus) -> Self:
        """Fit the consensus for the questions without gold."""
        copy = self.restore({}, corpus.teachers)
        copy._consensus = Consensus(threshold=self.threshold).fit(corpus)
        return copy

    def score(self, corpus: Corpus) -> Scores:
        """Where gold is known: 1 plus the typicality of a right rationale, NaN for others; else the probability."""
        scores = self._consensus.score(corpus.hide_gold())
        labelled = np.flatnonzero(corpus.labelled)
        scores[labelled] = self._right_ones(corpus.take(labelled))
        return scores

    def purify(self, corpus: Corpus) -> Purified:
        """Keep the most typical right rationale; see the class."""
        kept = self._consensus.purify(corpus.hide_gold())
        labelled = np.flatnonzero(corpus.labelled)
        scores = self._right_ones(corpus.take(labelled))
        solved = ~np.isnan(scores).all(axis=1)
        best = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1)
        kept.teacher[labelled] = np.where(solved, best, -1)
        kept.score[labelled] = np.where(solved, scores[np.arange(len(best)), best], np.nan)
        rejected = {r: why for r, why in kept.rejected.items() if not corpus.labelled[r]}
        heard = np.asarray(corpus.usable.any(axis=1))
        for row in labelled[~solved].tolist():
            rejected[row] = NOBODY_RIGHT if heard[row] else kept.rejected[row]
        return Purified(kept.teacher, kept.score, kept.probabilities, rejected)

    def _right_ones(self, corpus: Corpus) -> Scores:
        """(Q, T) 1 + typicality (or support) of each right rationale, NaN elsewhere."""
        right = corpus.usable & (corpus.correct == 1)
        several = np.flatnonzero(right.sum(axis=1) > 1)
        scores = np.where(right, 1.0, np.nan)
        if len(several):
            part = corpus.take(several)
            own = own_support(read(part)) if self.encoder is None else self._typical(part, right[several])
            scores[several] += own
        return scores.astype(np.float32)

    def _typical(self, corpus: Corpus, right: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        row, column = np.nonzero(right)
        vectors = embed(corpus.rationale_texts(row, column), self.encoder or DEFAULT_ENCODER)
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


def typicality(vectors: npt.NDArray[np.float32], question: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """(N,) closeness in 0..1, (1 + cosine) / 2, of each unit vector to the mean of its question's vectors."""
    total = np.zeros((int(question.max()) + 1, vectors.shape[1]))
    np.add.at(total, question, vectors)
    mean = total[question]
    cosine = (vectors * mean).sum(axis=1) / np.linalg.norm(mean, axis=1).clip(1e-12)
    closeness: npt.NDArray[np.float64] = (1 + cosine) / 2
    return closeness
