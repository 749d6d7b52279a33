"""What a grid of students says: paired tests, and curves over nested teacher sets.

seeds       differences are taken seed by seed (`schemas.seeds`)
questions   the same difference question by question (mean over seeds), with a sign-flip permutation test and a
            bootstrap interval: would other questions say the same?
curve       accuracy by the number m of teachers; m = 1 is the same for every method: teachers alone
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.seeds import Estimate, estimate, t_within
from schemas.tables import ONE_TEACHER

Floats = npt.NDArray[np.float64]
RESAMPLES = 5000


@dataclass(frozen=True)
class Paired:
    """One method against another.

    Attributes:
        by_seed: difference, seed by seed.
        p_seed: of a paired t test over seeds; None with fewer than two seeds.
        low, high: 95 % bootstrap interval of the difference over questions.
        p_question: of a sign-flip permutation test over questions.
    """

    by_seed: Estimate
    p_seed: float | None
    low: float
    high: float
    p_question: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Cell:
    """One trained student, as far as statistics go: ``right`` is (questions,) booleans in the same order in all."""

    method: str
    teachers: tuple[str, ...]
    seed: int
    right: npt.NDArray[np.bool_]

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.right.mean())


def paired(mine: Sequence[Cell], others: Sequence[Cell], seed: int = 0) -> Paired | None:
    """Compare the cells of two methods that share a seed; None if none do.

    Args:
        mine: cells of one method and teacher set, one per seed.
        others: likewise of the other.
        seed: of the resampling.
    """
    other = {cell.seed: cell for cell in others}
    pairs = [(cell, other[cell.seed]) for cell in mine if cell.seed in other]
    if not pairs:
        return None
    by_seed = np.array([a.accuracy - b.accuracy for a, b in pairs])
    by_question = np.mean([a.right.astype(np.float64) - b.right for a, b in pairs], axis=0)
    low, high = _bootstrap(by_question, seed)
    return Paired(estimate(by_seed.tolist()), _t_test(by_seed), low, high, _sign_flips(by_question, seed))


def curves(cells: Iterable[Cell], sets: Sequence[tuple[str, ...]]) -> dict[str, dict[int, list[Cell]]]:
    """Method -> number of teachers -> its cells; with one teacher there is nothing to choose: those are shared.

    Args:
        cells: of one student and objective.
        sets: the teacher sets; methods that do not choose among teachers (fine-tuning, single teachers) have no curve,
            and none has one where all sets have as many teachers.
    """
    if len({len(teachers) for teachers in sets}) < 2:
        return {}
    cells = list(cells)
    alone = [c for c in cells if c.method.startswith(ONE_TEACHER) and c.teachers in sets]
    found: dict[str, dict[int, list[Cell]]] = {}
    for cell in cells:
        if len(cell.teachers) >= 2 and cell.teachers in sets:
            found.setdefault(cell.method, {}).setdefault(len(cell.teachers), []).append(cell)
    return {
        method: ({1: alone} if alone else {}) | dict(sorted(curve.items())) for method, curve in sorted(found.items())
    }


def by_seed(cells: Iterable[Cell]) -> list[float]:
    """A seed's accuracy; of several teacher sets the mean, which is one value all the same."""
    found: dict[int, list[float]] = {}
    for cell in cells:
        found.setdefault(cell.seed, []).append(cell.accuracy)
    return [fmean(values) for values in found.values()]


def accuracies(curve: Mapping[int, Sequence[Cell]]) -> dict[tuple[tuple[str, ...], int], float]:
    """The accuracy of each cell of a curve, as `schemas.seeds.cmv` wants it."""
    return {(cell.teachers, cell.seed): cell.accuracy for cells in curve.values() for cell in cells}


def _bootstrap(differences: Floats, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean over resampled questions."""
    random = np.random.default_rng(seed)
    n = len(differences)
    values, counts = np.unique(differences, return_counts=True)  # few distinct values: a resample is a multinomial draw
    means = random.multinomial(n, counts / n, RESAMPLES) @ values / n
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _sign_flips(differences: Floats, seed: int) -> float:
    """Two-sided p of the mean being this far from 0 if each question's sign were a coin; the +1 counts the data."""
    size, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    if not len(size):
        return 1.0
    heads = np.random.default_rng(seed).binomial(counts, 0.5, (RESAMPLES, len(counts)))
    totals = np.abs((2 * heads - counts) @ size)
    return float((1 + (totals >= abs(differences.sum()) - 1e-9).sum()) / (RESAMPLES + 1))


def _t_test(differences: Floats) -> float | None:
    """Two-sided p of a t test of the mean being 0; None with fewer than two values."""
    n = len(differences)
    if n < 2:
        return None
    spread = float(differences.std(ddof=1)) / sqrt(n)
    if spread == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return 1 - t_within(abs(float(differences.mean())) / spread, n - 1)
