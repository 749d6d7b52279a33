"""`gate`: one method where enough teachers agree, another elsewhere."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import Field

from purifiers.base import Purified, Scores, Signal
from purifiers.combined import Combined, Inner
from purifiers.run import merge
from purifiers.votes import votes
from schemas.corpus import Corpus


class Gate(Combined):
    """``first`` where ``agree`` or more teachers give the same answer, ``otherwise`` the other method.

    Where answers agree they are likely right, and nothing is left but to take the best rationale; where every teacher
    says something else, what the question is about may be the only thing to go by.
    """

    name = "gate"
    signals = frozenset({Signal.ANSWERS})

    agree: int = Field(2, gt=1, description="teachers that must give the same answer")
    first: Inner = Field("consensus", description="method where they do: a name, or {method: NAME, setting: ...}")
    otherwise: Inner = Field("similarity", description="method where they do not")

    def inner(self) -> dict[str, Inner]:
        """Both."""
        return {"first": self.first, "otherwise": self.otherwise}

    def score(self, corpus: Corpus) -> Scores:
        """The scores of the method that a question goes to; those of two questions may not be comparable."""
        scores = np.full(corpus.usable.shape, np.nan, np.float32)
        for key, rows in self._rows(corpus):
            scores[rows] = self._parts[key].score(corpus.take(rows))
        return scores

    def purify(self, corpus: Corpus) -> Purified:
        """What the method that a question goes to keeps of it."""
        return merge(len(corpus), [(rows, self._parts[k].purify(corpus.take(rows))) for k, rows in self._rows(corpus)])

    def _rows(self, corpus: Corpus) -> list[tuple[str, npt.NDArray[np.int64]]]:
        most = votes(corpus).max(axis=1, initial=0)
        split = {"first": np.flatnonzero(most >= self.agree), "otherwise": np.flatnonzero(most < self.agree)}
        return [(key, rows) for key, rows in split.items() if len(rows)]
