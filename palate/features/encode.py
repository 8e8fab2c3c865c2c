"""The encoder: a FeatureSet fitted to a log. Turns (query, item) rows into what networks read; the same code offline and online."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from palate.features import transform
from palate.features.columns import Column, column, is_sparse, take
from palate.features.fit import Fitted, Summaries
from palate.features.history import History
from palate.features.spec import DAY, Bag, Base, Categorical, Counter, Crossed, FeatureSet, Numeric, Sequence, Source, Vector, compressed
from palate.features.transform import Hashes, Moments
from palate.features.vocab import Buckets, Vocabulary, as_strings
from palate.types import ConfigError, DataError, Floats, Inputs, Ints, Log, Longs, Queries, Ragged, SparseInput, State

Side = Literal["all", "user", "item"]
CHUNK = 1_000_000
SAMPLE = 20_000
BLOCK = 4096
HAS = {"since_last", "item_age"}


@dataclass(frozen=True)
class Encoded:
    """R encoded rows. dense: float32 [R, F]. sparse: one Ragged of R rows for each key of `inputs.sparse`, ids in [0, rows)."""

    dense: Floats
    sparse: dict[str, Ragged]
    inputs: Inputs

    def __len__(self) -> int:
        return len(self.dense)


class Encoder:
    """Fitted features over a History. What depends on the user alone or the item alone is encoded once and looked up by code.

    The tables have one row more than there are users or items, all missing: code -1 (NOBODY, NOTHING) finds it as the last row.
    """

    def __init__(
        self,
        features: FeatureSet,
        fitted: Mapping[str, Fitted],
        history: History,
        tables: Mapping[str, Column],
        hashes: Mapping[str, Hashes],
    ) -> None:
        """From its parts; `fit`, `build` and `restore` are the ways to make one."""
        self.features = features
        self.history = history
        self._fitted = dict(fitted)
        self._tables = dict(tables)
        self._hashes = dict(hashes)
        self._matrices: dict[str, Any] = {}
        self._last: tuple[weakref.ref[Queries], dict[str, Any]] | None = None
        self._by_name = {feature.name: feature for feature in features.features}
        self._ids = next((f.name for f in features.features if isinstance(f, Categorical) and f.source == "item"), None)
        self._features: dict[Side, list[Base]] = {side: self._of(side) for side in ("all", "user", "item")}
        self._item_side = {feature.name for feature in self._features["item"] if not isinstance(feature, Crossed)}
        self._inputs: dict[Side, Inputs] = {side: self._inputs_of(side) for side in ("all", "user", "item")}

    @classmethod
    def fit(cls, features: FeatureSet, log: Log, history: History, before: Encoder | None = None) -> Encoder:
        """Fits in chunks of a million events. Ids count positive events.

        Counters are standardised on a sample of the positive events, as they look at their own time and after the end of the log.
        before: an earlier encoder, whose scale is kept for every number that it has: so the weights of a network that was trained with it
        mean what they meant. Vocabularies are always counted anew, see `rows_of`.

        ConfigError where a feature reads a column that the log lacks.
        """
        features.check({"user": log.users.columns, "item": log.items.columns, "context": log.context})
        _no_lists_are_crossed(features, {"user": log.users, "item": log.items, "context": log.events})
        summaries = Summaries(features).partial_fit(log.users, "user").partial_fit(log.items, "item")
        for start in range(0, len(log), CHUNK):
            chunk = replace(log, events=log.events[start : start + CHUNK])
            summaries.partial_fit(chunk.positives().events, "ids").partial_fit(chunk.events, "context")
        fitted = summaries.finish()
        if before is not None:
            kept = {
                feature.name: before._fitted[feature.name].moments for feature in before.features.features if feature in features.features
            }
            fitted |= {name: replace(fitted[name], moments=moments) for name, moments in kept.items() if moments is not None}
        encoder = cls.build(features, fitted, log.users, log.items, history)
        encoder._fit_counters()
        return encoder

    @classmethod
    def build(
        cls, features: FeatureSet, fitted: Mapping[str, Fitted], users: pl.DataFrame, items: pl.DataFrame, history: History
    ) -> Encoder:
        """From what `Summaries.finish` gave: encodes the tables of users and items."""
        tables: dict[str, Column] = {}
        hashes: dict[str, Hashes] = {}
        frames = {"user": users, "item": items}
        own_ids = any(isinstance(feature, Categorical) and feature.source == "item" for feature in features.features)
        for feature in features.features:
            for text in feature.sources:
                source = Source(text)
                if isinstance(feature, Sequence):
                    if not own_ids:
                        tables[feature.name] = column(Categorical(source="item"), fitted[feature.name], _with_nobody(items["item"]))
                elif source.side not in frames or (isinstance(feature, Counter) and feature.of != "affinity"):
                    continue
                else:
                    values = _with_nobody(frames[source.side][source.column or source.side])
                    if isinstance(feature, Crossed):
                        hashes[text] = transform.hash64(as_strings(values))
                    else:
                        tables[feature.name] = column(feature, fitted[feature.name], values)
        return cls(features, fitted, history, tables, hashes)

    def _fit_counters(self) -> None:
        found = [feature for feature in self.features.features if isinstance(feature, Counter)]
        counters = [counter for counter in found if not ((moments := self._fitted[counter.name].moments) and moments.count)]
        if not counters or not len(self.history):
            return
        measured = {counter.name: Moments() for counter in counters}
        sample = np.unique(np.linspace(0, len(self.history) - 1, min(SAMPLE, len(self.history))).astype(np.int64))
        for start in range(0, len(sample), BLOCK):
            events = sample[start : start + BLOCK]
            past, items = self.history.before(events), self.history.event_items[events]
            # Models learn from moments within the log and answer after its end, when all is months older: the scale must hold for both.
            for queries in (past, self.history.queries(past.users)):
                for counter in counters:
                    measured[counter.name].partial_fit(self._count(counter, queries, np.arange(len(events)), items))
        for counter in counters:
            self._fitted[counter.name] = replace(self._fitted[counter.name], moments=measured[counter.name])

    def with_history(self, history: History) -> Encoder:
        """The same vocabularies and tables over another store of the same users and items (after a refit on more events)."""
        same = history.user_ids.equals(self.history.user_ids) and history.items["item"].equals(self.history.items["item"])
        if not same:
            raise DataError("encoder: the other history has other users or items; fit a new encoder")
        other = copy.copy(self)
        other.history, other._last = history, None
        return other

    def rows_of(self, before: Encoder) -> dict[str, Longs]:
        """For each table that both have, by its name: the earlier table's row from which each row goes on (`Vocabulary.rows_of`)."""
        tables = {feature.table for feature in self.inputs().sparse} & {feature.table for feature in before.inputs().sparse}
        pairs = {name: (self._fitted[name].vocabulary, before._fitted[name].vocabulary) for name in sorted(tables)}
        found = {name: own.rows_of(other) for name, (own, other) in pairs.items() if own is not None and other is not None}
        return {name: rows for name, rows in found.items() if rows is not None}

    def inputs(self, side: Side = "all") -> Inputs:
        """What a network is built for: all features, or those `encode_users` gives, or those `encode_items` gives."""
        return self._inputs[side]

    def _of(self, side: Side) -> list[Base]:
        return [feature for feature in self.features.features if side in ("all", feature.side)]

    def _inputs_of(self, side: Side) -> Inputs:
        dense: list[str] = []
        sparse: list[SparseInput] = []
        for feature in self._of(side):
            if not is_sparse(feature):
                dense += self._dense_names(feature)
                continue
            table = self._ids if isinstance(feature, Sequence) and self._ids else feature.name
            vocabulary = self._fitted[table].vocabulary
            assert vocabulary is not None
            pooling = feature.pooling if isinstance(feature, Bag | Sequence) else "sum"
            own, holder = getattr(feature, "embedding", None), getattr(self._by_name[table], "embedding", None)
            if own is not None and own != holder:
                raise ConfigError(f"features.{feature.name}: it shares the table of {table!r}; set `embedding` there, and only there")
            sparse.append(SparseInput(feature.name, table, vocabulary.rows, pooling, compressed(holder)))
        return Inputs(tuple(dense), tuple(sparse))

    def _dense_names(self, feature: Base) -> list[str]:
        has = [f"{feature.name}.has"]
        if isinstance(feature, Vector):
            return [f"{feature.name}.{place}" for place in range(self._fitted[feature.name].width)] + has
        return [feature.name] + (has if isinstance(feature, Numeric) or (isinstance(feature, Counter) and feature.of in HAS) else [])

    def encode(self, queries: Queries, rows: Longs, items: Ints) -> Encoded:
        """All features of R rows: row r is (queries[rows[r]], items[r]). Cost: about a microsecond a row for ten features."""
        return self._encode("all", queries, np.asarray(rows, dtype=np.int64), np.asarray(items), len(items))

    def encode_users(self, queries: Queries) -> Encoded:
        """The features of the query alone (user, context, history): B rows."""
        return self._encode("user", queries, None, np.zeros(0, dtype=np.int32), len(queries))

    def encode_items(self, items: Ints) -> Encoded:
        """The features of the item alone; counters, which need a `now`, are not among them."""
        return self._encode("item", None, None, np.asarray(items), len(items))

    def _encode(self, side: Side, queries: Queries | None, rows: Longs | None, items: Ints, count: int) -> Encoded:
        inputs = self._inputs[side]
        dense = np.empty((count, len(inputs.dense)), dtype=np.float32)
        sparse: dict[str, Ragged] = {}
        one_each = np.arange(count + 1, dtype=np.int64)
        place = 0
        for feature in self._features[side]:
            values = self._values(feature, queries, rows, items)
            if isinstance(values, Ragged):
                sparse[feature.name] = values
            elif values.ndim == 1:
                sparse[feature.name] = Ragged(one_each, values)
            else:
                dense[:, place : place + values.shape[1]] = values
                place += values.shape[1]
        return Encoded(dense, sparse, inputs)

    def _values(self, feature: Base, queries: Queries | None, rows: Longs | None, items: Ints) -> Column:
        """One feature of all rows. rows None: a row a query."""
        if feature.name in self._item_side:
            return take(self._tables[feature.name], items)
        if isinstance(feature, Crossed):
            return self._cross(feature, queries, rows, items)
        assert queries is not None
        if isinstance(feature, Counter):
            return self._counter(feature, queries, rows, items)
        source = Source(feature.source)
        if source.side == "user":
            return take(self._tables[feature.name], queries.users if rows is None else queries.users[rows])
        values = self._once(queries, feature.name, lambda: self._of_queries(feature, queries))
        return values if rows is None else take(values, rows)

    def _of_queries(self, feature: Base, queries: Queries) -> Column:
        """A feature of the history or the context: B rows."""
        if isinstance(feature, Sequence):
            history = queries.history.tail(feature.length)
            return Ragged(history.offsets, take(self._tables[self._ids or feature.name], history.values))
        return column(feature, self._fitted[feature.name], _context(queries, Source(feature.source).column))

    def _once(self, queries: Queries, name: str, make: Callable[[], Any]) -> Any:
        """What depends on the queries alone is made once for the last Queries seen: a ranker encodes many batches of pairs of the same."""
        last = self._last
        if last is None or last[0]() is not queries:
            self._last = last = (weakref.ref(queries), {})
        if name not in last[1]:
            last[1][name] = make()
        return last[1][name]

    def _cross(self, feature: Crossed, queries: Queries | None, rows: Longs | None, items: Ints) -> Ints:
        parts: list[Hashes] = []
        for text in feature.of:
            source = Source(text)
            if source.side == "item":
                parts.append(self._hashes[text][items])
                continue
            assert queries is not None
            part = self._hashes[text][queries.users] if source.side == "user" else self._context_hashes(queries, source.column)
            parts.append(part if rows is None else part[rows])
        missing = np.any([part == 0 for part in parts], axis=0)
        return Buckets(feature.buckets).of_hashes(transform.crossed(parts), missing)

    def _context_hashes(self, queries: Queries, name: str) -> Hashes:
        return self._once(queries, f"hash:{name}", lambda: transform.hash64(as_strings(_context(queries, name))))

    def _counter(self, feature: Counter, queries: Queries, rows: Longs | None, items: Ints) -> Floats:
        moments = self._fitted[feature.name].moments
        assert moments is not None
        raw = self._count(feature, queries, np.arange(len(queries)) if rows is None else rows, items)
        columns = [np.nan_to_num(moments.standardise(raw))]
        if feature.of in HAS:
            columns.append(~np.isnan(raw))
        return np.stack(columns, axis=1).astype(np.float32)

    def _count(self, feature: Counter, queries: Queries, rows: Longs, items: Ints) -> npt.NDArray[np.floating]:
        """The counter before it is standardised; NaN where there is nothing to count from. [R]"""
        if feature.of == "user_count":
            return self._once(queries, feature.name, lambda: np.log1p(queries.history.lengths))[rows]
        if feature.of == "since_last":
            return self._once(queries, feature.name, lambda: np.log1p(self.history.since_last(queries) / DAY))[rows]
        if feature.of == "affinity":
            bags = self._tables[feature.name]
            assert isinstance(bags, Ragged)
            return transform.affinity(self._once(queries, feature.name, lambda: self._shares(feature, queries)), bags, rows, items)
        now = queries.now[rows]
        if feature.of == "item_age":
            age = now - self.history.item_first(items)
            return np.log1p(np.where(age > 0, age, np.nan) / DAY)
        window = int(feature.window * DAY) if feature.of == "item_recent_count" else None
        return np.log1p(self.history.item_counts(items, now, window))

    def _shares(self, feature: Counter, queries: Queries) -> Any:
        if feature.name not in self._matrices:
            vocabulary, bags = self._fitted[feature.name].vocabulary, self._tables[feature.name]
            assert vocabulary is not None
            assert isinstance(bags, Ragged)
            self._matrices[feature.name] = transform.bag_matrix(bags, vocabulary.rows)
        history = queries.history if feature.length is None else queries.history.tail(feature.length)
        return transform.value_shares(history, self._matrices[feature.name])

    def state(self) -> State:
        """Vocabularies as frames, tables as arrays, the FeatureSet and the moments as plain values. The History has its own state."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, table in self._tables.items():
            if isinstance(table, Ragged):
                arrays |= {f"{name}:offsets": table.offsets, f"{name}:values": table.values}
            else:
                arrays[name] = table
        arrays |= {f"hash:{source}": hashes.view(np.int64) for source, hashes in self._hashes.items()}
        frames = {name: part.vocabulary.frame() for name, part in self._fitted.items() if isinstance(part.vocabulary, Vocabulary)}
        moments = {n: [m.count, m.mean, m.m2] for n, part in self._fitted.items() if (m := part.moments) is not None}
        widths = {name: part.width for name, part in self._fitted.items() if part.width}
        return State(arrays, frames, {"features": self.features.model_dump(mode="json"), "moments": moments, "widths": widths})

    @classmethod
    def restore(cls, state: State, history: History) -> Encoder:
        """From a state that `state` gave, over a restored (or newer) history."""
        features = FeatureSet.parse(state.meta["features"], "features")
        fitted = {}
        tables: dict[str, Column] = {}
        hashes: dict[str, Hashes] = {}
        for feature in features.features:
            buckets = getattr(feature, "buckets", None)
            frame = state.frames.get(feature.name)
            vocabulary = Buckets(buckets) if buckets is not None else None if frame is None else Vocabulary.of_frame(frame)
            moments = state.meta["moments"].get(feature.name)
            width = int(state.meta["widths"].get(feature.name, 0))
            fitted[feature.name] = Fitted(vocabulary, None if moments is None else Moments(*moments), width)
        for name, array in state.arrays.items():
            if name.startswith("hash:"):
                hashes[name.removeprefix("hash:")] = array.view(np.uint64)
            elif name.endswith(":offsets"):
                tables[name[: -len(":offsets")]] = Ragged(array, state.arrays[name.replace(":offsets", ":values")])
            elif not name.endswith(":values"):
                tables[name] = array
        return cls(features, fitted, history, tables, hashes)


def _with_nobody(values: pl.Series) -> pl.Series:
    return values.extend_constant(None, 1)


def _context(queries: Queries, name: str) -> pl.Series:
    """A context column of the queries; nulls where they bring none."""
    if queries.context is None or name not in queries.context.columns:
        return pl.Series(name, [None] * len(queries))
    return queries.context[name]


def _no_lists_are_crossed(features: FeatureSet, frames: Mapping[str, pl.DataFrame]) -> None:
    for feature in features.features:
        for text in feature.sources if isinstance(feature, Crossed) else ():
            source = Source(text)
            if isinstance(frames[source.side].schema[source.column or source.side], pl.List | pl.Array):
                raise ConfigError(f"features.{feature.name}: {text!r} holds lists, and a crossed feature takes one value a row; use a bag")
