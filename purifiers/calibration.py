"""How far the probabilities of kept answers can be believed: expected calibration error, its noise, reliability curve.

The expected calibration error is above 0 for a perfect predictor too, the more so the fewer questions there are. So it
is told beside its *floor*, what a predictor with these very probabilities would show on average if they were all true;
and beside the root mean square error freed of that bias, after Kumar et al. (arXiv 1909.10155, section 5).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 10
DRAWS = 200

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Calibration:
    """See the module; all figures are in 0..1.

    Attributes:
        ece: expected calibration error, sum over bins of (share of questions) * |accuracy - mean probability|.
        floor: the mean of the same if each answer were right with just its probability.
        rms: root of the debiased mean square calibration error, 0 where noise explains all of it.
        brier: mean of (probability - right)**2.
        bins: per non-empty bin of equal width: mean probability, accuracy, number of questions.
    """

    ece: float
    floor: float
    rms: float
    brier: float
    bins: tuple[tuple[float, float, int], ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def calibration(probability: Floats, right: npt.NDArray[np.bool_], bins: int = BINS) -> Calibration:
    """Compare (Q,) probabilities with what happened (Guo et al., arXiv 1706.04599, equation 3)."""
    place = np.minimum((probability * bins).astype(np.int64), bins - 1)
    n = np.bincount(place, minlength=bins)
    some = n > 0
    n, said = n[some], np.bincount(place, probability, bins)[some] / n[some]
    was = np.bincount(place, right, bins)[some] / n
    total = max(len(right), 1)
    spread = np.where(n > 1, was * (1 - was) / np.maximum(n - 1, 1), (said - was) ** 2)
    square = float((((said - was) ** 2 - spread) * n).sum() / total)
    rng = np.random.default_rng(0)
    drawn = [np.bincount(place, rng.random(len(place)) < probability, bins)[some] / n for _ in range(DRAWS)]
    return Calibration(
        ece=float((np.abs(said - was) * n).sum() / total),
        floor=float((np.abs(said - np.array(drawn)) * n).sum() / total / DRAWS),
        rms=max(square, 0.0) ** 0.5,
        brier=float(((probability - right) ** 2).mean()),
        bins=tuple(zip(said.tolist(), was.tolist(), n.tolist(), strict=True)),
    )
