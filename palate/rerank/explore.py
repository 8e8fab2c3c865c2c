"""What rerankers that draw items have in common: whom they draw among, by which numbers, and what they write about it.

Exploring across visits: each request draws its own slate, and the propensities written beside it, P(this item at this place), are what
makes the log usable for off-policy estimates (L. Li et al., "Unbiased offline evaluation of contextual-bandit-based news article
recommendation algorithms", WSDM 2011; slates: A. Swaminathan et al., "Off-policy evaluation for slate recommendation", NeurIPS 2017).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pydantic

from palate.rerank.base import LOG_SLATE, PROPENSITY, Reranker
from palate.rerank.draws import Keys, request_keys
from palate.rerank.places import Relevance, chosen, relevance
from palate.types import Candidates, Floats, Ints, Longs, Queries

Doubles = npt.NDArray[np.float64]


class Drawn(NamedTuple):
    """order: int [B, K] places in the list, -1 behind the last. propensity: [B, K], of each item at its place. log_slate: [B], of the whole
    order, NaN where the policy has no such form."""

    order: Longs
    propensity: Doubles
    log_slate: Doubles


class Explorer(Reranker):
    """A slate drawn at random, the same one for the same request.

    Two features are written: `propensity`, which the funnel puts into `Slate.propensity`, and `slate.log_propensity`. Both are exact given
    the candidates, which no other stage draws. Scores fall as in Calibrated: an item that was moved up is scored like the best behind it.
    """

    draws = True

    class Config(Reranker.Config):
        """seed: of the policy; give another one to an arm of a test that shall draw independently. pool: only so many of the best
        candidates are drawn among, at least K (None: all that come, 5 K with rerankers before). relevance: as in MMR.
        """

        seed: int = pydantic.Field(0, ge=0, lt=2**63)
        pool: int | None = pydantic.Field(None, ge=1)
        relevance: Relevance = "minmax"

    config: Config

    @abstractmethod
    def draw(self, keys: Keys, items: Ints, worth: Floats, k: int) -> Drawn:
        """keys: uint64 [B], a request each. items, worth: [B, M], NOTHING and -inf behind the last. k: at most M."""

    def rerank(self, queries: Queries, candidates: Candidates, k: int) -> Candidates:
        pool = candidates.items.shape[1] if self.config.pool is None else max(k, self.config.pool)
        items, present = candidates.items[:, :pool], candidates.present[:, :pool]
        worth = relevance(candidates.scores[:, :pool], present, self.config.relevance)
        drawn = self.draw(request_keys(queries, self.config.seed), items, worth, min(k, items.shape[1]))
        return written(candidates, drawn, k)


def written(candidates: Candidates, drawn: Drawn, k: int) -> Candidates:
    """The slates [B, K] of a draw, with what it wrote."""
    missing = ((0, 0), (0, k - drawn.order.shape[1]))
    slate = chosen(candidates, np.pad(drawn.order, missing, constant_values=-1))
    # an integral may miss 1 by its error
    propensity = np.pad(np.minimum(drawn.propensity, 1), missing, constant_values=np.nan)
    columns = {PROPENSITY: propensity, LOG_SLATE: np.broadcast_to(drawn.log_slate[:, None], propensity.shape)}
    kept = {name: np.where(slate.present, column, np.nan).astype(np.float32) for name, column in columns.items()}
    return replace(slate, features={**slate.features, **kept})


def fastest(times: Doubles, present: npt.NDArray[np.bool_], k: int) -> Longs:
    """The K present with the smallest times, in order; -1 behind the last."""
    order = np.argsort(np.where(present, times, np.inf), axis=1, kind="stable")[:, :k]
    return np.where(np.arange(k) < present.sum(axis=1)[:, None], order, -1)
