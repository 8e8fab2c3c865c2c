"""The step that all retrievers share: scores of a block of queries -> the K best items, masked, best first.

A retriever that scores says how the rows of a block are scored; `answer` does the rest. A score of -inf means "no
evidence for this item": such items are never returned, so a list may be short (and is empty for an empty history).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from palate.retrieve.base import history_matrix
from palate.retrieve.bfloat16 import Bits, floats
from palate.types import NOTHING, Candidates, Floats, Ints, Queries, Ragged

BLOCK = 1 << 23
"""Scores held at once (32 MB of float32)."""


def answer(score: Callable[[Queries], Floats], queries: Queries, n_items: int, k: int, source: str) -> Candidates:
    """Candidates [B, K] of a scorer.

    score: a block of b queries -> float32 [b, N], which this function may overwrite; -inf where there is no evidence.
    Blocked items and items outside `allowed` are masked before the best are taken; of equal scores the lower code comes first.
    Cost: the scorer's, and O(B N) for selecting; memory O(`BLOCK`), whatever B.
    """
    size = max(1, BLOCK // max(n_items, 1))
    items = np.full((len(queries), k), NOTHING, dtype=np.int32)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    for start in range(0, len(queries), size):
        part = queries[start : start + size] if len(queries) > size else queries
        block = mask(score(part), part)
        items[start : start + len(part)], scores[start : start + len(part)] = top_k(block, k)
    return Candidates.of(items, scores, source)


def answer_sparse(score: Callable[[Queries], sparse.csr_matrix], queries: Queries, n_items: int, k: int, source: str) -> Candidates:
    """`answer` for a scorer that has evidence for few items: it gives a sparse matrix [b, N], whose entries are all the evidence there is.

    Cost: the scorer's, and O(entries) for selecting; memory O(`BLOCK`) and the entries of a block, whatever B.
    """
    size = max(1, BLOCK // max(n_items, 1))
    items = np.full((len(queries), k), NOTHING, dtype=np.int32)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    hidden = np.zeros((min(size, len(queries)), n_items), dtype=bool)
    for start in range(0, len(queries), size):
        part = queries[start : start + size] if len(queries) > size else queries
        found = score(part)
        if queries.allowed is not None:
            found = entries(found, queries.allowed[found.indices])
        # Of a row with h blocked items the K best are among its K + h largest: the few, not all, are looked up.
        found = largest(found, k + part.blocked.lengths)
        blocked = (part.blocked.rows, part.blocked.values)
        hidden[blocked] = True
        free = entries(found, ~hidden[np.repeat(np.arange(len(part)), np.diff(found.indptr)), found.indices])
        hidden[blocked] = False
        items[start : start + len(part)], scores[start : start + len(part)] = top_k_sparse(free, k)
    return Candidates.of(items, scores, source)


def evidence(found: sparse.csr_matrix) -> Floats:
    """A sparse matrix of scores [b, N] as `answer` takes them: -inf where it has no entry."""
    scores = np.full(found.shape, -np.inf, dtype=np.float32)
    scores[np.repeat(np.arange(found.shape[0]), np.diff(found.indptr)), found.indices] = found.data
    return scores


def entries(matrix: sparse.csr_matrix, keep: npt.NDArray[np.bool_]) -> sparse.csr_matrix:
    """Some of the entries of a sparse matrix, in their order. keep: bool, one an entry."""
    kept = np.concatenate([[0], np.cumsum(keep)])
    return sparse.csr_matrix((matrix.data[keep], matrix.indices[keep], kept[matrix.indptr]), shape=matrix.shape)


def score_given(score: Callable[[Queries], Floats], queries: Queries, n_items: int, items: Ints) -> Floats:
    """What the scorer of `answer` says of given items [B, K]: float32 [B, K], -inf where the item is NOTHING; no masks.

    Cost: the scorer's for every item, in blocks, so that memory is O(`BLOCK`).
    """
    given = np.full(items.shape, -np.inf, dtype=np.float32)
    size = max(1, BLOCK // max(n_items, 1))
    for start in range(0, len(queries) if items.size else 0, size):
        rows = items[start : start + size]
        there = np.take_along_axis(score(queries[start : start + size]), np.maximum(rows, 0), 1)
        given[start : start + size] = np.where(rows == NOTHING, -np.inf, there)
    return given


def inner_products(queries: Floats, vectors: Floats | Bits, items: Ints) -> Floats:
    """Inner products of each query's vector with those of given items: float32 [B, K], -inf where the item is NOTHING.

    queries: [B, D]. vectors: [N, D], row i for item code i, float32 or the `Bits` of bfloat16. items: [B, K].
    Cost: O(B K D); memory O(`BLOCK`).
    """
    given = np.full(items.shape, -np.inf, dtype=np.float32)
    size = max(1, BLOCK // max(items.shape[1] * vectors.shape[1], 1))
    for start in range(0, len(items) if items.size else 0, size):
        rows = items[start : start + size]
        there = np.einsum("bd,bkd->bk", queries[start : start + size], floats(vectors[np.maximum(rows, 0)]))
        given[start : start + size] = np.where(rows == NOTHING, -np.inf, there)
    return given


def mask(scores: Floats, queries: Queries) -> Floats:
    """-inf, in place, where the query must not be given the item. scores: [b, N]."""
    scores[queries.blocked.rows, queries.blocked.values] = -np.inf
    if queries.allowed is not None:
        scores[:, ~queries.allowed] = -np.inf
    return scores


def top_k(scores: Floats, k: int, above: Floats | None = None) -> tuple[Ints, Floats]:
    """The K largest of each row, falling; equal scores by lower column. scores: [b, N] -> columns [b, K], scores [b, K].

    Where a row has fewer than K scores above -inf, the rest is NOTHING and -inf. above: float32 [b], only scores greater than this
    count: what is known of elsewhere already. NaN is never taken. Cost: O(b (N + K log K)); two passes over the scores at the speed of
    memory, and little beside them unless many scores are equal to the K-th.
    """
    b, n = scores.shape
    items = np.full((b, k), NOTHING, dtype=np.int32)
    best = np.full((b, k), -np.inf, dtype=np.float32)
    if k and n:
        size = max(1, _PIECE // n)
        for start in range(0, b, size):
            part = slice(start, start + size)
            found, values = _top_k(scores[part], k, None if above is None else above[part])
            items[part, : found.shape[1]], best[part, : found.shape[1]] = found, values
    return items, best


_PIECE = 1 << 19
"""Scores looked at together by `top_k`: what stays in a core's cache between its passes."""


