"""A boost that fades with an item's age.

X. Li, W. B. Croft, "Time-based language models" (CIKM 2003), section 3.1: the prior of a document falls exponentially with its age. Here,
in half-lives, and added to the score:

    score(i) + weight x spread x 2^(-age(i) / half_life)

spread is the distance between the best and the worst score of the list (1 where all are equal), so that the weight means the same whatever
the ranker's scale: with weight 0.2 something brand new rises past what is better by up to a fifth of the list.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import polars as pl
import pydantic

from palate.features.spec import DAY
from palate.rerank.base import Reranker
from palate.rerank.categories import column_of
from palate.rerank.places import by, lowest_and_spread
from palate.types import Candidates, ConfigError, Log, Longs, Queries, Run, State

_UNKNOWN = np.iinfo(np.int64).max


class Freshness(Reranker):
    """Newer items rise. The age of an item is counted at the query's `now`, so that a replayed request gets the slate of its time.

    An item of unknown age gets no boost; one from after `now` counts as brand new. Cost: O(candidates) a query.
    """

    fixed = frozenset({"column"})

    class Config(Reranker.Config):
        """weight: of the boost, as a share of the list's spread. half_life_days: after which half of it is left. column: a date, a time or
        a whole number of years of the item table; None takes the item's first event in the log, and an item without events gets no boost.
        """

        weight: float = pydantic.Field(0.2, ge=0)
        half_life_days: float = pydantic.Field(30.0, gt=0)
        column: str | None = None

    config: Config

    def fit(self, log: Log, run: Run = Run()) -> Self:
        self.born: Longs = np.full(log.n_items, _UNKNOWN)
        if self.config.column is None:
            np.minimum.at(self.born, log.item_codes, log.times)
        else:
            self.born = _moments(column_of(log, self.config.column, "freshness.column"))
        return self

    def rerank(self, queries: Queries, candidates: Candidates, k: int) -> Candidates:
        items = np.where(candidates.present, candidates.items, 0)
        born = self.born[items] if len(self.born) else np.zeros(items.shape, dtype=np.int64)
        known = (born != _UNKNOWN) & candidates.present
        days = np.maximum(queries.now[:, None] - np.where(known, born, 0), 0) / DAY
        boost = np.where(known, np.exp2(-days / self.config.half_life_days), 0)
        spread = lowest_and_spread(candidates.scores, candidates.present)[1]
        return by(candidates, candidates.scores + self.config.weight * np.where(spread > 0, spread, 1) * boost, k)

    def state(self) -> State:
        return State(arrays={"born": self.born})

    def restore(self, state: State) -> Self:
        self.born = state.arrays["born"]
        return self


def _moments(column: pl.Series) -> Longs:
    """Microseconds since 1970, int64 [N]; the largest where the value is missing. A year is its first of January."""
    if column.dtype.is_integer():
        years = column.cast(pl.Int64).fill_null(0).to_numpy().astype(np.int64) - 1970
        found = pl.Series(years.astype("datetime64[Y]").astype("datetime64[us]").astype(np.int64)).set(column.is_null(), _UNKNOWN)
    elif column.dtype == pl.Date or isinstance(column.dtype, pl.Datetime):
        found = column.cast(pl.Datetime("us", getattr(column.dtype, "time_zone", None))).to_physical().fill_null(_UNKNOWN)
    else:
        raise ConfigError(f"freshness.column: {column.name!r} is {column.dtype}; take a date, a time, or a whole number of years")
    return found.to_numpy().astype(np.int64)
