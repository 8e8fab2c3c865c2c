"""Which items a softmax is told are wrong, and with what probability. Numpy only.

A softmax over the whole catalogue costs N scores a query. A sampled softmax pays for a few negatives, drawn from a
distribution q over the items, and takes log q off each logit so that items drawn often are not pushed down for being drawn
often (see `palate.losses.sampled_softmax`). This file holds the distributions (q is float64 [N] and sums to one), their estimate
from a stream, and negatives of a row's own: impressions not clicked, and what the index brings though it is not wanted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from palate.types import NOTHING, ConfigError, Ints, Longs, Ragged, offsets_of

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


# -- more distributions ------------------------------------------------------------------------------------------------------------


def powered(q: Probabilities, alpha: float) -> Probabilities:
    """Popularity to a power: proportional to q^alpha over the items with q > 0. float64 [N].

        q_alpha(i) = q(i)^alpha / sum_j q(j)^alpha

    alpha = 1 is q itself, 0 is uniform over the items that occur, 3/4 is that of Mikolov et al. 2013, "Distributed Representations of
    Words and Phrases and their Compositionality", section 2.2.

    >>> powered(np.array([0.8, 0.2, 0.0]), 0.5).round(4).tolist()
    [0.6667, 0.3333, 0.0]
    """
    raised = np.where(q > 0, np.power(q, alpha, where=q > 0, out=np.zeros_like(q)), 0.0)
    return raised / max(raised.sum(), np.finfo(np.float64).tiny)


def draw(cumulative: Probabilities, size: int | tuple[int, ...], rng: np.random.Generator) -> Ints:
    """Independent draws of items from the distribution whose running sums are given (`np.cumsum(q)`). int32 of shape `size`.

    By inversion: the first item whose running sum exceeds a uniform number. Cost: O(log N) a draw.
    """
    return np.searchsorted(cumulative, rng.random(size) * cumulative[-1], side="right").astype(np.int32)


# -- frequencies from a stream -----------------------------------------------------------------------------------------------------

_MULTIPLIERS = (2_654_435_761, 2_246_822_519, 3_266_489_917, 668_265_263)
"""Large odd numbers: multiplying by one modulo 2^32 is a permutation whose upper bits depend on all bits below."""


def slots(codes: Any, size: int, hashes: int = 1) -> list[Any]:
    """Where items are kept in `hashes` arrays of `size` places each. codes: int64, array or tensor; one of the same shape an array.

    The first hash function is the code modulo `size`, so that an array with a place for every item has no collisions; the others
    multiply first, and spread items that collide there.
    """
    if not 1 <= hashes <= len(_MULTIPLIERS):
        raise ConfigError(f"hashes: expected 1 to {len(_MULTIPLIERS)}, got {hashes}")
    return [codes % size] + [((codes * multiplier) % (1 << 32)) * size >> 32 for multiplier in _MULTIPLIERS[1:hashes]]


def observe(last: Any, gap: Any, places: Any, step: int, rate: float) -> None:
    """A batch of items has been seen at step `step`: updates, in place, when each was last seen and how far apart its sightings are.

        B[h(y)] <- (1 - rate) B[h(y)] + rate (t - A[h(y)]),     A[h(y)] <- t            and then   p(y) = 1 / B[h(y)]

    Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", algorithm 2: p(y) is the probability
    that a batch holds y, an item twice in a batch is one sighting. The mean gap follows a drifting stream; its error shrinks with
    `rate`, and so does the speed with which it forgets. What B starts from weighs (1 - rate)^n after n sightings.

    last (A), gap (B): of one length, arrays or tensors; last starts at 0, steps at 1. places: h(y) of the batch, each once.
    """
    gap[places] = (1 - rate) * gap[places] + rate * (step - last[places])
    last[places] = step


class StreamingFrequency:
    """How likely a batch is to hold each item, learnt from the batches as they pass: `observe` over one or several hashed arrays.

    With several hash functions the least estimate counts, p(y) = 1 / max_k B_k[h_k(y)]: items that share a place make each other look
    more frequent, and hardly share all (Yi et al. 2019, algorithm 3). size: places in each array. start: the mean gap assumed of an
    item never seen, in steps. Memory: 2 numbers a place and hash function, whatever the number of items.
    """

    def __init__(self, size: int, *, rate: float = 0.01, start: float = 100.0, hashes: int = 1) -> None:
        if not 0 < rate <= 1:
            raise ConfigError(f"rate: expected a number in (0, 1], got {rate}")
        self.size, self.rate, self.hashes, self.step = size, rate, hashes, 0
        self.last = np.zeros((hashes, size), dtype=np.int64)
        self.gap = np.full((hashes, size), start, dtype=np.float64)

    def update(self, codes: Ints) -> None:
        """One batch of items, int [B]."""
        self.step += 1
        for row, places in enumerate(slots(codes.astype(np.int64), self.size, self.hashes)):
            observe(self.last[row], self.gap[row], np.unique(places), self.step, self.rate)

    def probabilities(self, codes: Ints) -> Probabilities:
        """p of each item: float64, same shape as codes."""
        gaps = [self.gap[row][places] for row, places in enumerate(slots(codes.astype(np.int64), self.size, self.hashes))]
        return np.asarray(1.0 / np.maximum(np.maximum.reduce(gaps), 1e-12))


# -- negatives of a row's own ------------------------------------------------------------------------------------------------------


def shown_not_wanted(shown: tuple[Ints, Ints], wanted: tuple[Ints, Ints], n_users: int, n_items: int) -> Ragged:
    """Impression negatives: for each user, the items that were shown and never wanted, each once, by code. U rows.

    shown, wanted: user codes and item codes of the events. An item shown on Monday and wanted on Friday is no negative. These are the
    negatives a system meets where it must choose (Covington et al. 2016, section 4; Huang et al. 2020, "Embedding-based Retrieval in
    Facebook Search", section 2.1, who warn of training retrieval on nothing else: mix them with easy ones).

    >>> ones = np.array
    >>> shown_not_wanted((ones([0, 0, 1, 0]), ones([4, 2, 4, 2])), (ones([0]), ones([4])), 2, 5).values.tolist()
    [2, 4]
    """
    keys = np.unique(shown[0].astype(np.int64) * n_items + shown[1])
    keys = keys[~np.isin(keys, wanted[0].astype(np.int64) * n_items + wanted[1])]
    users, items = np.divmod(keys, max(n_items, 1))
    return Ragged(offsets_of(np.bincount(users, minlength=n_users)), items.astype(np.int32))


def draw_of_each(bags: Ragged, rows: npt.NDArray[Any], size: int, rng: np.random.Generator) -> Ints:
    """`size` independent draws from the bag of each row; NOTHING where the bag is empty. int32 [len(rows), size]."""
    lengths = bags.lengths[rows]
    if not len(bags.values):
        return np.full((len(rows), size), NOTHING, dtype=np.int32)
    places = bags.offsets[:-1][rows][:, None] + (rng.random((len(rows), size)) * lengths[:, None]).astype(np.int64)
    drawn = bags.values[np.minimum(places, len(bags.values) - 1)]
    return np.where(lengths[:, None] > 0, drawn, NOTHING).astype(np.int32)


def hardest(found: Ints, positives: Ints, size: int, skip: int = 0) -> Ints:
    """Hard negatives from what an index brought for each query, best first: the first `size` after the `skip` best. int32 [B, size].

    found: int [B, K], NOTHING at the end; K >= skip + size + 1 lets every row be full. positives: int [B], left out wherever it stands,
    before anything is skipped. Rows with too few end in NOTHING. The very best are often wanted too, only not yet: `skip` leaves them
    out (Huang et al. 2020, "Embedding-based Retrieval in Facebook Search", section 6.1, take ranks 101-500).

    >>> hardest(np.array([[7, 3, 5, 2]]), np.array([3]), size=2, skip=1).tolist()
    [[5, 2]]
    """
    kept = (found != positives[:, None]) & (found != NOTHING)
    order = np.argsort(~kept, axis=1, kind="stable")
    ordered = np.where(np.take_along_axis(kept, order, 1), np.take_along_axis(found, order, 1), NOTHING)
    taken = np.full((len(found), size), NOTHING, dtype=np.int32)
    part = ordered[:, skip : skip + size]
    taken[:, : part.shape[1]] = part
    return taken


class Wanted:
    """Which (user, item) pairs are positive: so that no negative of a user is one of their positives.

    users, items: codes of the events. Memory: 8 bytes a distinct pair.
    """

    def __init__(self, users: Ints, items: Ints, n_users: int, n_items: int) -> None:
        self.n_items = n_items
        # Sorted and thinned: many times quicker than np.unique, which hashes whole numbers.
        keys: Longs = np.sort(users.astype(np.int64) * n_items + items)
        self.keys: Longs = keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]
        rows, codes = np.divmod(self.keys, max(n_items, 1))
        self.of_user = Ragged(offsets_of(np.bincount(rows, minlength=n_users)), codes.astype(np.int32))

    def among(self, users: Ints, items: Ints) -> npt.NDArray[np.bool_]:
        """For users [B] and items all share [S]: bool [B, S]. Cost: B S, and the histories of these users."""
        distinct, back = np.unique(items, return_inverse=True)
        column = np.full(self.n_items, -1, dtype=np.int64)
        column[distinct] = np.arange(len(distinct))
        histories = self.of_user.take(users)
        columns = column[histories.values]
        known = columns >= 0
        hits = np.zeros((len(users), len(distinct)), dtype=bool)
        hits[histories.rows[known], columns[known]] = True
        return np.asarray(hits[:, back])

    def each(self, users: Ints, items: Ints) -> npt.NDArray[np.bool_]:
        """For users [B] and items of each [B, S]: bool [B, S]. Cost: B S bisections of the pairs."""
        keys = users.astype(np.int64)[:, None] * self.n_items + items
        if not len(self.keys):
            return np.zeros(items.shape, dtype=bool)
        return np.asarray(self.keys[np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)] == keys)
