"""Numeric transforms, stable hashing and moments: pure functions of arrays, used both when fitting and when encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from palate.types import Floats, Longs, Ragged

Doubles = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]

FNV_OFFSET = np.uint64(0xCBF29CE484222325)
FNV_PRIME = np.uint64(0x100000001B3)
# Up to so many (query, value) cells, all are kept: 64 MiB.
DENSE = 1 << 24


def signed_log(values: Doubles) -> Doubles:
    """sign(x) ln(1 + |x|): ln(1 + x) carried over to negative x as an odd function."""
    return np.sign(values) * np.log1p(np.abs(values))


def log_square(values: Doubles) -> Longs:
    """floor(ln(x)^2) where x > 2, else x cut towards zero: the buckets used for Criteo's integer columns.

    Juan, Zhuang, Chin, Lin: Field-aware Factorization Machines for CTR Prediction (RecSys 2016), the authors' preprocessing.
    NaN is not allowed.
    """
    large = values > 2
    logs = np.log(np.where(large, values, 1.0))
    return np.where(large, np.floor(logs * logs), np.trunc(values)).astype(np.int64)


def hash64(strings: pl.Series) -> Hashes:
    """FNV-1a (64 bit) of the UTF-8 bytes, then MurmurHash3's final mix so that the low bits are good too. uint64 [n]; null gives 0.

    Written out here because it must be the same in every run, on every machine and with every version of every library.
    Fowler, Noll, Vo: The FNV Non-Cryptographic Hash Algorithm. Cost: one pass over the bytes.
    """
    array = strings.cast(pl.String).rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    count = len(array)
    if not count:
        return np.zeros(0, dtype=np.uint64)
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int64)[array.offset : array.offset + count + 1]
    data = np.frombuffer(data_buffer, dtype=np.uint8) if data_buffer is not None else np.zeros(0, dtype=np.uint8)
    starts, lengths = offsets[:-1], np.diff(offsets)
    hashes = np.full(count, FNV_OFFSET, dtype=np.uint64)
    longest_first = np.argsort(-lengths, kind="stable")
    alive = np.searchsorted(-lengths[longest_first], -np.arange(int(lengths.max(initial=0))), side="left")
    for place, rows in enumerate(alive):
        here = longest_first[:rows]
        hashes[here] = (hashes[here] ^ data[starts[here] + place]) * FNV_PRIME
    hashes = mix(hashes)
    hashes[strings.is_null().to_numpy()] = 0
    return hashes


def mix(hashes: Hashes) -> Hashes:
    """The final mix of MurmurHash3 (fmix64, Appleby): a bijection of 64 bits in which every input bit moves every output bit."""
    hashes = hashes ^ (hashes >> np.uint64(33))
    hashes = hashes * np.uint64(0xFF51AFD7ED558CCD)
    hashes = hashes ^ (hashes >> np.uint64(33))
    hashes = hashes * np.uint64(0xC4CEB9FE1A85EC53)
    return hashes ^ (hashes >> np.uint64(33))


def crossed(parts: list[Hashes]) -> Hashes:
    """One hash for the conjunction of several; the order of the parts counts. uint64 [n]."""
    total = np.full(len(parts[0]), FNV_OFFSET, dtype=np.uint64)
    for part in parts:
        total = mix((total ^ part) * FNV_PRIME)
    return total


def segment_mean(values: npt.NDArray[np.floating], rows: Longs, count: int) -> Floats:
    """The mean of the values of each row; 0 for a row without values. float32 [count]."""
    sums = np.bincount(rows, weights=values, minlength=count)
    sizes = np.bincount(rows, minlength=count)
    return (sums / np.maximum(sizes, 1)).astype(np.float32)


def bag_matrix(bags: Ragged, width: int) -> sparse.csr_matrix:
    """How often each row's list holds each value in [0, width). float32 [rows, width]."""
    return sparse.csr_matrix((np.ones(len(bags.values), dtype=np.float32), bags.values, bags.offsets), shape=(len(bags), width))


def value_shares(history: Ragged, matrix: sparse.csr_matrix) -> Any:
    """For each query and value, the share of the history's items that have the value; 0 where the history is empty.

    history: item codes, B rows. matrix: the lists of the items, from `bag_matrix`. float32 [B, width], an array where there is room
    for one (a look-up in it is ten times quicker), else sparse.
    """
    weights = np.repeat(1 / np.maximum(history.lengths, 1).astype(np.float32), history.lengths)
    shares = sparse.csr_matrix((weights, history.values, history.offsets), shape=(len(history), matrix.shape[0])) @ matrix
    return shares.toarray() if shares.shape[0] * shares.shape[1] <= DENSE else shares


def affinity(shares: Any, bags: Ragged, rows: Longs, items: npt.NDArray[np.int32]) -> Floats:
    """How much of its history a query has in common with an item: the mean of the shares of the item's values; 0 if it has none.

    shares: of B queries, from `value_shares`. bags: the values of each item. Row r is (query rows[r], items[r]). float32 [R], in
    [0, 1] if no list repeats a value.
    """
    asked = bags.take(items)
    pairs = asked.rows
    return segment_mean(np.asarray(shares[rows[pairs], asked.values]).ravel(), pairs, len(items))


@dataclass
class Moments:
    """Count, mean and sum of squared deviations of a stream of numbers; NaN is passed over.

    A chunk, or another Moments, is added by the pairwise update: with d = mean_b - mean_a and n = n_a + n_b,
    mean = mean_a + d n_b / n and m2 = m2_a + m2_b + d^2 n_a n_b / n.
    Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample Variances (1979), eq. 2.1.
    """

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0

    def partial_fit(self, values: npt.NDArray[np.floating]) -> Moments:
        """Adds a chunk."""
        known = values[~np.isnan(values)].astype(np.float64)
        if len(known):
            mean = float(known.mean())
            self.merge(Moments(len(known), mean, float(np.square(known - mean).sum())))
        return self

    def merge(self, other: Moments) -> Moments:
        """Adds what another one saw."""
        total = self.count + other.count
        if total:
            delta = other.mean - self.mean
            self.m2 += other.m2 + delta * delta * self.count * other.count / total
            self.mean += delta * other.count / total
            self.count = total
        return self

    @property
    def deviation(self) -> float:
        """The standard deviation (of the population); 1 where all values are equal, so that dividing by it is harmless."""
        if not self.count:
            return 1.0
        deviation = float(np.sqrt(self.m2 / self.count))
        return deviation if deviation > 1e-12 * max(1.0, abs(self.mean)) else 1.0

    def standardise(self, values: npt.NDArray[np.floating]) -> Doubles:
        """(x - mean) / deviation; NaN stays NaN."""
        return (values.astype(np.float64) - self.mean) / self.deviation
