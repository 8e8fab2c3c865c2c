"""Impression discounting: what was shown often and not acted on sinks.

P. Lee, L. V. S. Lakshmanan, M. Tiwari, S. Shah, "Modeling impression discounting in large-scale recommender systems" (KDD 2014). The chance
that an item is acted on falls with the times it was seen in vain (section 4); of the shapes fitted there, two, of n = max(seen - free, 0):

    exponential     d(n) = 2^(-n / halving)
    inverse         d(n) = 1 / (1 + n / halving)

and what an item is worth above the worst of its list is multiplied by max(d, floor):

    score(i) <- worst + (score(i) - worst) x max(d(n(i)), floor)
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pydantic

from palate.rerank.base import Reranker
from palate.rerank.brought import impressions
from palate.rerank.places import by, lowest_and_spread
from palate.types import Candidates, Queries


class Demotion(Reranker):
    """Reads how often each person saw each item in vain from the column `palate.impressions` of the queries (`palate.rerank.brought`).

    Nothing is demoted where the queries bring no such column, so offline evaluation without impressions sees the list as it was.
    Nothing is fitted: counts change with every answer, so they come with the request. Cost: O(candidates + impressions) a query.
    """

    class Config(Reranker.Config):
        """free: so many impressions cost nothing. halving: so many further ones take half of an item's worth. shape: as in the file's head.
        floor: the least share of its worth that an item keeps.
        """

        free: float = pydantic.Field(1, ge=0)
        halving: float = pydantic.Field(3, gt=0)
        shape: Literal["exponential", "inverse"] = "exponential"
        floor: float = pydantic.Field(0, ge=0, le=1)

    config: Config

    def rerank(self, queries: Queries, candidates: Candidates, k: int) -> Candidates:
        brought = impressions(queries)
        if brought is None:
            return by(candidates, candidates.scores, k)
        rows, items, counts = brought
        width = int(max(candidates.items.max(initial=0), items.max(initial=0))) + 1
        keys, place = np.unique(rows * width + items, return_inverse=True)
        total = np.append(np.bincount(place, weights=counts, minlength=len(keys)), 0)
        wanted = np.arange(len(candidates), dtype=np.int64)[:, None] * width + candidates.items
        at = np.searchsorted(keys, wanted)
        hit = candidates.present & (np.append(keys, -1)[at] == wanted)
        n = np.maximum(np.where(hit, total[at], 0) - self.config.free, 0) / self.config.halving
        discount = np.maximum(np.exp2(-n) if self.config.shape == "exponential" else 1 / (1 + n), self.config.floor)
        worst = lowest_and_spread(candidates.scores, candidates.present)[0]
        above = np.where(candidates.present, candidates.scores, worst) - worst
        # without impressions a score stays as it is, to the bit
        return by(candidates, np.where(n > 0, worst + above * discount, candidates.scores), k)
