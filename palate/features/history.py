"""Point-in-time history: what was known about users and items before a moment. The same code for training rows and for requests."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from palate.config import unknown_key
from palate.types import NOBODY, ConfigError, DataError, Floats, Ints, Log, Longs, Queries, Ragged, Request, State, offsets_of

SECOND = 1_000_000


class Timeline:
    """Events grouped by an entity, each group in log order: group `g` is `order[offsets[g]:offsets[g + 1]]`, row numbers of the events."""

    def __init__(self, groups: Ints, count: int) -> None:
        # Transposing an indicator matrix is a stable counting sort: ten times quicker than argsort on 20 million events.
        row_ends = np.arange(len(groups) + 1, dtype=np.int32)
        indicators = sparse.csr_array((np.ones(len(groups), dtype=np.bool_), groups, row_ends), shape=(len(groups), count)).tocsc()
        self.offsets: Longs = indicators.indptr.astype(np.int64)
        self.order: Ints = indicators.indices.astype(np.int32, copy=False)


class History:
    """The positive events of a log by user and by item, with the negative ones kept apart.

    Memory: 36 bytes a positive event and 36 a negative one, besides the log. `before`, `queries`: linear in the values they return.
    """

    def __init__(
        self,
        user_ids: pl.Series,
        items: pl.DataFrame,
        positives: tuple[Ints, Ints, Longs],
        negatives: tuple[Ints, Ints, Longs],
        ranks: Ints,
        latest: int,
        context: pl.DataFrame,
    ) -> None:
        """positives, negatives: users, items and times in log order. ranks: how many positive events precede each negative one."""
        self.user_ids = user_ids
        self.items = items
        self.latest = latest
        self.context = context
        self.event_users, self.event_items, self.event_times = positives
        self._counted = _Counted()
        self._negatives = negatives
        self._ranks = ranks
        by_user = Timeline(self.event_users, self.n_users)
        self._offsets = by_user.offsets
        self._items = self.event_items[by_user.order]
        self._times = self.event_times[by_user.order]
        self._place = np.empty(len(by_user.order), dtype=np.int32)
        self._place[by_user.order] = np.arange(len(by_user.order), dtype=np.int32)
        self._by_item = Timeline(self.event_items, self.n_items)
        blocked = Timeline(negatives[0], self.n_users)
        self._blocked_offsets = blocked.offsets
        self._blocked_items, self._blocked_times = negatives[1][blocked.order], negatives[2][blocked.order]
        self._blocked_ranks = ranks[blocked.order]

    @classmethod
    def of(cls, log: Log) -> History:
        """Of a log, which must be in order of time. An event that is positive and negative at once is both."""
        times = log.times
        if len(times) and bool((np.diff(times) < 0).any()):
            raise DataError(f"{log.name}: events are not in order of time; read the log with palate.read, which sorts it")
        kinds = replace(log, events=log.events.select("kind", "value").with_row_index("row"))
        positive = kinds.positives().events["row"].to_numpy()
        negative = kinds.negatives().events["row"].to_numpy()
        items = log.items.select([column for column in ("item", "title") if column in log.items.columns])
        context = log.events.select(log.context)
        return cls(
            log.users["user"],
            items,
            (log.user_codes[positive], log.item_codes[positive], times[positive]),
            (log.user_codes[negative], log.item_codes[negative], times[negative]),
            np.searchsorted(positive, negative).astype(np.int32),
            int(times[-1]) if len(times) else 0,
            context[positive] if context.width else context,
        )

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        return self.items.height

    def __len__(self) -> int:
        """Positive events."""
        return len(self.event_times)

    @property
    def end(self) -> int:
        """The `now` that is after everything in the log: one second past its last event. Microseconds."""
        return self.latest + SECOND

    def before(self, events: Longs) -> Queries:
        """For rows of `log.positives()`: who acted, and what was known strictly before (in log order, so ties in time count as earlier).

        now: the time of the event. blocked: that history, and the negative events before the event. Cost: a few ms for 4,096 events.
        """
        if len(self.event_times) and self.context.width and not self.context.height:
            raise DataError("history: restored from a file, it no longer holds the context of its events; use History.of(log)")
        users = self.event_users[events]
        ends = self._place[events].astype(np.int64)
        blocked_ends = bisect(self._blocked_ranks, self._blocked_offsets[users], self._blocked_offsets[users + 1], events + 1)
        context = self.context[events] if self.context.width else None
        return self._slices(users, ends, blocked_ends, self.event_times[events], context)

    def queries(self, users: Ints, now: Longs | None = None) -> Queries:
        """For known users (NOBODY is allowed, and has no history): everything strictly before `now`; None is after everything.

        blocked: that history, and the user's negative events before `now`.
        """
        users = np.asarray(users, dtype=np.int32)
        if now is None:
            now = np.full(len(users), self.end, dtype=np.int64)
            ends, blocked_ends = self._bounds(self._offsets, users)[1], self._bounds(self._blocked_offsets, users)[1]
        else:
            now = np.asarray(now, dtype=np.int64)
            ends = bisect(self._times, *self._bounds(self._offsets, users), now)
            blocked_ends = bisect(self._blocked_times, *self._bounds(self._blocked_offsets, users), now)
        return self._slices(users, ends, blocked_ends, now, None)

    @staticmethod
    def _bounds(offsets: Longs, codes: Ints) -> tuple[Longs, Longs]:
        """Start and end of each group; the group of -1 is empty."""
        starts = offsets[np.maximum(codes, 0)]
        return starts, np.where(codes < 0, starts, offsets[codes + 1])

    def _slices(self, users: Ints, ends: Longs, blocked_ends: Longs, now: Longs, context: pl.DataFrame | None) -> Queries:
        starts = self._bounds(self._offsets, users)[0]
        offsets, places = spans(starts, ends)
        history = Ragged(offsets, self._items[places])
        blocked = history
        if len(self._blocked_items):
            disliked_offsets, disliked = spans(self._bounds(self._blocked_offsets, users)[0], blocked_ends)
            blocked = joined(history, Ragged(disliked_offsets, self._blocked_items[disliked]))
        return Queries(users=users, history=history, times=self._times[places], now=now, blocked=blocked, context=context)

    def resolve(self, requests: Sequence[Request]) -> Queries:
        """Requests to codes. What a request brings comes after what is stored, at its `times` or, without them, at the time `now`.

        blocked: history and negative events (only the latter with `seen=True`), and `exclude`. `filters` are left to the funnel.
        Raises DataError for an unknown or ambiguous item, ConfigError for an unknown context key or times that do not fit the history.
        """
        codes = [NOBODY if request.user is None else self._user_codes.get(request.user, NOBODY) for request in requests]
        users = np.array(codes, dtype=np.int32)
        now = np.array([self.end if request.now is None else request.now for request in requests], dtype=np.int64)
        stored = self.queries(users, now)
        brought = Ragged.of([[self.item_code(item) for item in request.history] for request in requests])
        excluded = Ragged.of([[self.item_code(item) for item in request.exclude] for request in requests])
        unseen = np.array([not request.seen for request in requests], dtype=bool)
        history = joined(stored.history, brought)
        moments = np.concatenate(
            [np.zeros(0, dtype=np.int64), *(_moments(request, int(at)) for request, at in zip(requests, now, strict=True))]
        )
        disliked_starts = self._bounds(self._blocked_offsets, users)[0]
        disliked_offsets, disliked = spans(disliked_starts, bisect(self._blocked_times, *self._bounds(self._blocked_offsets, users), now))
        blocked = joined(Ragged(disliked_offsets, self._blocked_items[disliked]), excluded)
        return Queries(
            users=users,
            history=history,
            times=joined(Ragged(stored.history.offsets, stored.times), Ragged(brought.offsets, moments)).values,
            now=now,
            blocked=joined(only(history, unseen), blocked),
            context=self._context_of(requests),
        )

    def _context_of(self, requests: Sequence[Request]) -> pl.DataFrame | None:
        for request in requests:
            for key in request.context:
                if key not in self.context.columns:
                    raise ConfigError(f"request.context.{key}: {unknown_key(key, self.context.columns)}")
        if not self.context.width:
            return None
        if len(requests) == 1 and not requests[0].context:
            return self._no_context
        return pl.DataFrame(
            [_as_column(name, [request.context.get(name) for request in requests], dtype) for name, dtype in self.context.schema.items()]
        )

    @cached_property
    def _no_context(self) -> pl.DataFrame:
        """The context of one request that brings none."""
        return pl.DataFrame([_as_column(name, [None], dtype) for name, dtype in self.context.schema.items()])

    @cached_property
    def _user_codes(self) -> dict[str, int]:
        return {user: code for code, user in enumerate(self.user_ids)}

    @cached_property
    def _item_codes(self) -> dict[str, int]:
        return {item: code for code, item in enumerate(self.items["item"])}

    @cached_property
    def _titles(self) -> dict[str, list[int]]:
        titles: dict[str, list[int]] = {}
        if "title" in self.items.columns:
            for code, title in enumerate(self.items["title"]):
                if title is not None:
                    titles.setdefault(title, []).append(code)
        return titles

    def user_code(self, user: str) -> int:
        """The code of a user id; NOBODY where it is unknown."""
        return self._user_codes.get(user, NOBODY)

    def has_item(self, item: str) -> bool:
        """Whether it is the id of an item."""
        return item in self._item_codes

    def item_code(self, item: str) -> int:
        """The code of an item id or, failing that, of a title. DataError names the nearest one, or the ids that share the title."""
        code = self._item_codes.get(item)
        if code is not None:
            return code
        found = self._titles.get(item, [])
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(repr(self.items["item"][code]) for code in found)
            raise DataError(f"item {item!r}: {len(found)} items have this title; give the id: one of {ids}")
        raise DataError(f"item {item!r}: no such id or title{self._nearest(item)}")

    def _nearest(self, item: str) -> str:
        # difflib takes some 10 us a name: a look at the 50,000 most frequent items is enough for a hint.
        frequent = np.argsort(-np.diff(self._by_item.offsets), kind="stable")[:50_000]
        column = "title" if self._titles else "item"
        near = difflib.get_close_matches(item, self.items[column][frequent].drop_nulls().to_list(), n=1, cutoff=0.5)
        return f"; did you mean {near[0]!r}?" if near else ""

    def item_counts(self, items: Ints, now: Longs, window: int | None = None) -> Floats:
        """Positive events of each item strictly before `now`, in the last `window` microseconds if given. float32 [R]; NOTHING has 0."""
        counts = self._item_events(items, now)
        if window is not None:
            counts = counts - self._item_events(items, now - window)
        return counts.astype(np.float32)

    def _item_events(self, items: Ints, now: Longs) -> Longs:
        if len(items) > self.n_items and int(now.min()) == int(now.max()):
            # One moment for many rows: count every item once, then look up.
            every = self._item_events(np.arange(self.n_items, dtype=np.int32), np.full(self.n_items, now[0]))
            return np.append(every, 0)[items]
        starts, ends = self._bounds(self._by_item.offsets, items)
        if not len(self) or (len(now) and int(now.min()) > int(self.event_times[-1])):
            return ends - starts  # all of them: a request after the end of the log
        # Events are in order of time, so "before now" is "among the first so many": the search runs on int32 row numbers.
        if len(now) > 1 and bool((now == now[0]).all()):
            counted = self._counted.of(self, items, int(np.searchsorted(self.event_times, now[0])))
            if counted is not None:
                return counted
        return bisect(self._by_item.order, starts, ends, np.searchsorted(self.event_times, now)) - starts

    def item_first(self, items: Ints) -> Longs:
        """The time of each item's first positive event, microseconds; the largest int64 where there is none."""
        starts, ends = self._bounds(self._by_item.offsets, items)
        never = np.iinfo(np.int64).max
        if not len(self):
            return np.full(len(items), never)
        return np.where(starts < ends, self.event_times[self._by_item.order[np.minimum(starts, len(self) - 1)]], never)

    def user_counts(self, users: Ints, now: Longs) -> Floats:
        """Positive events of each user strictly before `now`. float32 [B]; NOBODY has 0."""
        starts, ends = self._bounds(self._offsets, users)
        return (bisect(self._times, starts, ends, now) - starts).astype(np.float32)

    @staticmethod
    def since_last(queries: Queries) -> npt.NDArray[np.float64]:
        """Microseconds between `now` and the last event of the history; NaN where there is none. float64 [B]."""
        some = queries.history.lengths > 0
        last = np.full(len(queries), np.nan)
        last[some] = queries.now[some] - queries.times[queries.history.offsets[1:][some] - 1]
        return last

    def state(self) -> State:
        """Everything but the context of past events, which only training needs."""
        names = ("users", "items", "times")
        arrays: dict[str, npt.NDArray[Any]] = {"negatives.ranks": self._ranks}
        for part, events in (("events", (self.event_users, self.event_items, self.event_times)), ("negatives", self._negatives)):
            for name, values in zip(names, events, strict=True):
                arrays[f"{part}.{name}"] = np.asarray(values)
        frames = {"users": self.user_ids.to_frame("user"), "items": self.items}
        if self.context.width:
            frames["context"] = self.context.clear()
        return State(arrays, frames, {"latest": self.latest})

    @classmethod
    def restore(cls, state: State) -> History:
        """From a state that `state` gave."""
        arrays = state.arrays
        positives = (arrays["events.users"], arrays["events.items"], arrays["events.times"])
        negatives = (arrays["negatives.users"], arrays["negatives.items"], arrays["negatives.times"])
        context = state.frames.get("context", pl.DataFrame())
        users = state.frames["users"]["user"]
        return cls(users, state.frames["items"], positives, negatives, arrays["negatives.ranks"], int(state.meta["latest"]), context)


