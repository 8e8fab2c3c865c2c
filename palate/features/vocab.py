"""From strings to row numbers of an embedding table: vocabularies (counted) and buckets (hashed). PAD and OOV are apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl

from palate.features.transform import Hashes, hash64
from palate.types import Ints, Longs

PAD = 0
OOV = 1
FIRST = 2
FEW, SMALL = 16, 100_000
"""So few values are looked up in a dict of so many, which a request's context needs; the whole machinery of a cast takes 300 us."""


@dataclass(frozen=True)
class Vocabulary:
    """Values in order; the id of the value in place i is i + 2. A null is PAD (0), an unknown value OOV (1).

    values: String, unique. counts: how often each was seen in fitting.
    """

    values: pl.Series
    counts: pl.Series

    @property
    def rows(self) -> int:
        """Rows of an embedding table for it."""
        return len(self.values) + FIRST

    @cached_property
    def _enum(self) -> pl.Enum:
        return pl.Enum(self.values)

    @cached_property
    def _codes(self) -> dict[str | None, int]:
        return {None: PAD, **{value: place + FIRST for place, value in enumerate(self.values.to_list())}}

    def ids(self, values: pl.Series) -> Ints:
        """Values (of any plain type) to ids. int32 [n]. Cost: one look-up in a hash table a value; some 2 us for the few of a request."""
        strings = as_strings(values)
        if len(strings) <= FEW and len(self.values) <= SMALL:
            return np.array([self._codes.get(value, OOV) for value in strings.to_list()], dtype=np.int32)
        found = strings.cast(self._enum, strict=False).to_physical().cast(pl.Int32) + FIRST
        ids = found.fill_null(OOV).to_numpy().astype(np.int32)
        if strings.null_count():
            ids[strings.is_null().to_numpy()] = PAD
        return ids

    def rows_of(self, other: Vocabulary | Buckets) -> Longs | None:
        """For each row of a table of this vocabulary, the row that stands for the same in a table of the other; int64 [rows].

        PAD and OOV keep theirs; a value that the other does not know has its OOV, by which it went so far. None: nothing corresponds.
        """
        if not isinstance(other, Vocabulary):
            return None
        return np.concatenate([[PAD, OOV], other.ids(self.values)]).astype(np.int64)

    def frame(self) -> pl.DataFrame:
        """As a table: value, id, count."""
        ids = pl.Series("id", np.arange(FIRST, self.rows, dtype=np.int32))
        return pl.DataFrame({"value": self.values, "id": ids, "count": self.counts})

    @classmethod
    def of_frame(cls, frame: pl.DataFrame) -> Vocabulary:
        """From a table that `frame` gave."""
        return cls(frame["value"], frame["count"])


@dataclass(frozen=True)
class Buckets:
    """Hashing instead of a vocabulary: id = 2 + hash(value) mod count. Nothing to fit; two values may meet in one bucket."""

    count: int

    @property
    def rows(self) -> int:
        """Rows of an embedding table for it."""
        return self.count + FIRST

    def rows_of(self, other: Vocabulary | Buckets) -> Longs | None:
        """As of a `Vocabulary`: every row is the same of as many buckets."""
        return np.arange(self.rows, dtype=np.int64) if self == other else None

    def ids(self, values: pl.Series) -> Ints:
        """Values (of any plain type) to ids. int32 [n]; null is PAD."""
        strings = as_strings(values)
        return self.of_hashes(hash64(strings), strings.is_null().to_numpy())

    def of_hashes(self, hashes: Hashes, missing: np.ndarray) -> Ints:
        """Hashes to ids. int32 [n]; PAD where missing."""
        ids = (hashes % np.uint64(self.count)).astype(np.int32) + FIRST
        return np.where(missing, PAD, ids).astype(np.int32)


@dataclass
class Counts:
    """The summary behind a Vocabulary: how often each value was seen. Chunks and summaries add up in any order."""

    frames: list[pl.DataFrame] = field(default_factory=list)

    def partial_fit(self, values: pl.Series) -> Counts:
        """Adds a chunk; nulls are passed over. A list column adds the elements of its lists."""
        flat = values.explode() if isinstance(values.dtype, pl.List | pl.Array) else values
        counted = flat.drop_nulls().rename("value").value_counts(name="count")
        strings = as_strings(counted["value"])
        self.frames.append(pl.DataFrame({"value": strings, "count": counted["count"].cast(pl.Int64)}))
        # Adding up only when the parts outgrow the whole keeps the cost linear and the memory within twice the vocabulary.
        if len(self.frames) > 1 and sum(frame.height for frame in self.frames[1:]) > self.frames[0].height:
            self._add_up()
        return self

    def merge(self, other: Counts) -> Counts:
        """Adds what another summary counted."""
        self.frames = [*self.frames, *other.frames]
        self._add_up()
        return self

    def _add_up(self) -> None:
        if self.frames:
            self.frames = [pl.concat(self.frames).group_by("value").agg(pl.col("count").sum())]

    def finish(self, min_count: int = 1) -> Vocabulary:
        """The values seen at least `min_count` times, the most frequent first, equals in the order of their names."""
        self._add_up()
        if not self.frames:
            return Vocabulary(pl.Series("value", [], dtype=pl.String), pl.Series("count", [], dtype=pl.Int64))
        kept = self.frames[0].filter(pl.col("count") >= min_count).sort(["count", "value"], descending=[True, False])
        return Vocabulary(kept["value"], kept["count"])


def as_strings(values: pl.Series) -> pl.Series:
    """Any plain column as strings, null where it is null; floats that are whole numbers are written without a point."""
    if values.dtype == pl.String:
        return values
    if values.dtype.is_float():
        whole = values.cast(pl.Int64, strict=False)
        exact = (whole.cast(pl.Float64) == values.cast(pl.Float64)).fill_null(False)
        return whole.cast(pl.String).zip_with(exact, values.fill_nan(None).cast(pl.String))
    if values.dtype == pl.Null:
        return values.cast(pl.String)
    return values.cast(pl.String)
