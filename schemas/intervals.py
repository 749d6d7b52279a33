"""How sure a share is."""

from __future__ import annotations

from math import sqrt

Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % score interval of the share ``right / n`` (Wilson 1927), ``n`` above 0.

    The shares p that the observed one is within `Z` of p's standard deviations of. Unlike an interval of resampled
    questions it has a width where all are right.
    """
    share, unit = right / n, Z * Z / n
    middle = (share + unit / 2) / (1 + unit)
    half = sqrt(unit * (share * (1 - share) + unit / 4)) / (1 + unit)
    return min(max(middle - half, 0.0), share), max(min(middle + half, 1.0), share)