def _top_k(scores: Floats, k: int, above: Floats | None) -> tuple[Ints, Floats]:
    """`top_k` of a few rows, at most K columns wide."""
    b, n = scores.shape
    least: Floats = np.full(b, np.finfo(np.float32).min, dtype=np.float32)  # all but -inf
    groups = max(16 * k, 512)
    if above is not None:
        least = np.maximum(least, np.nextafter(above, np.float32(np.inf), dtype=np.float32))
    elif n >= 4 * groups:
        # The largest of each of many groups: K groups have one at least as large as the K-th largest of these, so that many scores
        # are, and none below it can be among the K best.
        deep = n // groups
        most = scores[:, : deep * groups].reshape(b, deep, groups).max(axis=1)
        least = np.fmax(least, np.partition(most, groups - k, axis=1)[:, groups - k])
    places = np.flatnonzero(scores >= least[:, None])
    rows, columns = np.divmod(places, n)
    counts = np.bincount(rows, minlength=b)
    width = int(counts.max(initial=0))
    # Each row's own, in the order of their columns, which a stable sort leaves to equal scores.
    within = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    values = np.full((b, width), -np.inf, dtype=np.float32)
    values[rows, within] = scores.reshape(-1)[places]
    found = np.full((b, width), NOTHING, dtype=np.int32)
    found[rows, within] = columns
    if width > 2 * k:
        values, found = _cut(values, found, k)
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(found, order, 1), np.take_along_axis(values, order, 1)


def _cut(values: Floats, columns: Ints, k: int) -> tuple[Floats, Ints]:
    """The K largest of each row, of equals the first, in their order. [b, W] -> [b, K], K < W."""
    last = np.partition(values, values.shape[1] - k, axis=1)[:, values.shape[1] - k, None]
    over, level = values > last, values == last
    keep = over | (level & (np.cumsum(level, axis=1) <= k - over.sum(axis=1, keepdims=True)))
    shape = (len(values), k)
    return values[keep].reshape(shape), columns[keep].reshape(shape)


