"""Figures of students over seeds: a mean with its interval, and the conflict mitigation value (CMV).

interval   95 % by Student's t of one value per seed; a seed fixes the weights a student starts from and the order of
           the questions, for all methods alike
CMV        arXiv 2602.01064: mean over m = 2..N of accuracy minus keep-all's with the same teachers, seed by seed. The
           paper does not print the formula; this reading fits its tables
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from math import atan, cos, pi, sin, sqrt
from statistics import fmean, stdev
from typing import Any

Accuracies = Mapping[tuple[tuple[str, ...], int], float]
"""A method's accuracy (0..1) by the teachers that it had, and the seed."""


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` seeds with its 95 % t interval; the bounds are None with fewer than two seeds."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval, for a picture; the mean itself where there is none."""
        return (self.mean, self.mean) if self.low is None or self.high is None else (self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval by Student's t of independent values, one per seed."""
    n, mean = len(values), fmean(values)
    if n < 2:
        return Estimate(mean, None, None, n)
    half = t95(n - 1) * stdev(values) / sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def cmv(mine: Accuracies, keep_all: Accuracies) -> Estimate | None:
    """Over the seeds that have every number of teachers (2 or more) that keep-all has; None if no seed has.

    Of several sets of as many teachers the mean counts.
    """
    sizes = {len(teachers) for teachers, _ in keep_all if len(teachers) > 1}
    gaps: dict[int, dict[int, list[float]]] = {}
    for (teachers, seed), accuracy in mine.items():
        if len(teachers) > 1 and (teachers, seed) in keep_all:
            gaps.setdefault(seed, {}).setdefault(len(teachers), []).append(accuracy - keep_all[teachers, seed])
    per_seed = [fmean(map(fmean, of.values())) for of in gaps.values() if of.keys() == sizes]
    return estimate(per_seed) if per_seed else None


def t_within(t: float, freedom: int) -> float:
    """P(|T| <= t) of Student's t with so many degrees of freedom; Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = atan(t / sqrt(freedom))
    odd = freedom % 2
    term, total = cos(angle) if odd else 1.0, 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cos(angle) ** 2 * (power + 1) / (power + 2)
    return 2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total


@cache
def t95(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, by bisection."""
    low, high = 1.0, 13.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, freedom) < 0.95 else (low, middle)
    return high
