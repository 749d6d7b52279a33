"""Students small enough to check by hand; they have the methods of `purifiers.equipment.Student`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np


class TableStudent:
    """Its losses are a function of prompt and target; what it is taught is kept and changes nothing."""

    def __init__(self, loss: Callable[[str, str], float]) -> None:
        self._loss = loss
        self.taught: list[tuple[str, str, float]] = []
        self.asked = 0

    name = "table"

    def loss(self, prompts: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        self.asked += len(prompts)
        return np.array([self._loss(p, t) for p, t in zip(prompts, targets, strict=True)], np.float32)

    def logprob(self, prompts: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        """One token to a target."""
        return -self.loss(prompts, targets)

    def learn(self, prompts: Sequence[str], targets: Sequence[str], weights: Sequence[float] | None = None) -> float:
        before = float(self.loss(prompts, targets).mean())
        self.taught += zip(prompts, targets, weights or [1.0] * len(prompts), strict=True)
        return before

    def fresh(self, seed: int) -> TableStudent:
        return self


class CountingStudent:
    """P(word) = (1 + how often it was taught) / (total + `WORDS`): the more a text is taught, the lower its loss."""

    WORDS = 1000

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    @property
    def name(self) -> str:
        return f"counts of {self.counts.total()} words"

    def loss(self, prompts: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        return np.array([-self._log(t) / max(len(t.split()), 1) for t in targets], np.float32)

    def logprob(self, prompts: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        return np.array([self._log(t) for t in targets], np.float32)

    def _log(self, text: str) -> float:
        total = self.counts.total() + self.WORDS
        return float(sum(np.log((1 + self.counts[word]) / total) for word in text.split()))

    def learn(self, prompts: Sequence[str], targets: Sequence[str], weights: Sequence[float] | None = None) -> float:
        before = float(self.loss(prompts, targets).mean())
        for target in targets:
            self.counts.update(target.split())
        return before

    def fresh(self, seed: int) -> CountingStudent:
        return CountingStudent()
