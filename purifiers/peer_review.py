"""`peer-review`: each teacher scores the rationales of the others from 1 to 5; the best mean is kept.

FAIR (arXiv 2410.03663): a rationale is kept if the mean of its valid scores is above a threshold (3 there), gold shown
to the judges. Where we depart: one rationale per question is kept, the one with the highest mean; gold is hidden unless
``gold``; judges other than the teachers can be named. Nobody scores a rationale of its own, nor a copy of it.

Since nobody scores itself, a strict judge lowers everybody's mean but its own; ``centred`` takes each judge's mean over
all its scores out first. Equal means fall by a hash.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from pydantic import Field

from builders.asker import Call
from purifiers.asking import Asked, Judged, best_of, blocks, written
from purifiers.base import Purified, Scores
from purifiers.verdicts import score as read_score
from schemas.corpus import Corpus

NO_SCORE = "no judge gave a readable score"


class PeerReview(Judged):
    """The teachers score each other's rationales from 1 to 5; the highest mean is kept."""

    name = "peer-review"

    threshold: float = Field(0.0, ge=0, le=5, description="reject where the best mean is not above it (FAIR: 3)")
    centred: bool = Field(False, description="take out each judge's own mean, so that strictness does not count")

    def score(self, corpus: Corpus) -> Scores:
        """Mean score of each rationale, 1..5 (with ``centred``, shifted per judge); NaN without a readable score."""
        judges = self.judges_of(corpus, 1)
        grid = np.full((len(judges), *corpus.usable.shape), np.nan)  # (J, Q, T)
        for block, share in blocks(corpus, self.seed):
            asked = list(self._asked(block, judges, corpus))
            for (j, row, columns, _), said in zip(asked, self.ask([call for *_, call in asked], share), strict=True):
                value = read_score(said.text) if said.text is not None else None
                if value is not None:
                    said.verdict = f"{value:g}"
                    grid[j, row, list(columns)] = value
        return mean_score(grid, centred=self.centred)

    def purify(self, corpus: Corpus) -> Purified:
        """Keep the highest mean, if it is above the threshold."""
        scores = self.score(corpus)
        kept = best_of(scores, corpus, self.seed, NO_SCORE)
        low = kept.score <= self.threshold if self.threshold else np.zeros(len(scores), np.bool_)
        why = dict.fromkeys(np.flatnonzero(low).tolist(), f"no rationale has a mean score above {self.threshold:g}")
        teacher, score = np.where(low, -1, kept.teacher), np.where(low, np.float32(np.nan), kept.score)
        return Purified(teacher, score, rejected={**kept.rejected, **why})

    def _asked(
        self, block: list[Asked], judges: list[str], corpus: Corpus
    ) -> Iterator[tuple[int, int, tuple[int, ...], Call]]:
        """Number of the judge, row, columns of the rationale, and the call."""
        template = self.template()
        for q in block:
            gold = q.gold if self.gold else None
            for candidate in q.candidates:
                authors = {corpus.teachers[c] for c in candidate.columns}
                messages = self.render(
                    template, q.question, rationales=[candidate.shown(q.task)], gold=written(gold, q.task)
                )
                about = (corpus.teachers[candidate.columns[0]],)
                for j, judge in enumerate(judges):
                    if judge not in authors:
                        call = Call(judge, q.id, "score", messages, about, gold_shown=gold is not None)
                        yield j, q.row, candidate.columns, call


def mean_score(grid: npt.NDArray[np.float64], *, centred: bool) -> Scores:
    """(Q, T) mean over judges of (J, Q, T) scores; NaN is no score. Centred: each judge's mean is made that of all."""
    if centred:
        means = _nanmean(grid.reshape(len(grid), -1), axis=1)
        grid = grid - means[:, None, None] + _nanmean(grid.reshape(1, -1), axis=1)
    return _nanmean(grid, axis=0).astype(np.float32)


def _nanmean(values: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
    """`numpy.nanmean`, NaN without a warning where there is nothing."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total: npt.NDArray[np.float64] = np.where(known, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
