"""Emptying places of candidate lists: shared by the rerankers that remove."""

from __future__ import annotations

import numpy as np

from palate.types import NOTHING, Bools, Candidates


def only(candidates: Candidates, keep: Bools) -> Candidates:
    """The lists with NOTHING where `keep` [B, K] is False; the places to keep are expected to come first in each row."""
    return Candidates(
        items=np.where(keep, candidates.items, NOTHING).astype(np.int32),
        scores=np.where(keep, candidates.scores, -np.inf).astype(np.float32),
        sources=candidates.sources,
        source=np.where(keep, candidates.source, -1).astype(np.int8),
        features={name: np.where(keep, column, np.nan).astype(np.float32) for name, column in candidates.features.items()},
    )


def first(candidates: Candidates, keep: Bools, k: int) -> Candidates:
    """The first K places [B, K] that `keep` [B, M] names, in their order; NOTHING at the end where there are fewer."""
    order = np.argsort(~keep, axis=1, kind="stable")[:, :k]
    if order.shape[1] < k:
        order = np.pad(order, ((0, 0), (0, k - order.shape[1])))
    found = np.arange(k) < keep.sum(axis=1)[:, None]
    return only(candidates.reorder(order), found)
