"""What a retriever is: it learns from a log, and brings K candidates for each query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import numpy as np
import pydantic
from scipy import sparse

from palate import config
from palate.types import Candidates, Ints, Log, Queries, Ragged, Run


class Retriever(config.Component, ABC):
    """Candidate generation. Three families share this face: vectors, item to item, scorers.

    `fit` learns from the events that say "wanted" (`log.positives()`). `retrieve` never returns an item that is in
    `queries.blocked` or outside `queries.allowed`, never an item twice, and fills the end of a short list with NOTHING.
    """

    class Config(config.Config):
        """name: what tables call it (default: its file's name). quota: how many candidates it brings to the merged list."""

        name: str | None = None
        quota: int = pydantic.Field(200, ge=1)

    config: Config

    @abstractmethod
    def fit(self, log: Log, run: Run = Run()) -> Self:
        """Learns from the positive events of the log; forgets whatever it knew before."""

    @abstractmethod
    def retrieve(self, queries: Queries, k: int) -> Candidates:
        """The K best items of each query: Candidates [B, K], scores falling."""

    def because(self, queries: Queries, items: Ints) -> Ints | None:
        """For each item [B, K], the item of the query's history that speaks most for it (NOTHING if none does).

        None: this retriever cannot tell.
        """
        return None


def interactions(log: Log, *, binary: bool = True) -> sparse.csr_matrix:
    """Users by items, from the positive events. float32 [U, N]; a pair that occurs twice counts once if `binary`."""
    positives = log.positives()
    shape = (log.n_users, log.n_items)
    ones = np.ones(len(positives), dtype=np.float32)
    matrix = sparse.csr_matrix((ones, (positives.user_codes, positives.item_codes)), shape=shape)
    matrix.sum_duplicates()
    if binary:
        matrix.data[:] = 1.0
    return matrix


def history_matrix(history: Ragged, n_items: int, weights: np.ndarray | None = None) -> sparse.csr_matrix:
    """Histories as rows over items. float32 [B, N]; an item that occurs twice counts once (with its largest weight)."""
    data = np.ones(len(history.values), dtype=np.float32) if weights is None else weights.astype(np.float32)
    order = np.lexsort((-data, history.values, history.rows))
    rows, items, data = history.rows[order], history.values[order], data[order]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (rows[1:] != rows[:-1]) | (items[1:] != items[:-1])
    return sparse.csr_matrix((data[first], (rows[first], items[first])), shape=(len(history), n_items))
