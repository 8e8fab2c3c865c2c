"""Several lists of candidates into one, without repeats, with every retriever's score and rank kept for the ranker.

The order is reciprocal-rank fusion: G. Cormack, C. Clarke, S. Buettcher, "Reciprocal rank fusion outperforms Condorcet and
individual rank learning methods" (SIGIR 2009): `score = sum over lists of 1 / (60 + rank)`, rank counted from 1. Scores of
different retrievers are on different scales, ranks are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from palate.retrieve.topk import top_k
from palate.types import NOTHING, Candidates, Floats

RRF = 60
"""The constant of Cormack et al., section 2."""

_ROWS = 4096


def merge(lists: Sequence[Candidates], quotas: Sequence[int], k: int | None = None) -> Candidates:
    """One list [B, K] from the first `quotas[l]` places of each list; `k` None keeps all.

    lists: one a retriever, all of B queries; each of one source. Each item of the result carries `<source>.score` and
    `<source>.rank` (from 0) of every list, NaN where that list did not bring it, and as `source` the list that ranks it best (of
    equals, the earlier).
    Ties in the fused score go to the lower item code. Cost: O(B M log M) for M places in all; no loop over items.
    """
    names = [name for candidates in lists for name in candidates.sources]
    if not lists or len(lists) != len(quotas) or len(names) != len(lists) or len(set(names)) != len(names):
        raise ValueError(
            f"merge needs one quota a list and one source a list, each of its own name; got sources {names}, quotas {list(quotas)}"
        )
    taken = [_first(candidates, quota) for candidates, quota in zip(lists, quotas, strict=True)]
    width = sum(candidates.items.shape[1] for candidates in taken)
    k = width if k is None else k
    b = len(taken[0])
    parts = [
        _merge([candidates.take(np.arange(start, min(start + _ROWS, b))) for candidates in taken], k)
        for start in range(0, max(b, 1), _ROWS)
    ]
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[0],
        items=np.concatenate([part.items for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        source=np.concatenate([part.source for part in parts]),
        features={name: np.concatenate([part.features[name] for part in parts]) for name in parts[0].features},
    )


def behind(first: Candidates, then: Candidates) -> Candidates:
    """Both lists in one, the second after the first without what that has: [B, K + K'], of the same sources and features.

    The scores of the second are scaled down to stay below those of the first.
    """
    again = (then.items[:, :, None] == first.items[:, None, :]).any(axis=2)
    least = np.where(first.present, first.scores, np.inf).min(axis=1, initial=np.inf, keepdims=True)
    scale = np.where(np.isfinite(least), least / (1 + then.scores.max(axis=1, initial=1, keepdims=True)), 1)
    items = np.concatenate([first.items, np.where(again, NOTHING, then.items)], axis=1)
    joined = Candidates(
        items=items.astype(np.int32),
        scores=np.where(items == NOTHING, -np.inf, np.concatenate([first.scores, then.scores * scale], axis=1)).astype(np.float32),
        sources=first.sources,
        source=np.where(items == NOTHING, -1, np.concatenate([first.source, then.source], axis=1)).astype(np.int8),
        features={name: np.concatenate([column, then.features[name]], axis=1) for name, column in first.features.items()},
    )
    order = np.argsort(~joined.present, axis=1, kind="stable")
    gone = {name: np.where(joined.present, column, np.nan).astype(np.float32) for name, column in joined.features.items()}
    return replace(joined, features=gone).reorder(order)


def together(parts: Sequence[tuple[npt.NDArray[Any], Candidates]]) -> Candidates:
    """Lists of some of the queries each, put back in the order of the queries: rows `rows` of the result are the part's.

    Every row stands in one part. The result is as wide as the widest part; the sources and features of all are the same.
    """
    if len(parts) == 1:
        return parts[0][1]
    shape = (sum(len(rows) for rows, _ in parts), max(found.items.shape[1] for _, found in parts))

    def placed(of: Callable[[Candidates], npt.NDArray[Any]], filler: float) -> npt.NDArray[Any]:
        whole = np.full(shape, filler, dtype=of(parts[0][1]).dtype)
        for rows, found in parts:
            whole[rows, : found.items.shape[1]] = of(found)
        return whole

    first = parts[0][1]
    return Candidates(
        items=placed(lambda found: found.items, NOTHING),
        scores=placed(lambda found: found.scores, -np.inf),
        sources=first.sources,
        source=placed(lambda found: found.source, -1),
        features={name: placed(partial(_feature, name), np.nan) for name in first.features},
    )


def _feature(name: str, candidates: Candidates) -> Floats:
    return candidates.features[name]


def _first(candidates: Candidates, quota: int) -> Candidates:
    return replace(
        candidates, items=candidates.items[:, :quota], scores=candidates.scores[:, :quota], source=candidates.source[:, :quota], features={}
    )


def _merge(lists: Sequence[Candidates], k: int) -> Candidates:
    b = len(lists[0])
    items = np.concatenate([candidates.items for candidates in lists], axis=1).astype(np.int64)
    width = items.shape[1]
    shift = max(width, 1).bit_length()
    # One sort of (item, place) packed in an integer brings the places of an item together; absent ones go last.
    keys = np.where(items == NOTHING, np.int64(1) << 62, (items << shift) | np.arange(width))
    keys.sort(axis=1)
    item, place = keys >> shift, keys & ((1 << shift) - 1)
    present = keys < np.int64(1) << 62
    starts = present.copy()
    starts[:, 1:] &= item[:, 1:] != item[:, :-1]
    group = np.cumsum(starts, axis=1) - 1
    shape = (b, int(starts.sum(axis=1).max(initial=0)))

    fused = np.zeros(shape)
    best = np.full(shape, np.inf)
    source = np.full(shape, -1, dtype=np.int8)
    unique = np.full(shape, NOTHING, dtype=np.int32)
    first_rows = np.nonzero(starts)[0]
    unique[first_rows, group[starts]] = item[starts]
    features: dict[str, Floats] = {}
    first = 0
    for number, candidates in enumerate(lists):
        stop = first + candidates.items.shape[1]
        rows, at = np.nonzero(present & (place >= first) & (place < stop))
        rank = place[rows, at] - first
        groups = group[rows, at]
        fused[rows, groups] += 1.0 / (RRF + 1 + rank)
        better = rank < best[rows, groups]
        best[rows[better], groups[better]] = rank[better]
        source[rows[better], groups[better]] = number
        name = candidates.sources[0]
        brought: dict[str, npt.NDArray[Any]] = {"score": candidates.scores[rows, rank], "rank": rank}
        for feature, values in brought.items():
            column = np.full(shape, np.nan, dtype=np.float32)
            column[rows, groups] = values
            features[f"{name}.{feature}"] = column
        first = stop
    columns, scores = top_k(np.where(unique == NOTHING, -np.inf, fused).astype(np.float32), k)
    absent = columns == NOTHING
    places = np.where(absent, 0, columns)

    def ordered(values: npt.NDArray[Any], filler: float) -> npt.NDArray[Any]:
        if not shape[1]:
            return np.full((b, k), filler, dtype=values.dtype)
        return np.where(absent, np.array(filler, dtype=values.dtype), np.take_along_axis(values, places, 1))

    return Candidates(
        items=ordered(unique, NOTHING),
        scores=scores,
        sources=tuple(candidates.sources[0] for candidates in lists),
        source=ordered(source, -1),
        features={name: ordered(column, np.nan) for name, column in features.items()},
    )
