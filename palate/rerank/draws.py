"""Numbers drawn for a request: the same for the same request, whatever else is in the batch and wherever it is computed.

Counter-based, as in J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): a number is a hash of who asks and what
it is for, so that no generator has a state to carry along. The hash is the finaliser of SplitMix64 (G. L. Steele, D. Lea, C. H. Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from palate.rerank.brought import seeds
from palate.types import Queries

Doubles = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]

_GOLDEN = np.array([0x9E3779B97F4A7C15], dtype=np.uint64)
_ONE, _TWO = np.array([0xBF58476D1CE4E5B9], dtype=np.uint64), np.array([0x94D049BB133111EB], dtype=np.uint64)


def request_keys(queries: Queries, seed: int) -> Keys:
    """uint64 [B]: of the policy's seed, and of each query its user, moment, history and the seed that it brings (`palate.seed`)."""
    lengths = queries.history.lengths
    places = np.arange(len(queries.history.values)) - np.repeat(queries.history.offsets[:-1], lengths)
    past = np.zeros(len(queries), dtype=np.uint64)
    np.add.at(past, queries.history.rows, _mixed(_mixed(_words(queries.history.values)) + _words(places)))
    keys = _mixed(np.full(len(queries), seed, dtype=np.int64).view(np.uint64))
    for part in (_words(queries.users), _words(queries.now), past, _words(seeds(queries))):
        keys = _mixed(keys ^ _mixed(part))
    return keys


def uniforms(keys: Keys, counters: npt.NDArray[Any], stream: int = 0) -> Doubles:
    """Independent numbers within (0, 1), float64 [B, M]: one for each key [B] and counter [B, M] or [M]. stream: for several such
    tables."""
    words = _words(np.broadcast_to(counters, (len(keys), np.shape(counters)[-1])))
    hashed = _mixed(_mixed(keys + np.uint64(stream) * _GOLDEN)[:, None] ^ _mixed(words))
    # 52 bits and a half: a double holds that exactly, so neither 0 nor 1 can come out
    return ((hashed >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _words(values: npt.NDArray[Any]) -> Keys:
    return np.ascontiguousarray(values, dtype=np.int64).view(np.uint64)


def _mixed(words: Keys) -> Keys:
    words = words + _GOLDEN
    words = (words ^ (words >> np.uint64(30))) * _ONE
    words = (words ^ (words >> np.uint64(27))) * _TWO
    return words ^ (words >> np.uint64(31))
