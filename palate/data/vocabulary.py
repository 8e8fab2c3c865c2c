"""Vocabularies too large to count in memory: sorted runs of (key, count) on disk, merged range by range, and a quick lookup.

Keys are first mixed by a bijection, so that they are spread evenly whatever the raw values are: two keys never become one, ranges of equal
width hold about as many keys each, and the leading bits of a key nearly are its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from palate.types import Ints

PAD, RARE, FIRST = 0, 1, 2  # ids: missing; unknown or rare; the first value
MERGE = 4 << 20  # entries merged at a time
Keys = npt.NDArray[Any]  # uint32 or uint64


def mix(keys: Keys, seed: int = 0) -> Keys:
    """A bijection of the 32-bit or 64-bit numbers (the finalisers of MurmurHash3, Appleby 2011). seed: another bijection for each."""
    if keys.dtype == np.uint32:
        x = keys ^ np.uint32(seed * 0x9E3779B9 & 0xFFFFFFFF)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            x ^= x >> np.uint32(shift)
            x *= np.uint32(factor)
        x ^= x >> np.uint32(16)
        return x
    y = keys ^ np.uint64(seed * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        y ^= y >> np.uint64(33)
        y *= np.uint64(factor)
    y ^= y >> np.uint64(33)
    return y


def bucket(keys: Keys, buckets: int, column: int) -> Ints:
    """Hashed ids: FIRST + mix(key) mod buckets, another mix in each column. int32."""
    return (mix(keys, column + 1) % keys.dtype.type(buckets)).astype(np.int32) + np.int32(FIRST)


def counted(keys: Keys) -> tuple[Keys, npt.NDArray[np.uint32]]:
    """A run: the distinct keys, rising, and how often each stands there. `keys` is sorted in place."""
    keys.sort()
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, dtype=np.int64)
    return keys[starts], np.diff(starts, append=len(keys)).astype(np.uint32)


def frequent(runs: Sequence[tuple[Keys, npt.NDArray[np.uint32]]], least: int, kind: Any) -> Keys:
    """The keys that stand in all runs together at least `least` times, rising. Memory: MERGE entries and the result."""
    entries = sum(len(keys) for keys, _ in runs)
    if not entries:
        return np.zeros(0, dtype=kind)
    ranges = max(1, -(-entries // MERGE))
    width = 8 * np.dtype(kind).itemsize
    borders = [(place << width) // ranges for place in range(1, ranges)]
    cuts = [np.r_[0, np.searchsorted(keys, np.array(borders, dtype=kind)), len(keys)] for keys, _ in runs]
    kept: list[Keys] = []
    for place in range(ranges):
        keys = np.concatenate([np.asarray(run[0][cut[place] : cut[place + 1]]) for run, cut in zip(runs, cuts, strict=True)])
        counts = np.concatenate([np.asarray(run[1][cut[place] : cut[place + 1]]) for run, cut in zip(runs, cuts, strict=True)])
        if not len(keys):
            continue
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        sums = np.add.reduceat(counts[order].astype(np.int64), starts)
        kept.append(keys[starts[sums >= least]])
    return np.concatenate(kept).astype(kind) if kept else np.zeros(0, dtype=kind)


class Vocabulary:
    """Mixed keys, rising -> ids FIRST, FIRST + 1, ...; any other key is RARE.

    A key's leading bits point at the few keys that share them; those are looked at one after another. Memory: a key and 4 bytes a value.
    """

    def __init__(self, keys: Keys) -> None:
        self.size = len(keys)
        bits = max(1, (max(self.size, 1) - 1).bit_length())
        self.shift = keys.dtype.type(8 * keys.dtype.itemsize - bits)
        self.starts = np.zeros((1 << bits) + 1, dtype=np.int32)
        np.cumsum(np.bincount((keys >> self.shift).astype(np.int64), minlength=1 << bits), out=self.starts[1:])
        self.keys = np.append(keys, np.iinfo(keys.dtype).max)  # where the search of what lies behind the last key ends

    def ids(self, keys: Keys) -> Ints:
        """int32, one for each raw key."""
        mixed = mix(keys)
        at: Ints = self.starts[(mixed >> self.shift).astype(np.int64)]
        there = self.keys[at]
        left = np.flatnonzero(there < mixed)
        while len(left):
            at[left] += 1
            next_ones = self.keys[at[left]]
            there[left] = next_ones
            left = left[next_ones < mixed[left]]
        found = there == mixed
        found &= at < self.size
        at += FIRST
        at[~found] = RARE
        return at
