"""Fitting as a mergeable summary: partial_fit over chunks, merge, finish. So it streams over files larger than memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa

from palate.features.spec import Bag, Base, Categorical, Counter, FeatureSet, Numeric, Sequence, Source, Vector
from palate.features.transform import Doubles, Moments, log_square
from palate.features.vocab import Buckets, Counts, Vocabulary
from palate.types import ConfigError, DataError

Part = Literal["ids", "user", "item", "context"]


@dataclass(frozen=True)
class Fitted:
    """What a feature has learnt: its vocabulary (or buckets), its moments, the length of its vectors; unset where its kind has none."""

    vocabulary: Vocabulary | Buckets | None = None
    moments: Moments | None = None
    width: int = 0


@dataclass
class Summary:
    """One feature's summary of the data seen so far. The order of chunks and merges does not matter."""

    feature: Base
    counts: Counts = field(default_factory=Counts)
    moments: Moments = field(default_factory=Moments)
    width: int = 0

    def partial_fit(self, values: pl.Series) -> Summary:
        """Adds a chunk of its column."""
        feature = self.feature
        if isinstance(values.dtype, pl.List | pl.Array) and isinstance(feature, Categorical | Numeric):
            raise ConfigError(f"features.{feature.name}: {feature.source!r} holds lists; use the kind bag or vector")
        if isinstance(feature, Bag | Vector | Counter):
            values = as_lists(values, feature.name)
        if isinstance(feature, Numeric):
            if feature.transform == "standardise":
                self.moments.partial_fit(numbers(values, feature.name))
            elif feature.transform == "log_square":
                self.counts.partial_fit(squared(values, feature.name))
        elif isinstance(feature, Vector):
            self._measure(values)
        elif isinstance(feature, Categorical | Bag | Sequence | Counter) and getattr(feature, "buckets", None) is None:
            self.counts.partial_fit(values)
        return self

    def _measure(self, values: pl.Series) -> None:
        for width in values.drop_nulls().list.len().unique().sort():
            self._agree(int(width))

    def _agree(self, width: int) -> None:
        if self.width and width != self.width:
            raise DataError(f"features.{self.feature.name}: vectors of {self.width} and of {width} numbers in {self.feature.source}")
        self.width = width

    def merge(self, other: Summary) -> Summary:
        """Adds what another summary of the same feature saw."""
        self.counts.merge(other.counts)
        self.moments.merge(other.moments)
        if other.width:
            self._agree(other.width)
        return self

    def finish(self) -> Fitted:
        """What encoding needs."""
        feature = self.feature
        buckets = getattr(feature, "buckets", None)
        if buckets is not None:
            return Fitted(Buckets(buckets))
        if isinstance(feature, Vector):
            return Fitted(width=self.width)
        if isinstance(feature, Numeric) and feature.transform != "log_square":
            return Fitted(moments=self.moments)
        return Fitted(self.counts.finish(getattr(feature, "min_count", 1)), self.moments)


class Summaries:
    """The summaries of all features of a set."""

    def __init__(self, features: FeatureSet) -> None:
        self.features = features
        self.parts = {feature.name: Summary(feature) for feature in features.features}

    def partial_fit(self, frame: pl.DataFrame, part: Part) -> Summaries:
        """Adds a chunk. part: `ids` (user and item of events), `context` (their other columns), `user` or `item` (rows of those tables)."""
        for feature in self.features.features:
            if len(feature.sources) > 1:
                continue
            source = Source(feature.sources[0])
            if part == "ids":
                if isinstance(feature, Categorical) and not source.column:
                    self.parts[feature.name].partial_fit(frame[source.side])
                elif isinstance(feature, Sequence):
                    self.parts[feature.name].partial_fit(frame["item"])
            elif source.side == part and source.column:
                self.parts[feature.name].partial_fit(frame[source.column])
        return self

    def merge(self, other: Summaries) -> Summaries:
        """Adds what another one saw, of other chunks or on another machine."""
        for name, part in self.parts.items():
            part.merge(other.parts[name])
        return self

    def finish(self) -> dict[str, Fitted]:
        """What encoding needs, by feature."""
        return {name: part.finish() for name, part in self.parts.items()}


def fit_stream(
    features: FeatureSet,
    chunks: Iterable[pl.DataFrame | pa.RecordBatch],
    users: pl.DataFrame | None = None,
    items: pl.DataFrame | None = None,
) -> Summaries:
    """Fits over chunks of events (columns user, item, and the context columns), such as `pyarrow.parquet.ParquetFile(...).iter_batches()`.

    Ids are counted over all rows given, so give positive events where ids are wanted. Memory: one chunk and the vocabularies.
    """
    summaries = Summaries(features)
    for side, table in (("user", users), ("item", items)):
        if table is not None:
            summaries.partial_fit(table, "user" if side == "user" else "item")
    for chunk in chunks:
        frame = pl.DataFrame(pl.from_arrow(chunk)) if isinstance(chunk, pa.RecordBatch) else chunk
        summaries.partial_fit(frame, "ids").partial_fit(frame, "context")
    return summaries


def numbers(values: pl.Series, name: str) -> Doubles:
    """A column as float64, NaN where it is null. Dates count days, datetimes microseconds. DataError for infinities and words."""
    try:
        floats = (values.to_physical() if values.dtype.is_temporal() else values).cast(pl.Float64)
    except pl.exceptions.PolarsError:
        raise DataError(f"features.{name}: numbers expected in {values.name!r}, which holds {values.dtype}") from None
    array = floats.fill_null(np.nan).to_numpy().astype(np.float64)
    if np.isinf(array).any():
        row = int(np.flatnonzero(np.isinf(array))[0])
        raise DataError(f"features.{name}: {values.name!r} is infinite at row {row}; leave it empty if it is unknown")
    return array


def squared(values: pl.Series, name: str) -> pl.Series:
    """The log-square bucket of each number, null where it is missing."""
    array = numbers(values, name)
    known = ~np.isnan(array)
    buckets = pl.Series(values.name, log_square(np.where(known, array, 0.0)))
    return buckets.zip_with(pl.Series(known), pl.Series([None], dtype=pl.Int64))


def as_lists(values: pl.Series, name: str) -> pl.Series:
    """A list column, whatever its exact type; a column of nothing but nulls is a list column too."""
    if isinstance(values.dtype, pl.List):
        return values
    if isinstance(values.dtype, pl.Array):
        return values.arr.to_list()
    if values.dtype == pl.Null:
        return values.cast(pl.List(pl.Float32))
    raise DataError(f"features.{name}: lists expected in {values.name!r}, which holds {values.dtype}")
