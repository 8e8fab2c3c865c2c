"""What must hold of every slate: nothing seen or disliked, rules on item columns, and caps on how many of a kind.

Rules are written as in `palate.rerank.rules`: `genres != "Horror"`, `year >= 1990`.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pydantic

from palate.rerank.base import Reranker
from palate.rerank.categories import codes_of, column_of
from palate.rerank.places import first
from palate.rerank.rules import allowed
from palate.types import NOTHING, Bools, Candidates, ConfigError, Ints, Log, Queries, Ragged, Run, State

__all__ = ["Constraints", "allowed"]

_ROWS = 4096


class Constraints(Reranker):
    """Takes the candidates in their order and passes over those that break a constraint; the order of the others stays.

    Always removed: what the query blocks (seen, disliked) and what its filters do not allow. An item with several values of a capped
    column (several genres) counts for each of them, and is passed over once any of them is full; a missing value is never capped.
    Cost: O(B candidates values); a loop over places, none over queries.
    """

    fixed = frozenset({"rules"})

    class Config(Reranker.Config):
        """rules: every item of a slate passes all of them. caps: column of the item table -> at most so many items of each value."""

        rules: tuple[str, ...] = ()
        caps: dict[str, int] = pydantic.Field(default_factory=dict)

        @pydantic.field_validator("caps")
        @classmethod
        def _at_least_one(cls, caps: dict[str, int]) -> dict[str, int]:
            for column, most in caps.items():
                if most < 1:
                    raise ValueError(f"a cap is at least 1, of {column!r} it is {most}; to exclude a value, use a rule")
            return caps

    config: Config

    def fit(self, log: Log, run: Run = Run()) -> Self:
        self.passing: Bools = allowed(log.items, self.config.rules)
        self.values: dict[str, Ints] = {}
        for column in self.config.caps:
            self.values[column] = codes_of(column_of(log, column, "constraints.caps"))
        return self

    def with_settings(self, **changes: Any) -> Self:
        changed = super().with_settings(**changes)
        for column in set(changed.config.caps) - set(self.values):
            fitted = ", ".join(sorted(self.values)) or "none"
            raise ConfigError(f"constraints.caps: {column!r} had no cap when fitted, so a request cannot give it one; fitted: {fitted}")
        changed.values = {column: self.values[column] for column in changed.config.caps}
        return changed

    def rerank(self, queries: Queries, candidates: Candidates, k: int) -> Candidates:
        keep = candidates.present & self.passing[np.where(candidates.present, candidates.items, 0)]
        if queries.allowed is not None:
            keep &= queries.allowed[np.where(candidates.present, candidates.items, 0)]
        keep &= ~_contains(queries.blocked, candidates.items)
        for start in range(0, len(keep) if self.values else 0, _ROWS):
            rows = slice(start, start + _ROWS)
            self._cap(candidates.items[rows], keep[rows], k)
        return first(candidates, keep, k)

    def _cap(self, items: Ints, keep: Bools, k: int) -> None:
        """Goes down the lists and drops, in place, what would be one too many of a kind among the first K kept."""
        counts = {column: np.zeros((len(items), int(values.max(initial=-1)) + 1), dtype=np.int32) for column, values in self.values.items()}
        chosen = np.zeros(len(items), dtype=np.int64)
        rows = np.arange(len(items))
        for place in range(items.shape[1]):
            wanted = keep[:, place] & (chosen < k)
            if not wanted.any() and (chosen >= k).all():
                break
            own = {column: values[items[:, place]] for column, values in self.values.items()}
            for column, values in own.items():
                full = (counts[column][rows[:, None], np.maximum(values, 0)] >= self.config.caps[column]) & (values >= 0)
                wanted &= ~full.any(axis=1)
            keep[:, place] = wanted
            chosen += wanted
            for column, values in own.items():
                row, at = np.nonzero((values >= 0) & wanted[:, None])
                counts[column][row, values[row, at]] += 1

    def state(self) -> State:
        return State(arrays={"passing": self.passing, **{f"values.{column}": values for column, values in self.values.items()}})

    def restore(self, state: State) -> Self:
        self.passing = state.arrays["passing"]
        self.values = {column: state.arrays[f"values.{column}"] for column in self.config.caps}
        return self


def _contains(lists: Ragged, items: Ints) -> Bools:
    """Which of the items [B, K] are in their row of the lists."""
    width = int(max(items.max(initial=0), lists.values.max(initial=0))) + 1
    known = np.unique(lists.rows * width + lists.values)
    keys = np.arange(len(items), dtype=np.int64)[:, None] * width + items
    if not len(known):
        return np.zeros(items.shape, dtype=bool)
    found: Bools = known[np.minimum(np.searchsorted(known, keys), len(known) - 1)] == keys
    return found & (items != NOTHING)
