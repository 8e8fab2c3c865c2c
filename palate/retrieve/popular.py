"""Popularity: the same items for everybody, the most wanted first. The line that every other retriever must pass.

Recent popularity weighs each event by `2^(-age / half_life)` inside a window, with age counted from the newest event of the
log; a decaying count in the manner of Y. Koren, "Collaborative filtering with temporal dynamics" (KDD 2009), whose point is
that what is wanted drifts.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import pydantic

from palate.retrieve.base import DAY, Retriever, wanted
from palate.retrieve.topk import answer
from palate.types import NOTHING, Candidates, Floats, Ints, Log, Queries, Run, State


class Popular(Retriever):
    """Items by number of positive events, overall or lately. An item without events is never brought.

    It is fitted on the log as a whole: `queries.now` is not looked at.
    Cost: fit O(E); retrieve O(B N).
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
        self.counts = np.bincount(positives.item_codes, weights, minlength=log.n_items).astype(np.float32)
        return self

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        row = self._scores()
        return answer(lambda part: np.tile(row, (len(part), 1)), queries, len(row), k, self.name)

    def score(self, queries: Queries, items: Ints) -> Floats:
        return np.where(items == NOTHING, -np.inf, self._scores()[items]).astype(np.float32)

    def _scores(self) -> Floats:
        return np.where(self.counts > 0, self.counts, -np.inf).astype(np.float32)

    @property
    def serves_new_users(self) -> frozenset[str]:
        return frozenset({"history", "context"})

    def state(self) -> State:
        return State(arrays={"counts": self.counts})

    def restore(self, state: State) -> Self:
        self.counts = state.arrays["counts"]
        return self
