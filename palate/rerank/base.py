"""What a reranker is: it looks at a whole list and reorders or removes."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

from palate import config
from palate.types import Candidates, ConfigError, Log, Queries, Run

PROPENSITY = "propensity"
"""The feature in which a reranker that draws writes, for each place, the probability with which it shows this item there."""
LOG_SLATE = "slate.log_propensity"
"""The feature in which it writes the natural logarithm of the probability of the whole list, in order: the same at every place."""


class Reranker(config.Component, ABC):
    """Slate construction: diversity, rules, freshness. Works on ranked candidates; never invents an item.

    draws: whether it draws at random, and so writes PROPENSITY. What it writes is true of the places where it leaves the items, so nothing
    may move them afterwards: such a reranker stands last, and the funnel refuses another order.
    fixed: settings that `fit` has used, which `with_settings` therefore refuses.
    """

    draws: ClassVar[bool] = False
    fixed: ClassVar[frozenset[str]] = frozenset()

    class Config(config.Config):
        """name: what tables call it (default: its file's name)."""

        name: str | None = None

    config: Config

    def fit(self, log: Log, run: Run = Run()) -> Self:
        """Takes what it needs from the item table (categories, vectors). Most need nothing more."""
        return self

    @abstractmethod
    def rerank(self, queries: Queries, candidates: Candidates, k: int) -> Candidates:
        """The first K places of the slate, [B, K]: items of `candidates`, NOTHING at the end where too few are left."""

    def with_settings(self, **changes: Any) -> Self:
        """The same fitted reranker with other settings, for one request: `mmr.with_settings(beta=0.6)`. This one stays as it is.

        Cost: some 10 us; what was fitted is shared, not copied. Errors: ConfigError for a setting that does not exist, has the wrong type,
        or was used by `fit` and so cannot change without it.
        """
        kind = config.short_name(type(self))
        for key in changes:
            if key in self.fixed and changes[key] != getattr(self.config, key):
                free = sorted(set(type(self).Config.model_fields) - self.fixed - {"name"})
                raise ConfigError(f"{kind}.{key}: was used when fitted, so a request cannot change it; it can change {', '.join(free)}")
        changed = copy.copy(self)
        given = {key: getattr(self.config, key) for key in self.config.model_fields_set}
        changed.config = type(self).Config.parse({**given, **changes}, kind)
        return changed
