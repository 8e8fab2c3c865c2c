"""What a retriever is: it learns from a log, and brings K candidates for each query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from typing import Annotated, Any, Literal, Self

import numpy as np
import polars as pl
import pydantic
from scipy import sparse

from palate import config
from palate.config import unknown_key
from palate.types import NOBODY, Candidates, ConfigError, DataError, Floats, Ints, Log, Longs, Queries, Ragged, Run, State

DAY = 86_400_000_000
"""Microseconds."""

LEAST = 1e-18
"""The least an event weighs: the product of two such is still above 0 in float32."""


class Retriever(config.Component, ABC):
    """Candidate generation. Three families share this face: vectors, item to item, scorers.

    `fit` learns from the events that say "wanted" (`wanted(log)`: DataError where there is none). `retrieve` never returns an item that
    is in `queries.blocked` or outside `queries.allowed`, never an item twice, and fills the end of a short list with NOTHING.
    A query that a retriever does not serve (see `serves_new_users`) gets an empty list, for others to fill.

    Whatever the retriever, codes that its log did not have are looked for before it is asked: an item is a DataError, a user a stranger.
    """

    class Config(config.Config):
        """name: what tables call it (default: its file's name). quota: how many candidates it brings to the merged list."""

        name: str | None = None
        quota: int = pydantic.Field(200, ge=1)

    config: Config
    sizes: tuple[int, int] | None = None
    """Users and items of the log."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        for name, around in (("fit", _sized), ("state", _with_sizes), ("restore", _resized), ("retrieve", _asked), ("score", _asked)):
            if name in vars(cls):
                setattr(cls, name, around(vars(cls)[name]))

    @abstractmethod
    def fit(self, log: Log, run: Run = Run()) -> Self:
        """Learns from the positive events of the log; forgets whatever it knew before."""

    @abstractmethod
    def retrieve(self, queries: Queries, k: int) -> Candidates:
        """The K best items of each query: Candidates [B, K], scores falling."""

    def score(self, queries: Queries, items: Ints) -> Floats:
        """What the retriever says of given items [B, K]: float32 [B, K], the very scores of `retrieve`.

        -inf where it has no evidence, and where the item is NOTHING. `queries.blocked` and `queries.allowed` are not looked at.
        """
        raise ConfigError(f"{self.name}: cannot score given items")

    @property
    def serves_new_users(self) -> frozenset[str]:
        """How somebody the log never saw may be served: `history`, from the items that the query brings; `context`, without any.

        Once fitted this is what it does: without `history` an unknown user's list is empty, without `context` that of an empty history.
        """
        return frozenset({"history"})

    @property
    def serves_new_items(self) -> bool:
        """Whether it may bring an item without any event in the log, told by the item's features alone."""
        return False

    def because(self, queries: Queries, items: Ints) -> Ints | None:
        """For each item [B, K], the item of the query's history that speaks most for it (NOTHING if none does).

        None: this retriever cannot tell.
        """
        return None


def _sized(fit: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(fit)
    def around(self: Retriever, log: Log, *more: Any, **named: Any) -> Any:
        found = fit(self, log, *more, **named)
        self.sizes = (log.n_users, log.n_items)
        return found

    return around


def _with_sizes(state: Callable[..., State]) -> Callable[..., State]:
    @wraps(state)
    def around(self: Retriever) -> State:
        found = state(self)
        return found if self.sizes is None else replace(found, meta={**found.meta, "sizes": list(self.sizes)})

    return around


def _resized(restore: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(restore)
    def around(self: Retriever, state: State) -> Any:
        users_items = state.meta.get("sizes")
        self.sizes = None if users_items is None else (int(users_items[0]), int(users_items[1]))
        return restore(self, state)

    return around


def _asked(answer: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(answer)
    def around(self: Retriever, queries: Queries, more: Any, *others: Any, **named: Any) -> Any:
        if self.sizes is not None:
            n_items = max(self.sizes[1], len(getattr(self, "index", ())))  # an index may have been added to
            queries = known_codes(queries, self.sizes[0], n_items, self.name)
            if isinstance(more, np.ndarray):
                _refuse(more, n_items, f"{self.name}: the items to score hold")
        return answer(self, queries, more, *others, **named)

    return around


def known_codes(queries: Queries, n_users: int, n_items: int, name: str) -> Queries:
    """The queries, users beyond the log's being strangers. DataError for items beyond it in histories, masks or filters.

    Cost: a look at each code.
    """
    for values, what in ((queries.history.values, "a history holds"), (queries.blocked.values, "what is blocked holds")):
        _refuse(values, n_items, f"{name}: {what}", least=0)
    if queries.allowed is not None and queries.allowed.shape != (n_items,):
        raise DataError(f"{name}: `allowed` says of {queries.allowed.size} items whether they may come; the log had {n_items}")
    beyond = queries.users >= n_users
    return replace(queries, users=np.where(beyond, NOBODY, queries.users).astype(np.int32)) if beyond.any() else queries


def _refuse(codes: Ints, n_items: int, what: str, least: int = -1) -> None:
    wrong = (codes < least) | (codes >= n_items)
    if wrong.any():
        raise DataError(f"{what} item code {int(codes[wrong][0])}; the log it was fitted on had the items 0 to {n_items - 1}")


class EventWeights(config.Config):
    """Settings of a retriever that can weigh the events it learns from; a parent of its Config beside `Retriever.Config`.

    event_weights: what an event of each kind weighs; kinds left out do not count (None: the log's positive kinds, 1 each).
        An event of a positive kind counts only if it passes the log's `positive_value`.
    half_life_days: an event of age a, counted from the newest that counts, weighs 2^(-a / half_life_days) times that (None: no decay).
    repeats: what a pair of user and item weighs that occurs more than once: its `largest` event or the `sum` of them.
    """

    event_weights: Mapping[str, Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]] | None = None
    half_life_days: float | None = pydantic.Field(None, gt=0)
    repeats: Literal["largest", "sum"] = "largest"


def wanted(log: Log) -> Log:
    """`log.positives()`, of which there must be some: DataError otherwise, the same for all retrievers."""
    positives = log.positives()
    if not len(positives):
        raise DataError(nothing_wanted(log))
    return positives


def nothing_wanted(log: Log) -> str:
    """The sentence for a log of which nothing can be learnt."""
    kinds = ", ".join(log.events["kind"].cast(pl.String).unique().sort()) or "no events at all"
    return f"{log.name}: no event counts as wanted; say which kinds do with `positive` (the log has {kinds})"


def weighted_interactions(log: Log, config: EventWeights) -> sparse.csr_matrix:
    """Users by items, from the events that count, as `config` weighs them. float32 [U, N], entries above 0.

    With none of its settings given: `interactions(log)`, all ones. Raises ConfigError for a kind that the log does not have, DataError
    where no event counts. Cost: O(E).
    """
    if config.event_weights is None and config.half_life_days is None and config.repeats == "largest":
        return interactions(log)
    if config.event_weights is None:
        events = wanted(log)
        weights = np.ones(len(events))
    else:
        kinds = log.events["kind"].cast(pl.String)
        for kind in config.event_weights:
            if kind not in set(_kinds(log)):
                raise ConfigError(f"event_weights.{kind}: {unknown_key(kind, _kinds(log))}")
        weights = kinds.replace_strict(dict(config.event_weights), default=0.0, return_dtype=pl.Float64).to_numpy().copy()
        if log.positive_value is not None:
            low = log.events.select(pl.col("kind").cast(pl.String).is_in(list(log.positive)) & ~log.high_enough).to_series()
            weights[low.to_numpy()] = 0.0
        events, weights = log.where(weights > 0), weights[weights > 0]
        if not len(events):
            named = ", ".join(config.event_weights) or "no kind"
            raise DataError(f"{log.name}: no event has a weight above 0; event_weights names {named}")
    if config.half_life_days is not None:
        weights = weights * np.exp2((events.times - events.times.max()) / (DAY * config.half_life_days))
    # The oldest events may have faded to nothing in float32; their entries stay.
    data = np.maximum(weights, LEAST).astype(np.float32)
    if config.repeats == "sum":
        return sparse.coo_matrix((data, (events.user_codes, events.item_codes)), shape=(log.n_users, log.n_items)).tocsr()
    order = np.lexsort((-data, events.item_codes, events.user_codes))
    users, items, data = events.user_codes[order], events.item_codes[order], data[order]
    first = np.ones(len(users), dtype=bool)
    first[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    indptr = np.concatenate([[0], np.cumsum(np.bincount(users[first], minlength=log.n_users))])
    return sparse.csr_matrix((data[first], items[first], indptr), shape=(log.n_users, log.n_items))


def _kinds(log: Log) -> list[str]:
    """Kinds of the log as it was read: a part of it (before a cut) knows those that only occur later."""
    dtype = log.events["kind"].dtype
    known = dtype.categories if isinstance(dtype, pl.Enum) else log.events["kind"].unique()
    return sorted(str(kind) for kind in known)


def interactions(log: Log, *, binary: bool = True) -> sparse.csr_matrix:
    """Users by items, from the positive events. float32 [U, N]; a pair that occurs twice counts once if `binary`."""
    positives = wanted(log)
    shape = (log.n_users, log.n_items)
    ones = np.ones(len(positives), dtype=np.float32)
    matrix = sparse.csr_matrix((ones, (positives.user_codes, positives.item_codes)), shape=shape)
    matrix.sum_duplicates()
    if binary:
        matrix.data[:] = 1.0
    return matrix


def places(ids: pl.Series, among: pl.Series) -> Longs:
    """Where each id stands among others, -1 where it does not: int64 [n]. How codes of one log are told in those of another."""
    found = ids.cast(pl.String).cast(pl.Enum(among), strict=False).to_physical().cast(pl.Int64)
    return found.fill_null(-1).to_numpy().astype(np.int64)


def history_matrix(history: Ragged, n_items: int, weights: np.ndarray | None = None) -> sparse.csr_matrix:
    """Histories as rows over items. float32 [B, N]; an item that occurs twice counts once (with its largest weight)."""
    data = np.ones(len(history.values), dtype=np.float32) if weights is None else weights.astype(np.float32)
    order = np.lexsort((-data, history.values, history.rows))
    rows, items, data = history.rows[order], history.values[order], data[order]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (rows[1:] != rows[:-1]) | (items[1:] != items[:-1])
    return sparse.csr_matrix((data[first], (rows[first], items[first])), shape=(len(history), n_items))
