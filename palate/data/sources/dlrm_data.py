"""Generated inputs in the two ways of DLRM: `random`, for speed alone, and `synthetic`, which has the locality of a real trace.

Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and Recommendation Systems", section 4, "Data".

`random_bags` draws dense columns from [0, 1), ids uniformly or from a bell curve over the table, and labels by a coin.

Caches see in what order ids come, which such ids do not tell. `fit_trace` reads a trace of ids (an access after another) and measures
how far down the stack of recently used ids each access reaches: its stack distance (Mattson et al. 1970, "Evaluation techniques for
storage hierarchies"), the number of other ids touched since the last access to the same one. `StackDistances.draw` makes new traces
with such distances. An LRU cache of c rows hits where the distance is below c, so its hit rate is kept at every size at once.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from palate.types import DataError, Floats, Inputs, Ints, Longs, Ragged, SparseInput, offsets_of

COLD = -1  # the distance of a first access

Spread = Literal["uniform", "gaussian"]
Seed = int | Sequence[int]


class LRUStack:
    """Ids, the most recently used on top. `touch` and `at` take O(log U) for U ids, and there are O(U) numbers.

    Every access takes the next slot of a row of slots; a Fenwick tree (Fenwick 1994, "A new data structure for cumulative frequency
    tables") counts those still in use. When the row is full the used slots move together: O(1) an access on average.
    """

    def __init__(self) -> None:
        self._slot: dict[int, int] = {}
        self._lay([])

    def __len__(self) -> int:
        return len(self._slot)

    def touch(self, value: int) -> int:
        """Moves an id to the top, and returns how many lay above it; COLD if it was not there."""
        slot = self._slot.pop(value, None)
        distance = COLD
        if slot is not None:
            # Slots in use up to this one; it counts itself.
            distance = len(self._slot) + 1 - self._used(slot + 1)
            self._add(slot, -1)
        if self._next == self._capacity:
            self._lay(list(self._slot))
        self._ids[self._next] = value
        self._slot[value] = self._next  # a dict keeps the order of insertion, which is the order of the stack
        self._add(self._next, 1)
        self._next += 1
        return distance

    def at(self, distance: int) -> int:
        """The id with that many above it, 0 <= distance < len."""
        rank, slot, step = len(self._slot) - distance, 0, self._capacity
        while step:
            if slot + step <= self._capacity and self._tree[slot + step] < rank:
                slot += step
                rank -= self._tree[slot]
            step >>= 1
        return self._ids[slot]

    def _lay(self, values: list[int]) -> None:
        self._capacity = max(1024, 1 << (2 * len(values)).bit_length())
        self._ids = values + [0] * (self._capacity - len(values))
        self._slot = {value: slot for slot, value in enumerate(values)}
        self._next = len(values)
        # Entry i counts the slots (i - lowest bit of i, i].
        ends = np.arange(self._capacity + 1)
        starts = ends - (ends & -ends)
        self._tree: list[int] = (np.minimum(ends, len(values)) - np.minimum(starts, len(values))).tolist()

    def _used(self, slots: int) -> int:
        total, tree = 0, self._tree
        while slots:
            total += tree[slots]
            slots &= slots - 1
        return total

    def _add(self, slot: int, change: int) -> None:
        tree, slot, capacity = self._tree, slot + 1, self._capacity
        while slot <= capacity:
            tree[slot] += change
            slot += slot & -slot


Distances = tuple[Longs, Longs]  # distances, rising, and how often each occurs; COLD is the first where there is any


@dataclass(frozen=True)
class Stream:
    """Ids of like popularity, in the order of their first access [U], and the distances among them in each part of the trace."""

    ids: Longs
    parts: tuple[Distances, ...]

    def draw(self, counts: Sequence[int], rng: np.random.Generator) -> Longs:
        """So many accesses for each part."""
        stack, fresh, drawn = LRUStack(), iter(self.ids.tolist()), []
        for (distances, often), count in zip(self.parts, counts, strict=True):
            if count == 0:
                continue
            depths = distances[np.searchsorted(np.cumsum(often), rng.integers(0, often.sum(), count), side="right")]
            for depth in depths.tolist():
                value = next(fresh, None) if depth == COLD or not len(stack) else None
                if value is None:
                    value = stack.at(len(stack) - 1 if depth == COLD else min(depth, len(stack) - 1))
                stack.touch(value)
                drawn.append(value)
        return np.array(drawn, dtype=np.int64)


@dataclass(frozen=True)
class StackDistances:
    """What is kept of a trace: streams of ids of like popularity, the moves between them, and the distances of the whole.

    A trace is taken for a mixture of streams, one for the ids that occur once, one for those that occur 2 or 3 times, then 4 to 7, and
    so on; each has distances of its own, counted within it, and a Markov chain (`moves`: [parts, from, to], counts) says which comes
    next, so that bursts stay bursts. With a single stack, as in the paper's algorithms 1 to 3, no id differs from
    another but by where it lies, and popularity evens out: of a Zipf trace the top 1 % of ids keep 3 % of the accesses instead of 56 %.

    The trace is cut into parts of equal length, each with its own distances and moves. They keep the trends,
    above all that new ids come quickly at first and seldom later. Size: at most U + 1 pairs of numbers a part.
    """

    streams: tuple[Stream, ...]
    moves: Longs
    whole: Distances

    def __len__(self) -> int:
        return int(self.whole[1].sum())

    def hit_rate(self, sizes: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Share of accesses of the fitted trace that LRU caches of these sizes (rows) answer; first accesses are misses."""
        distances, counts = self.whole
        known = distances != COLD
        below = np.concatenate([[0], np.cumsum(counts[known])])
        return np.asarray(below[np.searchsorted(distances[known], np.asarray(sizes), side="left")] / max(len(self), 1))

    def draw(self, count: int, seed: Seed = 0) -> Longs:
        """A new trace of `count` accesses, int64.

        Each access draws its stream by the moves of its part of the trace, then a distance d of that stream in that part, and touches
        the id that lies d deep. A first access takes the next new id of the stream; when all have been, the least recently used; so does a
        distance deeper than the stack is yet. Cost: O(log U) an access, some tens of thousands a second.
        """
        rng = np.random.default_rng(seed)
        parts = len(self.moves)
        ends = [count * place // parts for place in range(parts + 1)]
        chosen: list[list[int]] = []
        state = 0
        for part, (start, stop) in enumerate(itertools.pairwise(ends)):
            often = np.array([stream.parts[part][1].sum() for stream in self.streams])
            # Where nothing follows a stream in this part (or nothing came before), the next is drawn by the shares of the streams.
            follow = [row if row.any() else often for row in self.moves[part]]
            cumulated = [(np.cumsum(row) / row.sum()).tolist() for row in follow]
            states = []
            for uniform in rng.random(stop - start).tolist():
                state = bisect.bisect_right(cumulated[state], uniform)
                states.append(state)
            chosen.append(states)
        stream_of, drawn = np.array(list(itertools.chain(*chosen)), dtype=np.int64), np.empty(count, dtype=np.int64)
        for number, stream in enumerate(self.streams):
            drawn[stream_of == number] = stream.draw([states.count(number) for states in chosen], rng)
        return drawn


def stack_distances(ids: npt.NDArray[Any]) -> Longs:
    """The distance of each access of a trace [n]; COLD for first ones. O(log U) an access, O(U) memory beside the result.

    >>> stack_distances(np.array([7, 8, 7, 7, 9, 8])).tolist()
    [-1, -1, 1, 0, -1, 2]
    """
    stack = LRUStack()
    return np.fromiter((stack.touch(value) for value in ids.tolist()), dtype=np.int64, count=len(ids))


def fit_trace(ids: npt.NDArray[Any], parts: int = 16, *, by_popularity: bool = True) -> StackDistances:
    """Measures a trace of whole numbers (a memory map will do). Cost: twice that of `stack_distances`.

    parts: see `StackDistances`. by_popularity: False makes all ids one stream, as in the paper.
    Errors: DataError for an empty trace, or one that is not of whole numbers.
    """
    ids = np.asarray(ids)
    if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iu":
        raise DataError(f"trace: expected one row of whole numbers, got the shape {ids.shape} of {ids.dtype}")
    parts = max(1, min(parts, len(ids)))
    part_of = np.arange(len(ids)) * parts // len(ids)
    _, place, often = np.unique(ids, return_inverse=True, return_counts=True)
    level = np.log2(often).astype(np.int64)[place] if by_popularity else np.zeros(len(ids), dtype=np.int64)
    levels, level = np.unique(level, return_inverse=True)
    moves = np.zeros((parts, len(levels), len(levels)), dtype=np.int64)
    np.add.at(moves, (part_of[1:], level[:-1], level[1:]), 1)
    streams = []
    for each in range(len(levels)):
        mine = level == each
        distances = stack_distances(ids[mine])
        counted = tuple(_counted(distances[part_of[mine] == part]) for part in range(parts))
        streams.append(Stream(ids[mine][distances == COLD].astype(np.int64), counted))
    return StackDistances(tuple(streams), moves, _counted(stack_distances(ids)))


def _counted(distances: Longs) -> Distances:
    values, counts = np.unique(distances, return_counts=True)
    return values.astype(np.int64), counts.astype(np.int64)


@dataclass(frozen=True)
class Bags:
    """Rows whose sparse features hold any number of ids. dense: [R, F]. sparse: a name to R bags. labels: [R, 1].

    `collate(Encoded(bags.dense, bags.sparse, bags.inputs), bags.labels)` is a batch.
    """

    inputs: Inputs
    dense: Floats
    sparse: Mapping[str, Ragged]
    labels: Floats

    @property
    def ids(self) -> Ints:
        """The ids as a table [R, S], for `Rows.of`. Errors: DataError where a bag does not hold exactly one."""
        for name, bags in self.sparse.items():
            if (bags.lengths != 1).any():
                row = int(np.flatnonzero(bags.lengths != 1)[0])
                raise DataError(f"feature {name!r}, row {row}: {bags.lengths[row]} ids where one is expected; set lookups = 1")
        columns = [bags.values for bags in self.sparse.values()]
        return np.stack(columns, axis=1) if columns else np.zeros((len(self.labels), 0), dtype=np.int32)


def random_bags(
    rows: int,
    *,
    sizes: Sequence[int],
    dense: int = 13,
    lookups: int | Sequence[int] = 1,
    fixed: bool = True,
    spread: Spread = "uniform",
    mean: float = 0.5,
    deviation: float = 0.1,
    seed: Seed = 0,
) -> Bags:
    """DLRM's `random` data: for tables of these sizes, one feature each.

    lookups: ids a bag, for all features or one by one; not fixed: between 1 and that many, each as likely. The same id may be drawn
    twice in a bag, and is then there once. Row 0 of a table, which stands for "nothing", is never drawn. spread: ids uniform over the
    table, or normal with `mean` and `deviation` as shares of its rows, rounded and clipped to it. seed: a number, or several:
    `[seed, batch]`. Errors: DataError for settings that cannot be.
    """
    each = [lookups] * len(sizes) if isinstance(lookups, int) else list(lookups)
    if len(each) != len(sizes) or min(each, default=1) < 1 or min(sizes, default=2) < 2 or spread not in ("uniform", "gaussian"):
        raise DataError(
            f"random data: {len(sizes)} tables of at least 2 rows need as many lookups of at least 1, and spread uniform or gaussian; "
            f"got tables of {list(sizes)}, lookups {each}, {spread!r}"
        )
    rng = np.random.default_rng(seed)
    sparse = {}
    for place, (size, most) in enumerate(zip(sizes, each, strict=True)):
        lengths = np.full(rows, most) if fixed else rng.integers(1, most + 1, rows)
        count = int(lengths.sum())
        if spread == "uniform":
            values = rng.integers(1, size, count)
        else:
            values = np.clip(np.rint(rng.normal(mean * size, deviation * size, count)), 1, size - 1).astype(np.int64)
        sparse[f"C{place + 1}"] = _without_repeats(lengths, values)
    return Bags(_inputs(dense, sizes), rng.random((rows, dense), dtype=np.float32), sparse, _coin(rng, rows))


def synthetic_bags(rows: int, *, traces: Sequence[StackDistances], dense: int = 13, lookups: int = 1, seed: Seed = 0) -> Bags:
    """DLRM's `synthetic` data: the bags of feature f, read one after another, are a trace drawn from `traces[f]`.

    Tables are as long as the largest id of the trace asks. Its ids are row numbers; shift them by one if 0 is a real one, for row 0 of a
    table stands for "nothing". lookups: ids a bag, repeats once.
    """
    low = min((int(stream.ids.min()) for trace in traces for stream in trace.streams), default=0)
    if low < 0 or lookups < 1:
        raise DataError(
            f"synthetic data: ids must be row numbers of a table and lookups at least 1, got the id {low} and {lookups} lookups"
        )
    rng = np.random.default_rng(seed)
    sparse = {
        f"C{place + 1}": _without_repeats(np.full(rows, lookups), trace.draw(rows * lookups, int(rng.integers(1 << 32))))
        for place, trace in enumerate(traces)
    }
    sizes = [max(int(stream.ids.max()) for stream in trace.streams) + 1 for trace in traces]
    return Bags(_inputs(dense, sizes), rng.random((rows, dense), dtype=np.float32), sparse, _coin(rng, rows))


def _inputs(dense: int, sizes: Sequence[int]) -> Inputs:
    sparse = tuple(SparseInput(f"C{place + 1}", f"C{place + 1}", size, "sum") for place, size in enumerate(sizes))
    return Inputs(tuple(f"I{place + 1}" for place in range(dense)), sparse)


def _coin(rng: np.random.Generator, rows: int) -> Floats:
    return np.asarray(rng.integers(0, 2, (rows, 1)), dtype=np.float32)


def _without_repeats(lengths: npt.NDArray[Any], values: npt.NDArray[Any]) -> Ragged:
    """Bags that hold an id once, where it came first."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    if len(rows) > len(lengths):
        _, first = np.unique(np.stack([rows, values]), axis=1, return_index=True)
        first.sort()
        rows, values = rows[first], values[first]
    return Ragged(offsets_of(np.bincount(rows, minlength=len(lengths))), values.astype(np.int32))