class _Counted:
    """How many of the first so many events each item has, for the two moments that were last asked about: requests ask about nearly the
    same moments again and again (now, a week ago), between which few events lie. Threads may share it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[tuple[int, Ints]] = []
        self._asked: list[int] = []

    def of(self, history: History, items: Ints, rows: int) -> Longs | None:
        """Counts of the items among the first `rows` events; None where nothing near that is kept: a search is then quicker."""
        near = 4 * len(items)
        with self._lock:
            for place, (kept, counts) in enumerate(self._kept):
                if abs(rows - kept) > near:
                    continue
                if rows != kept:
                    between = history.event_items[min(rows, kept) : max(rows, kept)]
                    np.add.at(counts, between, 1 if rows > kept else -1)
                    self._kept[place] = (rows, counts)
                return np.where(items < 0, 0, counts[items]).astype(np.int64)
            if any(abs(rows - asked) <= near for asked in self._asked):
                fresh = np.bincount(history.event_items[:rows], minlength=history.n_items).astype(np.int32)
                self._kept = [*self._kept[-1:], (rows, fresh)]
                return np.where(items < 0, 0, fresh[items]).astype(np.int64)
            self._asked = [*self._asked[-3:], rows]
            return None


def _moments(request: Request, now: int) -> Longs:
    """When each item that the request brings was acted on: int64."""
    if not request.times:
        return np.full(len(request.history), now, dtype=np.int64)
    times = np.array(request.times, dtype=np.int64)
    if len(times) != len(request.history) or bool((np.diff(times) < 0).any()) or times[-1] > now:
        raise ConfigError(
            f"request.times: one rising time for each of the {len(request.history)} items of the history, none after now; got {len(times)}"
        )
    return times


def _as_column(name: str, given: list[Any], dtype: pl.DataType) -> pl.Series:
    """Context values as a column of the log's type. A string that an Enum does not know becomes a plain string: it is out of vocabulary."""
    if isinstance(dtype, pl.Enum | pl.Categorical):
        dtype = pl.String()
    try:
        return pl.Series(name, given, dtype=dtype)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        raise ConfigError(f"request.context.{name}: {dtype} expected, got {next(v for v in given if v is not None)!r}") from None


