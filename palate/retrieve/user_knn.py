"""User to user: what people with a like history wanted.

J. Herlocker, J. Konstan, A. Borchers, J. Riedl, "An algorithmic framework for performing collaborative filtering" (SIGIR 1999),
for implicit feedback: the score of item j is the sum over the nearest users v of their likeness to the query times what j weighs to them
(1 if they wanted it). The likeness is one of `palate.retrieve.similarity`, of users by their items.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import pydantic
from scipy import sparse

from palate.retrieve.base import EventWeights, Retriever, weighted_interactions
from palate.retrieve.similarity import Likeness, nearest
from palate.retrieve.topk import BLOCK, answer_sparse, entries, evidence, query_matrix, score_given, strongest
from palate.types import Candidates, Floats, Ints, Log, Queries, Run, State


class UserKNN(Retriever):
    """Neighbours of the query among all users of the log, found by its history: users never seen are served alike.

    A known user's own row is never among their neighbours: it holds nothing but the history (all of it blocked), or, for a query of the
    past, the future. Brings nothing for an empty history.
    Cost: fit O(E); retrieve O(events of the users that share an item) a query, in blocks, so that memory does not grow with B.
    """

    class Config(Retriever.Config, EventWeights):
        """neighbours: how many users vote. similarity, shrink: see the files' heads. half_life: in places; the newest item of a history
        weighs 1 in the likeness, one `half_life` places older 1/2 (None: all alike).
        """

        similarity: Literal["cosine", "jaccard", "pearson", "tfidf", "bm25"] = "cosine"
        neighbours: int = pydantic.Field(50, ge=1)
        shrink: float = pydantic.Field(0.0, ge=0)
        half_life: float | None = pydantic.Field(None, gt=0)

    config: Config
    matrix: sparse.csr_matrix
    """float32 [U, N]: what each user wanted."""

    def fit(self, log: Log, run: Run = Run()) -> Self:
        return self._take(weighted_interactions(log, self.config))

    def _take(self, matrix: sparse.csr_matrix) -> Self:
        self.matrix = matrix
        self._likeness = Likeness(matrix.T.tocsr(), self.config.similarity, self.config.shrink)
        return self

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        return answer_sparse(self._score, queries, self.matrix.shape[1], k, self.name)

    def score(self, queries: Queries, items: Ints) -> Floats:
        return score_given(lambda part: evidence(self._score(part)), queries, self.matrix.shape[1], items)

    def _score(self, queries: Queries) -> sparse.csr_matrix:
        """float32 [b, N]: an entry for every item that a neighbour wanted."""
        return sparse.csr_matrix(self._near(queries) @ self.matrix)

    def _near(self, queries: Queries) -> sparse.csr_matrix:
        """Likeness of each query to its nearest users: float32 [b, U], at most `neighbours` a row."""
        known = query_matrix(queries.history, self.matrix.shape[1], self.config.half_life)
        size, rows = max(1, BLOCK // max(self.matrix.shape[0], 1)), [known[:0] @ self.matrix.T]
        for start in range(0, len(queries), size):
            likeness = self._likeness.of(known[start : start + size])
            own = np.repeat(queries.users[start : start + size], np.diff(likeness.indptr))
            rows.append(nearest(entries(likeness, likeness.indices != own), self.config.neighbours))
        return sparse.vstack(rows, format="csr")

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
        arrays = {"indptr": m.indptr.astype(np.int64), "indices": m.indices.astype(np.int32)}
        if not (m.data == 1).all():
            arrays["data"] = m.data
        return State(arrays=arrays, meta={"n_items": int(m.shape[1])})

    def restore(self, state: State) -> Self:
        indptr, indices = state.arrays["indptr"], state.arrays["indices"]
        data = state.arrays.get("data", np.ones(len(indices), dtype=np.float32))
        return self._take(sparse.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, int(state.meta["n_items"]))))
