"""Which items a softmax is told are wrong, and with what probability. Numpy only.

A softmax over the whole catalogue costs N scores a query. A sampled softmax pays for a few negatives, drawn from a
distribution q over the items, and takes log q off each logit so that items drawn often are not pushed down for being drawn
often (see `palate.losses.sampled_softmax`). This file holds the distributions; q is float64 [N] and sums to one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from palate.types import Ints

Probabilities = npt.NDArray[np.float64]


def frequencies(items: Ints, n_items: int) -> Probabilities:
    """How likely each item is to sit in a training row: its share of the positive events. float64 [N].

    The q of in-batch negatives (Yi et al. 2019, section 4: "unigram" sampling; they estimate it from a stream, here the log is
    at hand and q is counted). Zero for an item without events, which no batch can hold.

    >>> frequencies(np.array([0, 0, 0, 2], dtype=np.int32), 3).tolist()
    [0.75, 0.0, 0.25]
    """
    counts = np.bincount(items, minlength=n_items).astype(np.float64)
    return counts / max(counts.sum(), 1.0)


def uniform(pool: npt.NDArray[np.bool_]) -> Probabilities:
    """The same probability for every item of the pool (bool [N]), zero outside. float64 [N].

    >>> uniform(np.array([True, False, True, True, True])).tolist()
    [0.25, 0.0, 0.25, 0.25, 0.25]
    """
    return pool / max(int(pool.sum()), 1)


def mixture(first: Probabilities, n_first: int, second: Probabilities, n_second: int) -> Probabilities:
    """The distribution of a set with `n_first` draws from one distribution and `n_second` from another. float64 [N].

        q*(i) = (n_first q1(i) + n_second q2(i)) / (n_first + n_second)

    Mixed negative sampling (Yang et al. 2020, "Mixed Negative Sampling for Learning Two-tower Neural Networks in
    Recommendations", section 3.3): a batch of B positives, which are unigram draws, beside B' uniform ones.

    >>> mixture(np.array([0.75, 0.25]), 2, np.array([0.5, 0.5]), 2).tolist()
    [0.625, 0.375]
    """
    return (n_first * first + n_second * second) / (n_first + n_second)


def log_probabilities(q: Probabilities) -> npt.NDArray[np.float32]:
    """log q, with -inf where q is zero (such an item is never drawn, so its correction is never used). float32 [N]."""
    with np.errstate(divide="ignore"):
        return np.log(q).astype(np.float32)


def draw_uniform(pool: Ints, size: int, rng: np.random.Generator) -> Ints:
    """`size` items of the pool (codes), each draw independent of the others. int32 [size].

    With replacement: the correction by log q is exact for independent draws.
    """
    return pool[rng.integers(0, len(pool), size=size)].astype(np.int32)
