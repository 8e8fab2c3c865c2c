"""How sure a difference between two systems is, from the users it was measured on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def paired_bootstrap(differences: Doubles, *, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> tuple[Doubles, Doubles]:
    """Percentile intervals of mean differences; every row is measured on the same resampled users. low [M], high [M].

    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13. differences: [M, B], one column a user. The users are
    drawn B out of B with replacement; the interval holds for other users of this kind, not for other training runs. Cost: resamples x B.
    """
    b = differences.shape[1]
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, len(differences)))
    size = max(1, (1 << 22) // max(b, 1))
    for start in range(0, resamples, size):
        count = min(size, resamples - start)
        drawn = rng.integers(0, b, size=(count, b)) + np.arange(count)[:, None] * b
        times = np.bincount(drawn.ravel(), minlength=count * b).reshape(count, b)
        means[start : start + count] = times @ differences.T / b
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
