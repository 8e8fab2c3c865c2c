"""User to user: what people with a like history wanted.

J. Herlocker, J. Konstan, A. Borchers, J. Riedl, "An algorithmic framework for performing collaborative filtering" (SIGIR 1999),
for implicit feedback: the score of item j is the sum over the nearest users v that wanted j of their likeness to the query,

    cosine    |h & v| / sqrt(|h| |v|)        jaccard   |h & v| / |h | v|        tfidf   cosine with items weighed by log(1 + U / n_i)

times |h & v| / (|h & v| + shrink).
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import pydantic
from scipy import sparse

from palate.retrieve.base import Retriever, interactions
from palate.retrieve.topk import BLOCK, answer, query_matrix, score_given, strongest, top_k
from palate.types import NOBODY, NOTHING, Candidates, Floats, Ints, Log, Queries, Run, State


class UserKNN(Retriever):
    """Neighbours of the query among all users of the log, found by its history: users never seen are served alike.

    A known user's own row is never among their neighbours: it holds nothing but the history (all of it blocked), or, for a query of the
    past, the future. Brings nothing for an empty history.
    Cost: fit O(E); retrieve O(events of the users that share an item) a query, in blocks, so that memory does not grow with B.
    """

    class Config(Retriever.Config):
        """neighbours: how many users vote. similarity, shrink: see the file's head. half_life: in places; the newest item of a history
        weighs 1 in the likeness, one `half_life` places older 1/2 (None: all alike; `jaccard` then takes the sums of weights for counts).
        """

        similarity: Literal["cosine", "jaccard", "tfidf"] = "cosine"
        neighbours: int = pydantic.Field(50, ge=1)
        shrink: float = pydantic.Field(0.0, ge=0)
        half_life: float | None = pydantic.Field(None, gt=0)

    config: Config

    def fit(self, log: Log, run: Run = Run()) -> Self:
        return self._take(interactions(log))

    def _take(self, matrix: sparse.csr_matrix) -> Self:
        self.matrix = matrix
        users, n_items = matrix.shape
        counts = np.bincount(matrix.indices, minlength=n_items)
        weights = np.log1p(users / np.maximum(counts, 1)) if self.config.similarity == "tfidf" else np.ones(n_items)
        self._item_weights: Floats = weights.astype(np.float32)
        self._columns = (matrix @ sparse.diags_array(self._item_weights)).T.tocsr()
        # of each user: the number of items, and the length of the weighted row
        self._sizes: Floats = np.diff(matrix.indptr).astype(np.float32)
        self._lengths: Floats = np.sqrt(matrix @ self._item_weights**2)
        return self

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        return answer(self._score, queries, self.matrix.shape[1], k, self.name)

    def score(self, queries: Queries, items: Ints) -> Floats:
        return score_given(self._score, queries, self.matrix.shape[1], items)

    def _score(self, queries: Queries) -> Floats:
        scores = (self._near(queries) @ self.matrix).toarray()
        scores[scores <= 0] = -np.inf
        return scores

    def _near(self, queries: Queries) -> sparse.csr_matrix:
        """Likeness of each query to its nearest users: float32 [b, U], `neighbours` a row."""
        size = max(1, BLOCK // max(self.matrix.shape[0], 1))
        rows = []
        for start in range(0, len(queries), size):
            likeness = self._likeness(queries[start : start + size])
            users, values = top_k(likeness, self.config.neighbours)
            near = users != NOTHING
            indptr = np.concatenate([[0], np.cumsum(near.sum(axis=1))])
            rows.append(sparse.csr_matrix((values[near], users[near], indptr), shape=likeness.shape))
        return sparse.vstack(rows, format="csr") if rows else sparse.csr_matrix((0, self.matrix.shape[0]), dtype=np.float32)

    def _likeness(self, queries: Queries) -> Floats:
        """float32 [b, U], -inf where there is none and for the user's own row."""
        known = query_matrix(queries.history, self.matrix.shape[1], self.config.half_life)
        weighted = sparse.csr_matrix(known @ sparse.diags_array(self._item_weights))
        shared = (weighted @ self._columns).toarray()
        if self.config.similarity == "jaccard":
            either = np.asarray(known.sum(axis=1)).reshape(-1, 1) + self._sizes - shared
            likeness = shared / np.maximum(either, 1e-12)
        else:
            lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1))).reshape(-1, 1)
            likeness = shared / np.maximum(lengths * self._lengths, 1e-12)
        if self.config.shrink:
            common = (known.sign() @ self.matrix.T).toarray()
            likeness *= common / (common + self.config.shrink)
        own = np.flatnonzero(queries.users != NOBODY)
        likeness[own, queries.users[own]] = 0
        likeness[likeness <= 0] = -np.inf
        return np.asarray(likeness, dtype=np.float32)

    def because(self, queries: Queries, items: Ints) -> Ints | None:
        """The item of the history that most neighbours (by likeness) wanted together with the item."""
        near = self._near(queries)
        known = query_matrix(queries.history, self.matrix.shape[1], self.config.half_life)
        return strongest(known, items, lambda row, history, shown: self._together(near[[row]], history, shown))

    def _together(self, near: sparse.csr_matrix, history: Ints, items: Ints) -> Floats:
        voters = self.matrix[near.indices]
        voted: Floats = (voters[:, history].T.multiply(near.data[None, :]) @ voters[:, items]).toarray()
        return voted

    def state(self) -> State:
        m = self.matrix
        return State(arrays={"indptr": m.indptr.astype(np.int64), "indices": m.indices.astype(np.int32)}, meta={"n_items": int(m.shape[1])})

    def restore(self, state: State) -> Self:
        indptr, indices = state.arrays["indptr"], state.arrays["indices"]
        ones = np.ones(len(indices), dtype=np.float32)
        return self._take(sparse.csr_matrix((ones, indices, indptr), shape=(len(indptr) - 1, int(state.meta["n_items"]))))
