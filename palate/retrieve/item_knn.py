"""Item to item: what goes with what was in the history, by common users or by what came next.

B. Sarwar, G. Karypis, J. Konstan, J. Riedl, "Item-based collaborative filtering recommendation algorithms" (WWW 2001);
M. Deshpande, G. Karypis, "Item-based top-N recommendation algorithms" (TOIS 2004), section 4;
`sequential`: the sequential rules of M. Ludewig, D. Jannach, "Evaluation of session-based recommendation algorithms" (UMUAI 2018),
section 3.1.3. With n_i the users of item i and n_ij those of both, and x_ui = 1 where u is a user of i:

    cosine       n_ij / sqrt(n_i n_j)
    jaccard      n_ij / (n_i + n_j - n_ij)
    tfidf        cosine of x_ui idf_u, with idf_u = log(1 + N / n_u): a user of few items says more
    bm25         sum_u idf_u^2 b_i b_j, with b_i = (k1 + 1) / (1 + k1 (1 - b + b n_i / mean n)), k1 = 1.2, b = 0.75
    conditional  n_ij / (n_i n_j^alpha): the chance of j given i, popular j held back (Deshpande and Karypis, equation 5)
    sequential   f_ij / (n_i n_j^alpha), where f_ij sums 1 / d over all places where j follows i by d <= window places

Shrinking multiplies by n_ij / (n_ij + shrink) (f_ij for `sequential`): likeness on few users is doubted. Of each item's row
only the `neighbours` largest stay, and the score of item j is the sum over the history of w_i s_ij, where w_i falls with age.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

import numpy as np
import pydantic
from scipy import sparse

from palate.retrieve.base import Retriever, interactions, wanted
from palate.retrieve.gram import sparse_gram_blocks
from palate.retrieve.topk import BLOCK, answer, query_matrix, score_given, strongest
from palate.types import Candidates, Floats, Ints, Log, Queries, Run, State

_K1, _B = 1.2, 0.75


class ItemKNN(Retriever):
    """Neighbours of the items of the history. Serves users it never saw; brings nothing for an empty history.

    Cost: fit one multiply-add for each pair of items of a user (for `sequential`, `window` an event), in blocks of rows, so that
    memory is O(N neighbours); retrieve O(history x neighbours + N) a query.
    """

    class Config(Retriever.Config):
        """similarity, shrink: see the file's head. alpha: of `conditional` (0.5 unless given) and `sequential` (0.1 unless given).
        window: of `sequential`, in places. neighbours: how many to keep of each item (`sequential`: 500 unless given). half_life: in
        places; the newest item of a history weighs 1, one `half_life` places older 1/2 (None: all alike; `sequential`: 3 unless
        given). last: use only so many items of a history (None: all).
        """

        similarity: Literal["cosine", "jaccard", "tfidf", "bm25", "conditional", "sequential"] = "tfidf"
        neighbours: int = pydantic.Field(100, ge=1)
        shrink: float = pydantic.Field(0.0, ge=0)
        alpha: float = pydantic.Field(0.5, ge=0, le=1)
        window: int = pydantic.Field(10, ge=1)
        half_life: float | None = pydantic.Field(None, gt=0)
        last: int | None = pydantic.Field(None, ge=1)

        @pydantic.model_validator(mode="before")
        @classmethod
        def _what_suits_sequences(cls, given: Any) -> Any:
            if isinstance(given, dict) and given.get("similarity") == "sequential":
                return {"alpha": 0.1, "half_life": 3.0, "neighbours": 500, **given}
            return given

    config: Config
    neighbours: sparse.csr_matrix
    """float32 [N, N]: row i holds the items that item i speaks for."""

    def fit(self, log: Log, run: Run = Run()) -> Self:
        blocks = _transitions(log, self.config) if self.config.similarity == "sequential" else _likeness(log, self.config)
        rows = [_nearest(block, start, self.config.neighbours) for start, block in blocks]
        self.neighbours = sparse.vstack(rows, format="csr") if rows else sparse.csr_matrix((0, 0), dtype=np.float32)
        return self

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        return answer(self._score, queries, self.neighbours.shape[0], k, self.name)

    def score(self, queries: Queries, items: Ints) -> Floats:
        return score_given(self._score, queries, self.neighbours.shape[0], items)

    def _score(self, queries: Queries) -> Floats:
        scores = (self._known(queries) @ self.neighbours).toarray()
        scores[scores <= 0] = -np.inf
        return scores

    def _known(self, queries: Queries) -> sparse.csr_matrix:
        return query_matrix(queries.history, self.neighbours.shape[0], self.config.half_life, self.config.last)

    def because(self, queries: Queries, items: Ints) -> Ints | None:
        return strongest(self._known(queries), items, lambda _, history, shown: self.neighbours[history][:, shown].toarray())

    def state(self) -> State:
        n = self.neighbours
        return State(arrays={"indptr": n.indptr.astype(np.int64), "indices": n.indices.astype(np.int32), "data": n.data})

    def restore(self, state: State) -> Self:
        arrays = state.arrays
        size = len(arrays["indptr"]) - 1
        self.neighbours = sparse.csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=(size, size))
        return self


def _nearest(block: sparse.csr_matrix, start: int, neighbours: int) -> sparse.csr_matrix:
    """The largest positive values of each row, of equals those of lower codes; row r is item `start + r`, no neighbour of itself."""
    rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    keep = (block.data > 0) & (block.indices != rows + start)
    for row in np.flatnonzero(np.diff(block.indptr) > neighbours):
        own = slice(block.indptr[row], block.indptr[row + 1])
        values = np.where(keep[own], block.data[own], 0)
        last = np.partition(values, len(values) - neighbours)[len(values) - neighbours]
        above = values > last
        level = np.flatnonzero((values == last) & keep[own])
        above[level[np.argsort(block.indices[own][level])[: neighbours - int(above.sum())]]] = True
        keep[own] = above
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows[keep], minlength=block.shape[0]))])
    nearest = sparse.csr_matrix((block.data[keep].astype(np.float32), block.indices[keep], indptr), shape=block.shape)
    nearest.sort_indices()
    return nearest


def _likeness(log: Log, config: ItemKNN.Config) -> Iterator[tuple[int, sparse.csr_matrix]]:
    """Blocks of rows of the similarity by common users."""
    x = interactions(log)
    n = np.asarray(x.sum(axis=0)).ravel()
    weighted, norm = _weighted(x, n, config)
    common = sparse_gram_blocks(x) if config.shrink and weighted is not x else None
    for start, block in sparse_gram_blocks(weighted):
        i, j, met = start + np.repeat(np.arange(block.shape[0]), np.diff(block.indptr)), block.indices, block.data
        users = met if common is None else next(common)[1].data
        if config.similarity == "jaccard":
            likeness = met / (n[i] + n[j] - met)
        elif config.similarity == "conditional":
            likeness = met / (n[i] * n[j] ** config.alpha)
        elif config.similarity == "bm25":
            likeness = met
        else:
            likeness = met / (norm[i] * norm[j])
        block.data = likeness * (users / (users + config.shrink)) if config.shrink else likeness
        yield start, block


def _weighted(x: sparse.csr_matrix, n: Floats, config: ItemKNN.Config) -> tuple[sparse.csr_matrix, Floats]:
    """The matrix with the weights of `tfidf` or `bm25`, and the norms of its columns."""
    if config.similarity not in ("tfidf", "bm25"):
        return x, np.sqrt(n)
    idf = np.log1p(x.shape[1] / np.maximum(np.diff(x.indptr), 1)).astype(np.float32)
    weighted = x.copy()  # the same places as x, so that blocks of both products line up entry by entry
    weighted.data = np.repeat(idf, np.diff(x.indptr))
    if config.similarity == "bm25":
        length = n / (n.sum() / max(np.count_nonzero(n), 1) or 1)
        weighted.data *= ((_K1 + 1) / (1 + _K1 * (1 - _B + _B * length))).astype(np.float32)[x.indices]
    return weighted, np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=0)).ravel())


def _transitions(log: Log, config: ItemKNN.Config) -> Iterator[tuple[int, sparse.csr_matrix]]:
    """Blocks of rows of the similarity by what came next."""
    positives = wanted(log)
    order = np.argsort(positives.user_codes, kind="stable")
    users, items = positives.user_codes[order], positives.item_codes[order]
    n = np.bincount(items, minlength=log.n_items).astype(np.float32)
    by_item = np.argsort(items, kind="stable")
    ends = np.cumsum(n.astype(np.int64))
    # As many rows to a block as have about BLOCK pairs between them.
    blocks = np.searchsorted(ends * config.window, np.arange(BLOCK, ends[-1] * config.window + BLOCK, BLOCK), side="right") + 1
    start = 0
    for stop in np.unique(np.minimum(blocks, log.n_items)).tolist():
        at = by_item[ends[start] - int(n[start]) : ends[stop - 1]]
        sources, targets, weights = [], [], []
        for distance in range(1, config.window + 1):
            at = at[at + distance < len(items)]
            at = at[users[at] == users[at + distance]]
            sources.append(items[at] - start)
            targets.append(items[at + distance])
            weights.append(np.full(len(at), 1 / distance, dtype=np.float32))
        pairs = (np.concatenate(sources), np.concatenate(targets))
        block = sparse.csr_matrix((np.concatenate(weights), pairs), shape=(stop - start, log.n_items))
        block.sum_duplicates()
        i = start + np.repeat(np.arange(stop - start), np.diff(block.indptr))
        chance = block.data / (n[i] * n[block.indices] ** config.alpha)
        block.data = chance * (block.data / (block.data + config.shrink))
        yield start, block
        start = stop
