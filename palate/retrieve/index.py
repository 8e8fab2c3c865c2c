"""Exact search: the K items whose vectors have the largest inner product, or cosine, with each query's vector.

Exact because it is quick enough for catalogues of some hundred thousand items, and because graph indices fail silently on raw inner
products; the scan in blocks with a running list of the best is that of J. Johnson, M. Douze, H. Jegou, "Billion-scale similarity
search with GPUs" (IEEE Big Data 2019), section 3, without the quantiser.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from palate.retrieve.topk import BLOCK, top_k
from palate.types import NOTHING, Bools, Candidates, Floats, Ints, Queries, Ragged

ITEMS = 1 << 15
"""Items in a block."""


class ExactIndex:
    """Item vectors, searched in blocks of queries and of items.

    vectors: float32 [N, D], row i for item code i. similarity: `dot` or `cosine` (rows of length 0 then score 0).
    Memory: the vectors (for `cosine` a normalised copy) and O(`BLOCK`) scores while searching, never B x N.
    """

    def __init__(self, vectors: Floats, similarity: Literal["dot", "cosine"] = "dot", items: int = ITEMS) -> None:
        self.similarity = similarity
        self.vectors = self._prepared(vectors)
        self._items = items

    def __len__(self) -> int:
        return len(self.vectors)

    def _prepared(self, vectors: Floats) -> Floats:
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if self.similarity == "dot":
            return vectors
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.where(length > 0, length, 1), dtype=np.float32)

    def search(self, vectors: Floats, k: int, blocked: Ragged | None = None, allowed: Bools | None = None) -> tuple[Ints, Floats]:
        """Items int32 [B, K] and scores float32 [B, K], falling; equal scores by lower code; NOTHING and -inf where too few are left.

        vectors: [B, D]. blocked: for each query, codes never to return. allowed: bool [N], which items may be returned.
        Both are masked before the best are taken. Cost: O(B N D).
        """
        queries = self._prepared(vectors)
        items = np.full((len(queries), k), NOTHING, dtype=np.int32)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        size = max(1, BLOCK // max(1, min(self._items, len(self))))
        for start in range(0, len(queries), size):
            rows = slice(start, start + size)
            part = None if blocked is None else blocked.take(np.arange(start, min(start + size, len(queries))))
            items[rows], scores[rows] = self._search(queries[rows], k, part, allowed)
        return items, scores

    def retrieve(self, vectors: Floats, queries: Queries, k: int, source: str) -> Candidates:
        """The K best of each query as Candidates: `search` with the queries' own masks. vectors: [B, D], row b for query b."""
        return Candidates.of(*self.search(vectors, k, queries.blocked, queries.allowed), source)

    def _search(self, queries: Floats, k: int, blocked: Ragged | None, allowed: Bools | None) -> tuple[Ints, Floats]:
        """One block of queries: a running list of the best, merged with the best of each block of items."""
        items = np.full((len(queries), 0), NOTHING, dtype=np.int32)
        scores = np.full((len(queries), 0), -np.inf, dtype=np.float32)
        if blocked is not None:
            order = np.argsort(blocked.values, kind="stable")
            codes, owners = blocked.values[order], blocked.rows[order]
        for start in range(0, len(self), self._items):
            stop = min(start + self._items, len(self))
            block = queries @ self.vectors[start:stop].T
            if allowed is not None:
                block[:, ~allowed[start:stop]] = -np.inf
            if blocked is not None:
                within = slice(*np.searchsorted(codes, [start, stop]))
                block[owners[within], codes[within] - start] = -np.inf
            found, best = top_k(block, k)
            found[found != NOTHING] += start
            # The running list holds lower codes than the block, so that the lower place wins a tie here as well.
            items, both = np.concatenate([items, found], axis=1), np.concatenate([scores, best], axis=1)
            places, scores = top_k(both, k)
            items = np.where(places == NOTHING, NOTHING, np.take_along_axis(items, np.maximum(places, 0), 1)).astype(np.int32)
        return (items, scores) if len(self) else top_k(np.zeros((len(queries), 0), dtype=np.float32), k)
