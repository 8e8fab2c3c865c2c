"""Calibration: a slate holds kinds of items in the shares in which the user's history holds them.

H. Steck, "Calibrated recommendations" (RecSys 2018). With p(g | u) the shares of the categories g in the history (equation 2), q(g | I)
those of a list I (equation 3), and q~ = (1 - alpha) q + alpha p (equation 5), the list is built greedily to maximise (equation 7)

    (1 - lambda) sum over i in I of s(i) - lambda KL(p || q~(I)),        KL(p || q~) = sum over g of p(g) log(p(g) / q~(g))

An item of several categories belongs to each in equal shares. s is the relevance within its list, from 1 for the best to 0 for the worst.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
import pydantic

from palate.features.spec import DAY
from palate.rerank.base import Reranker
from palate.rerank.categories import codes_of, column_of, of
from palate.rerank.places import Relevance, chosen, relevance
from palate.types import Candidates, Floats, Ints, Log, Longs, Queries, Ragged, Run, State

_BLOCK = 1 << 22
"""Shares (query, candidate, category) held at once."""
Doubles = npt.NDArray[np.float64]


class Calibrated(Reranker):
    """Calibrated to each user's own history; without a history, or one without categories, the order stays.

    The slate keeps its scores as far as they fall: an item that was moved up is scored like the best behind it.
    Cost: O(K' x candidates x categories) a query for K' places, with a logarithm each; a loop over places, none over queries.
    """

    fixed = frozenset({"column"})

    class Config(Reranker.Config):
        """weight: lambda, of calibration; 0 keeps the order. column: the categories, of the item table. alpha: how much of p is mixed into
        q, so that a category that is missing costs much but not everything. half_life_days: older events count less (None: all alike).
        relevance: as in MMR. pool: only so many of the best candidates take part (None: all).
        """

        weight: float = pydantic.Field(0.5, ge=0, le=1)
        column: str = "genres"
        alpha: float = pydantic.Field(0.01, gt=0, lt=1)
        half_life_days: float | None = pydantic.Field(None, gt=0)
        relevance: Relevance = "minmax"
        pool: int | None = pydantic.Field(100, ge=1)

    config: Config

    def fit(self, log: Log, run: Run = Run()) -> Self:
        self.codes: Ints = codes_of(column_of(log, self.config.column, "calibrated.column"))
        return self

    def rerank(self, queries: Queries, candidates: Candidates, k: int) -> Candidates:
        pool = candidates.items.shape[1] if self.config.pool is None else max(k, self.config.pool)
        items = candidates.items[:, :pool]
        worth = relevance(candidates.scores[:, :pool], candidates.present[:, :pool], self.config.relevance)
        order = np.full((len(items), k), -1, dtype=np.int64)
        kinds = int(self.codes.max(initial=-1)) + 1
        size = max(1, _BLOCK // max(1, items.shape[1] * kinds))
        for start in range(0, len(items) if items.shape[1] else 0, size):
            part = slice(start, start + size)
            wanted = self._wanted(queries.history, queries.times, queries.now, np.arange(len(queries))[part], kinds)
            order[part] = self._greedy(wanted, _shares(of(self.codes, items[part]), kinds), worth[part], k)
        return chosen(candidates, order)

    def _wanted(self, history: Ragged, times: Longs, now: Longs, rows: Longs, kinds: int) -> Doubles:
        """p(g | u) [b, G]; zeros where nothing is known."""
        mine = history.take(rows)
        shares = _shares(of(self.codes, mine.values.astype(np.int32)), kinds)
        if self.config.half_life_days is not None:
            age = np.maximum(now[rows][mine.rows] - times[history.positions(rows)], 0) / DAY
            shares = shares * np.exp2(-age / self.config.half_life_days)[:, None]
        total = np.zeros((len(rows), kinds))
        np.add.at(total, mine.rows, shares)
        mass = total.sum(axis=1, keepdims=True)
        return np.asarray(total / np.where(mass > 0, mass, 1))

    def _greedy(self, wanted: Doubles, shares: Doubles, worth: Floats, k: int) -> npt.NDArray[np.int64]:
        """Places [b, K] in the order of choice, -1 where none was left. wanted: p [b, G]. shares: of each candidate [b, M, G]."""
        weight, alpha, rows = self.config.weight, self.config.alpha, np.arange(len(worth))
        left, listed = worth.copy(), np.zeros(wanted.shape)
        order = np.full((len(worth), k), -1, dtype=np.int64)
        for place in range(min(k, worth.shape[1])):
            with_it = listed[:, None] + shares
            q = with_it / np.maximum(with_it.sum(axis=2, keepdims=True), 1e-12)
            mixed = (1 - alpha) * q + alpha * wanted[:, None]
            # KL up to sum p log p, which is the same for every candidate; where p is 0, so is the term
            closeness = (wanted[:, None] * np.log(np.where(wanted[:, None] > 0, mixed, 1))).sum(axis=2)
            there = left > -np.inf
            value = np.where(there, (1 - weight) * np.where(there, left, 0) + weight * closeness, -np.inf)
            if weight == 1:  # ties by the old order, which argmax keeps
                value = np.where(there, closeness, -np.inf)
            j = value.argmax(axis=1)
            order[:, place] = np.where(there[rows, j], j, -1)
            left[rows, j] = -np.inf
            listed += shares[rows, j]
        return order

    def state(self) -> State:
        return State(arrays={"codes": self.codes})

    def restore(self, state: State) -> Self:
        self.codes = state.arrays["codes"]
        return self


def _shares(codes: Ints, kinds: int) -> Doubles:
    """p(g | i): each of an item's categories in equal shares. codes: [..., W] with -1; float64 [..., G], zeros where there is none."""
    shares = np.zeros((*codes.shape[:-1], kinds + 1))
    np.put_along_axis(shares, np.where(codes >= 0, codes, kinds).astype(np.int64), 1.0, -1)
    shares = shares[..., :kinds]
    return np.asarray(shares / np.maximum(shares.sum(axis=-1, keepdims=True), 1))
