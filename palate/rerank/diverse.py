"""What MMR and the DPP have in common: a slate chosen one place after another, each item looked at beside those already chosen."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

import numpy as np
import pydantic

from palate import config
from palate.rerank.base import Reranker
from palate.rerank.likeness import BLOCK, Likeness
from palate.rerank.places import Relevance, chosen, relevance
from palate.types import Candidates, Floats, Ints, Log, Longs, Queries, Run, State


class Diverse(Reranker):
    """Diversity by an item column, or by vectors given with `with_vectors`. The column says what alike means: `palate.rerank.likeness`."""

    fixed = frozenset({"column"})

    class Config(Reranker.Config):
        """column: of the item table. relevance: `minmax` (of each list the best is 1 and the worst 0), `rank` falling evenly from 1 to 0,
        or `raw` scores as they come. pool: only so many of the best candidates take part, at least K (None: all); it bounds how far down
        diversity may reach, and with `minmax` and `rank` what "worst" means.
        """

        column: str = "genres"
        relevance: Relevance = "minmax"
        pool: int | None = pydantic.Field(100, ge=1)

    config: Config
    likeness: Likeness | None = None

    def fit(self, log: Log, run: Run = Run()) -> Self:
        if self.likeness is None or not self.likeness.given:
            self.likeness = Likeness.by_column(log, self.config.column, f"{config.short_name(type(self))}.column")
        return self

    def with_vectors(self, vectors: Floats) -> Self:
        """Alike by the cosine of these vectors, float32 [N, D], row i for item code i; the column is then not looked at."""
        self.likeness = Likeness.by_vectors(vectors)
        return self

    @abstractmethod
    def choose(self, likeness: Likeness, items: Ints, worth: Floats, k: int) -> tuple[Longs, Floats]:
        """Places [b, K] in the order of choice, and the value of each when chosen: -inf where none was left.

        items, worth: [b, M], NOTHING and -inf behind the last; worth is the relevance, on the scale that the Config names.
        """

    def rerank(self, queries: Queries, candidates: Candidates, k: int) -> Candidates:
        assert self.likeness is not None
        pool = candidates.items.shape[1] if self.config.pool is None else max(k, self.config.pool)
        items = candidates.items[:, :pool]
        worth = relevance(candidates.scores[:, :pool], candidates.present[:, :pool], self.config.relevance)
        order = np.zeros((len(items), k), dtype=np.int64)
        scores = np.full((len(items), k), -np.inf, dtype=np.float32)
        size = max(1, BLOCK // max(1, items.shape[1] * (self.likeness.width + k)))
        for start in range(0, len(items) if items.shape[1] else 0, size):
            rows = slice(start, start + size)
            order[rows], scores[rows] = self.choose(self.likeness, items[rows], worth[rows], k)
        return chosen(candidates, np.where(scores > -np.inf, order, -1), scores)

    def state(self) -> State:
        return State() if self.likeness is None else self.likeness.state()

    def restore(self, state: State) -> Self:
        self.likeness = Likeness.restore(state)
        return self
