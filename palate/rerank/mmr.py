"""Maximal marginal relevance: the next item is relevant, and unlike those already chosen.

J. Carbonell, J. Goldstein, "The use of MMR, diversity-based reranking for reordering documents and producing summaries" (SIGIR 1998).
With S the items chosen so far, the next is the one that maximises

    (1 - beta) relevance(i) - beta max over j in S of similarity(i, j)        (their lambda is 1 - beta)

and max over an empty S is 0, so that the first item is the most relevant. Relevance is the candidate's score scaled so that of
each list the best is 1 and the worst is 0 (scores of different rankers are on different scales, similarity is within [0, 1]).
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pydantic

from palate.rerank.base import Reranker
from palate.rerank.likeness import BLOCK, Likeness
from palate.rerank.places import Relevance, only, relevance
from palate.types import Candidates, Floats, Ints, Log, Queries, Run, State

_BLOCK = BLOCK


class MMR(Reranker):
    """Diversity by an item column, or by vectors given with `with_vectors`.

    The column says what alike means, see `palate.rerank.likeness`; a cosine counts as 0 where it is below.
    Cost: O(K' x candidates x features) a query for K' places; a loop over places, none over queries.
    """

    fixed = frozenset({"column"})

    class Config(Reranker.Config):
        """beta: weight of diversity; 0 keeps the order. column: of the item table. relevance: `minmax` as in the file's head, `rank`
        falling evenly from 1 to 0, or `raw` scores as they come. pool: only so many of the best candidates take part (None: all);
        it bounds how far down diversity may reach, and with `minmax` and `rank` what "worst" means.
        """

        beta: float = pydantic.Field(0.3, ge=0, le=1)
        column: str = "genres"
        relevance: Relevance = "minmax"
        pool: int | None = pydantic.Field(100, ge=1)

    config: Config
    likeness: Likeness | None = None

    def fit(self, log: Log, run: Run = Run()) -> Self:
        if self.likeness is None or not self.likeness.given:
            self.likeness = Likeness.by_column(log, self.config.column, "mmr.column")
        return self

    def with_vectors(self, vectors: Floats) -> Self:
        """Similarity is the cosine of these vectors, float32 [N, D], row i for item code i; the column is then not looked at."""
        self.likeness = Likeness.by_vectors(vectors)
        return self

    def rerank(self, queries: Queries, candidates: Candidates, k: int) -> Candidates:
        assert self.likeness is not None
        pool = candidates.items.shape[1] if self.config.pool is None else max(k, self.config.pool)
        items = candidates.items[:, :pool]
        value = relevance(candidates.scores[:, :pool], candidates.present[:, :pool], self.config.relevance)
        size = max(1, _BLOCK // max(1, items.shape[1] * self.likeness.width))
        order = np.zeros((len(items), k), dtype=np.int64)
        scores = np.full((len(items), k), -np.inf, dtype=np.float32)
        for start in range(0, len(items), size):
            rows = slice(start, start + size)
            order[rows], scores[rows] = self._greedy(self.likeness, items[rows], value[rows], k)
        return only(candidates.reorder(order, scores), scores > -np.inf)

    def _greedy(self, likeness: Likeness, items: Ints, relevance: Floats, k: int) -> tuple[npt.NDArray[np.int64], Floats]:
        """Places [b, K] in the order of choice and the value of each when chosen, -inf where none was left."""
        b, beta = len(items), self.config.beta
        shown: npt.NDArray[Any] = likeness.of(items)
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
            # nearest starts at 0, so a cosine below 0 counts as 0
            np.maximum(nearest, likeness.between(shown, shown[rows, chosen]), out=nearest)
        return order, scores

    def state(self) -> State:
        return State() if self.likeness is None else self.likeness.state()

    def restore(self, state: State) -> Self:
        self.likeness = Likeness.restore(state)
        return self