def top_k_sparse(matrix: sparse.csr_matrix, k: int) -> tuple[Ints, Floats]:
    """`top_k` of the entries of each row: columns [b, K], values [b, K], falling; of equal values the lower column first.

    Cost: O(entries + b K log K).
    """
    rows = matrix.shape[0]
    items = np.full((rows, k), NOTHING, dtype=np.int32)
    best = np.full((rows, k), -np.inf, dtype=np.float32)
    if not k or not matrix.nnz:
        return items, best
    matrix = largest(matrix, k)
    # Value and column in one integer: its order is that of falling values, and of equal values the order of the columns.
    bits = (matrix.data.astype(np.float32) + np.float32(0)).view(np.int32)  # + 0 makes -0.0 equal 0.0
    keys = (_ordered(bits).astype(np.int64) << 32) | (_LAST - matrix.indices.astype(np.int64))
    lengths = np.diff(matrix.indptr)
    width = int(lengths.max())
    within = np.arange(width) < lengths[:, None]
    some = np.full((rows, width), np.iinfo(np.int64).min)
    some[within] = keys
    some.sort(axis=1)
    some = some[:, ::-1]
    items[:, :width] = np.where(within, _LAST - (some & 0xFFFFFFFF), NOTHING)
    best[:, :width] = np.where(within, _ordered((some >> 32).astype(np.int32)).view(np.float32), -np.inf)
    return items, best


def largest(matrix: sparse.csr_matrix, k: int | npt.NDArray[Any]) -> sparse.csr_matrix:
    """Only the K largest entries of each row, of equals those of lower columns, as they lie. k: one for all rows, or int [b].

    Cost: O(entries), one selection a row.
    """
    starts, lengths = matrix.indptr, np.diff(matrix.indptr)
    room = np.broadcast_to(k, lengths.shape)
    long = np.flatnonzero(lengths > room)
    if not len(long):
        return matrix
    least = np.full(len(lengths), -np.inf, dtype=matrix.data.dtype)
    for one in long.tolist():
        last = lengths[one] - room[one]
        least[one] = np.partition(matrix.data[starts[one] : starts[one + 1]], last)[last]
    keep = np.flatnonzero(matrix.data >= np.repeat(least, lengths))
    counts = np.diff(np.searchsorted(keep, starts))
    if (counts > room).any():
        # Of the entries that are level with the K-th, only as many as there is room for: those of the lowest columns.
        row = np.repeat(np.arange(len(counts)), counts)
        level = np.flatnonzero((matrix.data[keep] == least[row]) & (counts > room)[row])
        level = level[np.argsort((row[level] << 32) | matrix.indices[keep[level]])]
        levels = np.bincount(row[level], minlength=len(counts))
        place = np.arange(len(level)) - (np.cumsum(levels) - levels)[row[level]]
        over = level[place >= (room - counts + levels)[row[level]]]
        keep = np.delete(keep, over)
        counts = np.diff(np.searchsorted(keep, starts))
    indptr = np.concatenate([[0], np.cumsum(counts)])
    return sparse.csr_matrix((matrix.data[keep], matrix.indices[keep], indptr), shape=matrix.shape)


_LAST = (1 << 31) - 1
"""The largest column there can be."""


def _ordered(bits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The bits of float32 numbers (none NaN) as int32 of the same order; done twice it gives the bits back."""
    return bits ^ ((bits >> 31) & np.int32(_LAST))


def query_matrix(history: Ragged, n_items: int, half_life: float | None = None, last: int | None = None) -> sparse.csr_matrix:
    """Histories as rows over items, newer items weighing more. float32 [B, N].

    The newest item weighs 1, one `half_life` places older 1/2, and so on; None: all weigh 1. Only the `last` items are used if given.
    """
    if last is not None:
        history = history.tail(last)
    weights = None
    if half_life is not None:
        place = np.repeat(history.offsets[1:], history.lengths) - 1 - np.arange(len(history.values))
        weights = np.exp2(-place / half_life)
    return history_matrix(history, n_items, weights)


def strongest(known: sparse.csr_matrix, items: Ints, weight: Callable[[int, Ints, Ints], Floats]) -> Ints:
    """For each item [B, K] the history item with the largest positive contribution; NOTHING where none is positive.

    known: weighted histories [B, N]. weight: row, codes of its history [L] and of items [K] -> how much each speaks for each, [L, K].
    """
    speaks = np.full(items.shape, NOTHING, dtype=np.int32)
    for row in range(len(items)):
        places = np.flatnonzero(items[row] != NOTHING)
        codes = known.indices[known.indptr[row] : known.indptr[row + 1]]
        if not len(places) or not len(codes):
            continue
        data = known.data[known.indptr[row] : known.indptr[row + 1]]
        given = weight(row, codes, items[row, places]) * data[:, None]
        most = given.argmax(axis=0)
        speaks[row, places] = np.where(given[most, np.arange(len(places))] > 0, codes[most], NOTHING)
    return speaks
