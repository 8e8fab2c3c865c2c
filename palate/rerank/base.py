"""What a reranker is: it looks at a whole list and reorders or removes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

from palate import config
from palate.types import Candidates, Log, Queries, Run


class Reranker(config.Component, ABC):
    """Slate construction: diversity, rules, freshness. Works on ranked candidates; never invents an item."""

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
