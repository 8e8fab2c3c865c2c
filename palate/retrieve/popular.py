"""Popularity: the same items for everybody, the most wanted first. The line that every other retriever must pass.

Recent popularity weighs each event by `2^(-age / half_life)` inside a window, with age counted from the newest event of the
log; a decaying count in the manner of Y. Koren, "Collaborative filtering with temporal dynamics" (KDD 2009), whose point is
that what is wanted drifts.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal, Self

import numpy as np
import pydantic

from palate.retrieve.base import DAY, Retriever, wanted
from palate.retrieve.topk import BLOCK
from palate.types import NOTHING, Candidates, Floats, Ints, Log, Queries, Run, State


class Popular(Retriever):
    """Items by number of positive events, overall or lately. An item without events is never brought.

    It is fitted on the log as a whole: `queries.now` is not looked at.
    Cost: fit O(E + N log N); retrieve looks down the one list until each query has its K: O(B (K + blocked)),
    and more where filters are narrow.
    """

    class Config(Retriever.Config):
        """by: `all` counts every event alike; `recent` weighs an event of age a by 2^(-a / half_life_days) and drops it if older than
        `window_days`.
        """

        by: Literal["all", "recent"] = "all"
        half_life_days: float | None = pydantic.Field(30.0, gt=0)
        window_days: float | None = pydantic.Field(None, gt=0)

    config: Config
    counts: Floats
    """float32 [N]."""

    def fit(self, log: Log, run: Run = Run()) -> Self:
        positives = wanted(log)
        weights = np.ones(len(positives))
        if self.config.by == "recent":
            age = (positives.times.max() - positives.times) / DAY
            if self.config.half_life_days is not None:
                weights *= np.exp2(-age / self.config.half_life_days)
            if self.config.window_days is not None:
                weights *= age <= self.config.window_days
        self._know(np.bincount(positives.item_codes, weights, minlength=log.n_items).astype(np.float32))
        return self

    def _know(self, counts: Floats) -> None:
        self.counts = counts
        for derived in ("_order", "_place"):
            self.__dict__.pop(derived, None)

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        items = np.full((len(queries), k), NOTHING, dtype=np.int32)
        size = max(1, BLOCK // (4 * (k + 1 + int(queries.blocked.lengths.max(initial=0)))))
        for start in range(0, len(queries), size):
            part = queries[start : start + size] if len(queries) > size else queries
            found = self._first(part, k)
            items[start : start + size, : found.shape[1]] = found
        return Candidates.of(items, self.counts[items], self.name)

    def _first(self, queries: Queries, k: int) -> Ints:
        """The first K of the list that each query may be given: [b, at most K]."""
        order, blocked = self._order, queries.blocked
        reach = k + int(blocked.lengths.max(initial=0))
        rows, places = blocked.rows, self._place[blocked.values]
        while True:  # down the list, twice as far each time, until every query has its K
            head = order[:reach]
            free = np.ones((len(queries), len(head)), dtype=bool)
            near = places < len(head)
            free[rows[near], places[near]] = False
            if queries.allowed is not None:
                free &= queries.allowed[head]
            if len(head) == len(order) or bool((free.sum(axis=1) >= k).all()):
                break
            reach *= 2
        at = np.argsort(~free, axis=1, kind="stable")[:, :k]
        return np.where(np.take_along_axis(free, at, 1), head[at], NOTHING).astype(np.int32)

    @cached_property
    def _order(self) -> Ints:
        """The items with events, the most wanted first, equals by code."""
        order = np.argsort(-self.counts, kind="stable").astype(np.int32)
        return order[: int((self.counts > 0).sum())]

    @cached_property
    def _place(self) -> Ints:
        """Where each item stands in that order; behind its end where it has no events."""
        place = np.full(len(self.counts), len(self.counts), dtype=np.int32)
        place[self._order] = np.arange(len(self._order), dtype=np.int32)
        return place

    def score(self, queries: Queries, items: Ints) -> Floats:
        there = (items != NOTHING) & (self.counts[items] > 0)
        return np.where(there, self.counts[items], -np.inf).astype(np.float32)

    @property
    def serves_new_users(self) -> frozenset[str]:
        return frozenset({"history", "context"})

    def state(self) -> State:
        return State(arrays={"counts": self.counts})

    def restore(self, state: State) -> Self:
        self._know(state.arrays["counts"])
        return self
