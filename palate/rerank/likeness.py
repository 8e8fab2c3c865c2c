"""How alike two items are, by a column of the item table or by vectors: shared by MMR and DPP.

A list column: the Jaccard coefficient of the two sets (two empty sets: 0). Text, truth values, whole numbers: 1 where equal (a missing
value equals nothing). A list or array of numbers: the cosine.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from palate.config import unknown_key
from palate.types import NOTHING, ConfigError, Floats, Ints, Log, State

BLOCK = 1 << 23
"""Feature values held at once."""


class Likeness(NamedTuple):
    """What items are compared by, row i for item code i.

    features: `jaccard` uint64 [N, W], the set of each item as bits; `equal` int32 [N], -1 if missing; `cosine` float32 [N, D], of length 1.
    given: they are vectors that somebody brought, and no column is looked at.
    """

    kind: Literal["jaccard", "equal", "cosine"]
    features: npt.NDArray[Any]
    given: bool = False

    @classmethod
    def by_column(cls, log: Log, column: str, where: str) -> Likeness:
        """By a column of the item table. Errors (ConfigError) name `where`, a setting, and the nearest column."""
        if column not in log.items.columns:
            raise ConfigError(f"{where}: the item table has no column {column!r}: {unknown_key(column, log.items.columns)}")
        return cls(*_features(log.items[column], where))

    @classmethod
    def by_vectors(cls, vectors: Floats) -> Likeness:
        """By the cosine of float32 [N, D]."""
        return cls("cosine", _unit(vectors), True)

    @property
    def width(self) -> int:
        """Feature values an item."""
        return int(np.prod(self.features.shape[1:])) if self.features.ndim > 1 else 1

    def of(self, items: Ints) -> npt.NDArray[Any]:
        """The features of items [b, K]: [b, K, ...]; of NOTHING, those of some item."""
        return self.features[np.where(items == NOTHING, 0, items)] if len(self.features) else np.zeros(items.shape, dtype=np.int32)

    def between(self, shown: npt.NDArray[Any], one: npt.NDArray[Any]) -> Floats:
        """Of the features of candidates [b, K, ...] with those of one of each row [b, ...]: float32 [b, K]; a cosine may be negative."""
        if self.kind == "equal":
            return ((shown == one[:, None]) & (shown >= 0)).astype(np.float32)
        if self.kind == "cosine":
            return np.einsum("bkd,bd->bk", shown, one).astype(np.float32, copy=False)
        both = np.bitwise_count(shown & one[:, None]).sum(axis=2, dtype=np.int32)
        either = np.bitwise_count(shown | one[:, None]).sum(axis=2, dtype=np.int32)
        return (both / np.maximum(either, 1)).astype(np.float32)

    def state(self) -> State:
        """For `Reranker.state`."""
        return State(arrays={"features": self.features}, meta={"kind": self.kind, "given": self.given})

    @classmethod
    def restore(cls, state: State) -> Likeness:
        """From a state that `state` gave."""
        return cls(state.meta["kind"], state.arrays["features"], bool(state.meta["given"]))


def _features(column: pl.Series, where: str) -> tuple[Literal["jaccard", "equal", "cosine"], npt.NDArray[Any]]:
    """What the items are compared by, from one column of the item table."""
    inner = getattr(column.dtype, "inner", None)
    if inner is not None and inner.is_numeric():
        lengths = column.list.len() if isinstance(column.dtype, pl.List) else column.arr.len()
        if column.null_count() or lengths.n_unique() > 1:
            raise ConfigError(f"{where}: the vectors of {column.name!r} are not all there or not all of one length")
        return "cosine", _unit(column.explode().to_numpy().reshape(len(column), -1))
    if inner is not None:
        return "jaccard", _bits(column, where)
    if column.dtype.is_float() or column.dtype.is_temporal():
        raise ConfigError(f"{where}: {column.name!r} is {column.dtype}: alike needs a list, a category, or a vector")
    codes = column.cast(pl.String).rank("dense").fill_null(0).to_numpy().astype(np.int32)
    return "equal", (codes - 1).astype(np.int32)


def _bits(column: pl.Series, where: str) -> npt.NDArray[np.uint64]:
    """A list column as sets: uint64 [N, W], one bit for each value that occurs."""
    lengths = column.list.len().fill_null(0).to_numpy()
    codes = column.filter(pl.Series(lengths > 0)).explode().cast(pl.String).rank("dense").fill_null(0).to_numpy().astype(np.int64)
    words = int(codes.max(initial=0)) // 64 + 1
    if len(column) * words > BLOCK * 32:
        raise ConfigError(
            f"{where}: {column.name!r} has {int(codes.max()):d} different values on {len(column)} items; take a coarser column"
        )
    bits = np.zeros((len(column), words), dtype=np.uint64)
    np.bitwise_or.at(bits, (np.repeat(np.arange(len(column)), lengths), codes // 64), np.uint64(1) << (codes % 64).astype(np.uint64))
    return bits & ~np.array([1] + [0] * (words - 1), dtype=np.uint64)  # code 0 is a missing value


def _unit(vectors: npt.NDArray[Any]) -> Floats:
    vectors = np.asarray(vectors, dtype=np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1), dtype=np.float32)
