"""Moving and emptying places of candidate lists: shared by the rerankers."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from palate.types import NOTHING, Bools, Candidates, Floats

Relevance = Literal["minmax", "rank", "raw"]


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


def chosen(candidates: Candidates, order: npt.NDArray[Any], scores: Floats | None = None) -> Candidates:
    """The lists in the order of choice. order: int [B, K] places in the old list, -1 at the end where none was left.

    scores: float [B, K], falling; None gives each place the best of the old scores from there on, so that scores fall although the order
    is another: an item that was moved up is scored like the best behind it.
    """
    found = order >= 0
    if not candidates.items.shape[1]:
        width = ((0, 0), (0, order.shape[1]))
        return only(
            Candidates(
                np.pad(candidates.items, width, constant_values=NOTHING),
                np.pad(candidates.scores, width, constant_values=-np.inf),
                candidates.sources,
                np.pad(candidates.source, width, constant_values=-1),
                {name: np.pad(column, width, constant_values=np.nan) for name, column in candidates.features.items()},
            ),
            found,
        )
    slate = only(candidates.reorder(np.maximum(order, 0)), found)
    if scores is None:
        scores = np.maximum.accumulate(slate.scores[:, ::-1], axis=1)[:, ::-1]
    return only(Candidates(slate.items, scores.astype(np.float32), slate.sources, slate.source, slate.features), found)


def by(candidates: Candidates, values: npt.NDArray[Any], k: int) -> Candidates:
    """The K candidates of the largest values [B, M], which become their scores; ties keep their order."""
    values = np.where(candidates.present, values, -np.inf).astype(np.float32)
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    found = np.arange(order.shape[1]) < candidates.present.sum(axis=1)[:, None]
    order = np.pad(np.where(found, order, -1), ((0, 0), (0, k - order.shape[1])), constant_values=-1)
    return chosen(candidates, order, _at(values, order))


def _at(values: Floats, order: npt.NDArray[Any]) -> Floats:
    if not values.shape[1]:
        return np.full(order.shape, -np.inf, dtype=np.float32)
    return np.take_along_axis(values, np.maximum(order, 0), 1)


def relevance(scores: Floats, present: Bools, how: Relevance) -> Floats:
    """What candidates [B, K] are worth on one scale whatever the ranker: float32, -inf where there is none.

    `minmax`: of each list the best is 1 and the worst 0 (all are 1 if all are equal); `rank`: falling evenly from 1 to 0; `raw`: as it is.
    """
    if how == "rank":
        last = np.maximum(present.sum(axis=1, keepdims=True) - 1, 1)
        values = 1 - np.arange(scores.shape[1]) / last
    elif how == "minmax":
        low, spread = lowest_and_spread(scores, present)
        with np.errstate(invalid="ignore"):
            values = np.where(spread > 0, (scores - low) / np.where(spread > 0, spread, 1), 1)
    else:
        values = scores
    return np.where(present, values, -np.inf).astype(np.float32)


def lowest_and_spread(scores: npt.NDArray[Any], present: Bools) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The lowest score of each list and how far the highest lies above it, [B, 1]; 0 and 0 of an empty list."""
    low = np.where(present, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    high = np.where(present, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    some = present.any(axis=1, keepdims=True)
    return np.where(some, low, 0), np.where(some, np.where(some, high, 0) - np.where(some, low, 0), 0)
