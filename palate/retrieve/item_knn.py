"""Item to item: what goes with what was in the history, by common users or by what came next.

B. Sarwar, G. Karypis, J. Konstan, J. Riedl, "Item-based collaborative filtering recommendation algorithms" (WWW 2001);
M. Deshpande, G. Karypis, "Item-based top-N recommendation algorithms" (TOIS 2004), section 4. The likeness s_ij by common users is one of
`palate.retrieve.similarity`, or, by what came next (the sequential rules of M. Ludewig, D. Jannach, "Evaluation of session-based
recommendation algorithms", UMUAI 2018, section 3.1.3),

    sequential   f_ij / (n_i n_j^alpha), where f_ij sums 1 / d over all places where j follows i by d <= window places,

times f_ij / (f_ij + shrink), with n_i the events of item i. With w_i the weight of item i in the history, which falls with age:

    sum          score_j = sum_i w_i s_ij
    average      score_j = m_j + sum_i (w_i - m_i) s_ij / sum_i s_ij, both sums over the neighbours of j: what a user is expected to say of
                 j, by what they said of its neighbours, each measured from the mean m_i of its column (Sarwar et al., section 3.2.1, with
                 the means of H. Ma, I. King, M. Lyu, "Effective missing data prediction for collaborative filtering", SIGIR 2007)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

import numpy as np
import pydantic
from scipy import sparse

from palate.retrieve.base import EventWeights, Retriever, wanted, weighted_interactions
from palate.retrieve.similarity import Likeness, nearest
from palate.retrieve.topk import BLOCK, answer_sparse, evidence, query_matrix, score_given, strongest
from palate.types import Candidates, Floats, Ints, Log, Queries, Run, State


class ItemKNN(Retriever):
    """Neighbours of the items of the history. Serves users it never saw; brings nothing for an empty history.

    An item that no item of the history speaks for is never brought.
    Cost: fit one multiply-add for each pair of items of a user (for `sequential`, `window` an event), in blocks of rows, so that
    memory is O(N neighbours); retrieve O(history x neighbours) a query.
    """

    class Config(Retriever.Config, EventWeights):
        """similarity, shrink: see the file's head. alpha: of `conditional` (0.5 unless given) and `sequential` (0.1 unless given).
        window: of `sequential`, in places. neighbours: how many to keep of each item (`sequential`: 500 unless given). prune: whether these
        are the items that it speaks for most (`source`) or those that speak most for it (`target`). score: see the file's head.
        half_life: in places; the newest item of a history weighs 1, one `half_life` places older 1/2 (None: all alike; `sequential`:
        3 unless given). last: use only so many items of a history (None: all). event_weights ...: see `EventWeights`; not of `sequential`.
        """

        similarity: Literal["cosine", "jaccard", "pearson", "tfidf", "bm25", "conditional", "sequential"] = "tfidf"
        neighbours: int = pydantic.Field(100, ge=1)
        prune: Literal["source", "target"] = "source"
        score: Literal["sum", "average"] = "sum"
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

        @pydantic.model_validator(mode="after")
        def _sequences_have_a_direction_and_no_weights(self) -> Self:
            if self.similarity in ("sequential", "conditional") and (self.prune == "target" or self.score == "average"):
                raise ValueError(f'prune = "target" and score = "average" need a likeness that is mutual; {self.similarity} is not')
            if self.similarity == "sequential" and (self.event_weights is not None or self.half_life_days is not None):
                raise ValueError("event_weights and half_life_days bear on common users; sequential goes by what came next")
            return self

    config: Config
    neighbours: sparse.csr_matrix
    """float32 [N, N]: row i holds the items that item i speaks for."""
    base: Floats
    """float32 [N]: what is added to the score of an item for which anything speaks."""

    def fit(self, log: Log, run: Run = Run()) -> Self:
        self.base = np.zeros(log.n_items, dtype=np.float32)
        if self.config.similarity == "sequential":
            blocks = _transitions(log, self.config)
        else:
            x = weighted_interactions(log, self.config)
            blocks = Likeness(x, self.config.similarity, self.config.shrink, self.config.alpha).blocks()
        near = sparse.vstack([nearest(block, self.config.neighbours, start) for start, block in blocks], format="csr")
        if self.config.prune == "target":  # the likeness is mutual: the rows just pruned are as well those who speak for the item
            near = near.T.tocsr()
        if self.config.score == "average":
            means = np.asarray(x.mean(axis=0)).ravel()
            given = np.asarray(near.sum(axis=0)).ravel()
            near = sparse.csr_matrix(near @ sparse.diags_array(1 / np.where(given > 0, given, 1)), dtype=np.float32)
            self.base = (means - near.T @ means).astype(np.float32)
        self.neighbours = near
        return self

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        return answer_sparse(self._score, queries, self.neighbours.shape[0], k, self.name)

    def score(self, queries: Queries, items: Ints) -> Floats:
        return score_given(lambda part: evidence(self._score(part)), queries, self.neighbours.shape[0], items)

    def _score(self, queries: Queries) -> sparse.csr_matrix:
        """float32 [b, N]: an entry wherever an item of the history speaks for the item."""
        scores = sparse.csr_matrix(self._known(queries) @ self.neighbours)
        if self.config.score == "average":
            scores.data += self.base[scores.indices]
        return scores

    def _known(self, queries: Queries) -> sparse.csr_matrix:
        return query_matrix(queries.history, self.neighbours.shape[0], self.config.half_life, self.config.last)

    def because(self, queries: Queries, items: Ints) -> Ints | None:
        return strongest(self._known(queries), items, lambda _, history, shown: self.neighbours[history][:, shown].toarray())

    def state(self) -> State:
        n = self.neighbours
        arrays = {"indptr": n.indptr.astype(np.int64), "indices": n.indices.astype(np.int32), "data": n.data, "base": self.base}
        return State(arrays=arrays)

    def restore(self, state: State) -> Self:
        arrays = state.arrays
        self.base = arrays["base"]
        size = len(self.base)
        self.neighbours = sparse.csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=(size, size))
        return self


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
