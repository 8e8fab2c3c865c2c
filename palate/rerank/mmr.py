"""Maximal marginal relevance: the next item is relevant, and unlike those already chosen.

J. Carbonell, J. Goldstein, "The use of MMR, diversity-based reranking for reordering documents and producing summaries" (SIGIR 1998).
With S the items chosen so far, the next is the one that maximises

    (1 - beta) relevance(i) - beta max over j in S of similarity(i, j)        (their lambda is 1 - beta)

and max over an empty S is 0, so that the first item is the most relevant. Relevance is the candidate's score scaled so that of
each list the best is 1 and the worst is 0 (scores of different rankers are on different scales, similarity is within [0, 1]).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pydantic

from palate.rerank.diverse import Diverse
from palate.rerank.likeness import Likeness
from palate.types import Floats, Ints, Longs


class MMR(Diverse):
    """A cosine counts as 0 where it is below. Cost: O(K' x candidates x features) a query for K' places; a loop over places, none over
    queries."""

    class Config(Diverse.Config):
        """beta: weight of diversity; 0 keeps the order."""

        beta: float = pydantic.Field(0.3, ge=0, le=1)

    config: Config

    def choose(self, likeness: Likeness, items: Ints, worth: Floats, k: int) -> tuple[Longs, Floats]:
        b, beta = len(items), self.config.beta
        shown: npt.NDArray[Any] = likeness.of(items)
        rows = np.arange(b)
        nearest = np.zeros(items.shape, dtype=np.float32)
        left = worth.copy()
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