def bisect(values: npt.NDArray[Any], starts: Longs, ends: Longs, targets: npt.NDArray[Any]) -> Longs:
    """For each row, the first place in values[start:end] (rising) that is not below the target; `end` if there is none. int64 [n].

    All rows at once, halving: log2 of the longest stretch passes.
    """
    low, high = starts.astype(np.int64), ends.astype(np.int64)
    if not len(values):
        return low
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high) >> 1
        below = (low < high) & (values[np.minimum(middle, len(values) - 1)] < targets)
        high = np.where(below | (low >= high), high, middle)
        low = np.where(below, middle + 1, low)
    return low


def spans(starts: Longs, ends: Longs) -> tuple[Longs, Longs]:
    """Offsets [n + 1] of the stretches start..end laid one after another, and the places they hold."""
    offsets = offsets_of(ends - starts)
    places = np.arange(offsets[-1], dtype=np.int64)
    places += np.repeat(starts - offsets[:-1], ends - starts)
    return offsets, places


def joined(first: Ragged, second: Ragged) -> Ragged:
    """Row by row, the values of the first and then those of the second."""
    if not len(second.values):
        return first
    if not len(first.values):
        return second
    offsets = first.offsets + second.offsets
    values = np.empty(int(offsets[-1]), dtype=first.values.dtype)
    values[np.arange(len(first.values)) + np.repeat(offsets[:-1] - first.offsets[:-1], first.lengths)] = first.values
    values[np.arange(len(second.values)) + np.repeat(first.offsets[1:], second.lengths)] = second.values
    return Ragged(offsets, values)


def only(ragged: Ragged, keep: npt.NDArray[np.bool_]) -> Ragged:
    """The same rows, emptied where `keep` is False."""
    return Ragged(offsets_of(np.where(keep, ragged.lengths, 0)), ragged.values[np.repeat(keep, ragged.lengths)])
