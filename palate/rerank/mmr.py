"""Maximal marginal relevance: the next item is relevant, and unlike those already chosen.

J. Carbonell, J. Goldstein, "The use of MMR, diversity-based reranking for reordering documents and producing summaries" (SIGIR 1998).
With S the items chosen so far, the next is the one that maximises

    (1 - beta) relevance(i) - beta max over j in S of similarity(i, j)        (their lambda is 1 - beta)

and max over an empty S is 0, so that the first item is the most relevant. Relevance is the candidate's score scaled so that of
each list the best is 1 and the worst is 0 (scores of different rankers are on different scales, similarity is within [0, 1]).
"""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pydantic

from palate.config import unknown_key
from palate.rerank.base import Reranker
from palate.rerank.places import only
from palate.types import NOTHING, Bools, Candidates, ConfigError, Floats, Ints, Log, Queries, Run, State

_BLOCK = 1 << 23
"""Feature values held at once."""


class MMR(Reranker):
    """Diversity by an item column, or by vectors given with `with_vectors`.

    The column says what alike means: a list column the Jaccard coefficient of the two sets (two empty sets: 0), a column of text,
    truth values or whole numbers 1 where equal (a missing value equals nothing), a list or array of numbers the cosine, not below 0.
    Cost: O(K' x candidates x features) a query for K' places; a loop over places, none over queries.
    """

    class Config(Reranker.Config):
        """beta: weight of diversity; 0 keeps the order. column: of the item table. relevance: `minmax` as in the file's head, `rank`
        falling evenly from 1 to 0, or `raw` scores as they come. pool: only so many of the best candidates take part (None: all);
        it bounds how far down diversity may reach, and with `minmax` and `rank` what "worst" means.
        """

        beta: float = pydantic.Field(0.3, ge=0, le=1)
        column: str = "genres"
        relevance: Literal["minmax", "rank", "raw"] = "minmax"
        pool: int | None = pydantic.Field(100, ge=1)

    config: Config
    kind: Literal["jaccard", "equal", "cosine"]
    features: npt.NDArray[Any]
    """`jaccard`: uint64 [N, W], the set of each item as bits; `equal`: int32 [N], -1 if missing; `cosine`: float32 [N, D], of length 1."""
    given: bool = False

    def fit(self, log: Log, run: Run = Run()) -> Self:
        if self.given:
            return self
        column = self.config.column
        if column not in log.items.columns:
            raise ConfigError(f"mmr.column: the item table has no column {column!r}: {unknown_key(column, log.items.columns)}")
        self.kind, self.features = _features(log.items[column])
        return self

    def with_vectors(self, vectors: Floats) -> Self:
        """Similarity is the cosine of these vectors, float32 [N, D], row i for item code i; the column is then not looked at."""
        self.kind, self.features, self.given = "cosine", _unit(vectors), True
        return self

    def rerank(self, queries: Queries, candidates: Candidates, k: int) -> Candidates:
        pool = candidates.items.shape[1] if self.config.pool is None else max(k, self.config.pool)
        items, relevance = candidates.items[:, :pool], self._relevance(candidates.scores[:, :pool], candidates.present[:, :pool])
        width = int(np.prod(self.features.shape[1:])) if self.features.ndim > 1 else 1
        size = max(1, _BLOCK // max(1, items.shape[1] * width))
        order = np.zeros((len(items), k), dtype=np.int64)
        scores = np.full((len(items), k), -np.inf, dtype=np.float32)
        for start in range(0, len(items), size):
            rows = slice(start, start + size)
            order[rows], scores[rows] = self._greedy(items[rows], relevance[rows], k)
        return only(candidates.reorder(order, scores), scores > -np.inf)

    def _relevance(self, scores: Floats, present: Bools) -> Floats:
        """[B, K], -inf where there is no candidate."""
        if self.config.relevance == "rank":
            last = np.maximum(present.sum(axis=1, keepdims=True) - 1, 1)
            values = 1 - np.arange(scores.shape[1]) / last
        elif self.config.relevance == "minmax":
            low = np.where(present, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
            high = np.where(present, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
            with np.errstate(invalid="ignore"):
                spread = np.where(high > low, high - low, 1)
                values = np.where(high > low, (scores - low) / spread, 1)
        else:
            values = scores
        return np.where(present, values, -np.inf).astype(np.float32)

    def _greedy(self, items: Ints, relevance: Floats, k: int) -> tuple[npt.NDArray[np.int64], Floats]:
        """Places [b, K] in the order of choice and the value of each when chosen, -inf where none was left."""
        b, beta = len(items), self.config.beta
        shown = self.features[np.where(items == NOTHING, 0, items)] if len(self.features) else np.zeros(items.shape, dtype=np.int32)
        rows = np.arange(b)
        nearest = np.zeros(items.shape, dtype=np.float32)
        left = relevance.copy()
        order = np.zeros((b, k), dtype=np.int64)
        scores = np.full((b, k), -np.inf, dtype=np.float32)
        for place in range(min(k, items.shape[1])):
            value = (1 - beta) * left - beta * nearest if beta < 1 else np.where(left > -np.inf, -nearest, -np.inf)
            chosen = value.argmax(axis=1)
            order[:, place], scores[:, place] = chosen, value[rows, chosen]
            left[rows, chosen] = -np.inf
            np.maximum(nearest, self._similarity(shown, shown[rows, chosen]), out=nearest)
        return order, scores

    def _similarity(self, shown: npt.NDArray[Any], chosen: npt.NDArray[Any]) -> Floats:
        """Of all candidates [b, K, ...] with one of each row [b, ...]: float32 [b, K] in [0, 1]."""
        if self.kind == "equal":
            return ((shown == chosen[:, None]) & (shown >= 0)).astype(np.float32)
        if self.kind == "cosine":
            return np.maximum(np.einsum("bkd,bd->bk", shown, chosen), 0)
        both = np.bitwise_count(shown & chosen[:, None]).sum(axis=2, dtype=np.int32)
        either = np.bitwise_count(shown | chosen[:, None]).sum(axis=2, dtype=np.int32)
        return (both / np.maximum(either, 1)).astype(np.float32)

    def state(self) -> State:
        return State(arrays={"features": self.features}, meta={"kind": self.kind, "given": self.given})

    def restore(self, state: State) -> Self:
        self.features, self.kind, self.given = state.arrays["features"], state.meta["kind"], bool(state.meta["given"])
        return self


def _features(column: pl.Series) -> tuple[Literal["jaccard", "equal", "cosine"], npt.NDArray[Any]]:
    """What the items are compared by, from one column of the item table."""
    inner = getattr(column.dtype, "inner", None)
    if inner is not None and inner.is_numeric():
        lengths = column.list.len() if isinstance(column.dtype, pl.List) else column.arr.len()
        if column.null_count() or lengths.n_unique() > 1:
            raise ConfigError(f"mmr.column: the vectors of {column.name!r} are not all there or not all of one length")
        return "cosine", _unit(column.explode().to_numpy().reshape(len(column), -1))
    if inner is not None:
        return "jaccard", _bits(column)
    if column.dtype.is_float() or column.dtype.is_temporal():
        raise ConfigError(f"mmr.column: {column.name!r} is {column.dtype}: alike needs a list, a category, or a vector")
    codes = column.cast(pl.String).rank("dense").fill_null(0).to_numpy().astype(np.int32)
    return "equal", (codes - 1).astype(np.int32)


def _bits(column: pl.Series) -> npt.NDArray[np.uint64]:
    """A list column as sets: uint64 [N, W], one bit for each value that occurs."""
    lengths = column.list.len().fill_null(0).to_numpy()
    codes = column.filter(pl.Series(lengths > 0)).explode().cast(pl.String).rank("dense").fill_null(0).to_numpy().astype(np.int64)
    words = int(codes.max(initial=0)) // 64 + 1
    if len(column) * words > _BLOCK * 32:
        raise ConfigError(
            f"mmr.column: {column.name!r} has {int(codes.max()):d} different values on {len(column)} items; take a coarser column"
        )
    bits = np.zeros((len(column), words), dtype=np.uint64)
    np.bitwise_or.at(bits, (np.repeat(np.arange(len(column)), lengths), codes // 64), np.uint64(1) << (codes % 64).astype(np.uint64))
    return bits & ~np.array([1] + [0] * (words - 1), dtype=np.uint64)  # code 0 is a missing value


def _unit(vectors: npt.NDArray[Any]) -> Floats:
    vectors = np.asarray(vectors, dtype=np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1), dtype=np.float32)
