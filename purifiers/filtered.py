"""`filtered`: keep what is bad in itself out of the pool, then let another method choose.

What is never in the pool anyway: failed, truncated and refused replies, and empty rationales. Answers of rationales
that are taken out still count as votes; it is their text that nobody should learn from.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from pydantic import Field

from purifiers.audit import contradicts
from purifiers.base import Purified, Scores, Signal
from purifiers.combined import Combined, Inner
from schemas.corpus import Corpus
from schemas.errors import MissingExtraError

WORDS = 6
"""Words in a run that counts as repeated when it has been said before."""
WHY = "every rationale of it was filtered out"

Bools = npt.NDArray[np.bool_]


class Filtered(Combined):
    """Rationales that repeat themselves, contradict their own answer or are in another language are left out first."""

    name = "filtered"
    signals = frozenset({Signal.RATIONALES, Signal.QUESTION, Signal.ANSWERS})

    chooser: Inner = Field("consensus", description="method that chooses: a name, or {method: NAME, setting: ...}")
    repeating: float = Field(0.5, ge=0, le=1, description="most share of words in runs said before; 1 = any")
    contradicting: bool = Field(True, description="leave out what supports another option than its own answer")
    language: str | None = Field(None, description="ISO code that rationales must be in, such as en (needs [verify])")

    def inner(self) -> dict[str, Inner]:
        """The one that chooses."""
        return {"chooser": self.chooser}

    def fit(self, corpus: Corpus) -> Filtered:
        """Fit the chooser on what is left."""
        return super().fit(self._left(corpus))

    def score(self, corpus: Corpus) -> Scores:
        """The chooser's; NaN for what is left out."""
        return self._parts["chooser"].score(self._left(corpus))

    def purify(self, corpus: Corpus) -> Purified:
        """What the chooser keeps of the rest; a question of which nothing is left is rejected with that reason."""
        left = self._left(corpus)
        kept = self._parts["chooser"].purify(left)
        emptied = set(np.flatnonzero(corpus.usable.any(axis=1) & ~left.usable.any(axis=1)).tolist())
        return replace(kept, rejected={r: WHY if r in emptied else why for r, why in kept.rejected.items()})

    def _left(self, corpus: Corpus) -> Corpus:
        row, column = np.nonzero(corpus.usable)
        texts = corpus.rationale_texts(row, column)
        bad = np.array([repeated(text) > self.repeating for text in texts], np.bool_)
        if self.contradicting and len(row):
            bad |= np.array(contradicts(corpus.take(row), corpus.answer[row, column], texts), np.bool_)
        if self.language is not None:
            bad |= _foreign(texts, self.language)
        usable = corpus.usable.copy()
        usable[row[bad], column[bad]] = False
        return replace(corpus, usable=usable)


def repeated(text: str) -> float:
    """Share of a text's runs of `WORDS` words that it has said before; 0 for a short one."""
    words = text.lower().split()
    runs = [tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _foreign(texts: list[str], language: str) -> Bools:
    try:
        import py3langid
    except ImportError:
        raise MissingExtraError("telling languages apart", "verify") from None
    return np.array([py3langid.classify(text)[0] != language for text in texts], np.bool_)
