"""One column at a time: from whatever a reader gave to the type the log has, and what is wrong on the way.

Every function is vectorised and gives (column, issues). An issue is (row numbers within the chunk, reason); `{}` in a reason stands for
the value as it was given.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import polars as pl

from palate.data.tables import NESTED
from palate.types import DataError, Longs

Issue = tuple[Longs, str]
Unit = Literal["s", "ms", "us"]

SCALE: dict[str, int] = {"s": 1_000_000, "ms": 1_000, "us": 1}
FIRST_TIME = -2_208_988_800_000_000  # 1900-01-01
LAST_TIME = 7_258_118_400_000_000  # 2200-01-01
PLAUSIBLE = 4_102_444_800_000_000  # 2100-01-01: how far a guess at the unit may reach

INTEGER = r"^-?(0|[1-9][0-9]*)$"  # no leading zero: 01002 is a postcode
NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
NOT_FINITE = r"^(?i)[+-]?(nan|inf|infinity)$"
TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
DATES = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f%#z")
LONGEST_ID = 1000


def at(mask: pl.Series) -> Longs:
    """The row numbers where a mask is true."""
    return mask.fill_null(False).arg_true().to_numpy().astype(np.int64)


def text(column: pl.Series) -> tuple[pl.Series, list[Issue]]:
    """Bytes to strings; bytes that are not UTF-8 are an issue."""
    if column.dtype != pl.Binary:
        return column, []
    try:
        return column.cast(pl.String), []
    except pl.exceptions.ComputeError:
        values: list[str | None] = []
        bad: list[int] = []
        for place, value in enumerate(column.to_list()):
            try:
                values.append(None if value is None else value.decode())
            except UnicodeDecodeError:
                values.append(None)
                bad.append(place)
        return pl.Series(column.name, values, dtype=pl.String), [(np.array(bad, dtype=np.int64), "not UTF-8 text; save the file as UTF-8")]


def ids(column: pl.Series, where: str) -> tuple[pl.Series, list[Issue]]:
    """User ids, item ids and kinds: strings. Integers become their decimal digits; so do floats without a fraction, since a missing id
    somewhere turns a pandas column of integers into floats. where: how a message calls the column.
    """
    issues: list[Issue] = []
    kind = column.dtype
    if kind.is_float():
        fraction = at(column.is_finite() & (column != column.round()) | (column.is_infinite()))
        if len(fraction):
            issues.append((fraction, "{} is no id: ids are strings or whole numbers"))
        column = column.set(column.is_nan() | column.is_infinite(), None).cast(pl.Int64, strict=False).cast(pl.String)
    elif kind.is_integer() or isinstance(kind, (pl.Categorical, pl.Enum)) or kind == pl.Null:
        column = column.cast(pl.String)
    elif kind == pl.Binary:
        column, issues = text(column)
    elif kind != pl.String:
        raise DataError(f"{where} holds {_type_name(kind)}; ids are strings or whole numbers")
    column = column.rename("")
    # what is wrong with ids is looked for among the distinct ones, which are few
    distinct = column.unique()
    missing = distinct.is_null() | (distinct.str.strip_chars() == "")
    odd = (distinct.str.contains(r"[\x00-\x1f\x7f]") | (distinct.str.len_bytes() > LONGEST_ID)).fill_null(False)
    already = issues[0][0] if issues else np.zeros(0, dtype=np.int64)
    if missing.any():
        rows = at(column.is_null() | (column.str.strip_chars() == ""))
        rows = np.setdiff1d(rows, already, assume_unique=True)
        if len(rows):
            issues.append((rows, "missing"))
    if (odd & ~missing).any():
        nested = column.str.starts_with(NESTED)
        strange = column.is_in(distinct.filter(odd & ~missing).implode())
        if len(rows := at(strange & nested)):
            issues.append((rows, "{} is no id: ids are strings or whole numbers"))
        if len(rows := at(strange & ~nested)):
            issues.append((rows, f"{{}} is no id: it holds a control character, or more than {LONGEST_ID} bytes (a quote left open?)"))
    return column, issues


class Times:
    """Times to int64 microseconds: numbers in `unit`, ISO 8601 text (UTC unless it names an offset), dates and datetimes.

    Whether text holds numbers or dates is decided once, by the majority of the first chunk; what then does not fit is an issue.
    """

    def __init__(self, unit: Unit, where: str) -> None:
        self.scale = SCALE[unit]
        self.unit = unit
        self.where = where
        self.numeric: bool | None = None

    def __call__(self, column: pl.Series) -> tuple[pl.Series, list[Issue]]:
        """int64 microseconds; null where there is an issue."""
        issues: list[Issue] = []
        kind = column.dtype
        if kind == pl.Binary:
            column, issues = text(column)
        if kind.is_integer() or kind.is_float() or kind.is_decimal() or kind == pl.Null:
            times, more = self._numbers(column)
        elif kind in (pl.Datetime, pl.Date):
            zone = getattr(kind, "time_zone", None)
            times = (column.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if zone else column).cast(pl.Datetime("us"))
            times, more = self._bounded(times.to_physical().cast(pl.Int64), column)
        elif column.dtype == pl.String:
            times, more = self._text(column)
        else:
            raise DataError(f"{self.where} holds {_type_name(kind)}; times are numbers, ISO dates or datetimes")
        missing = column.is_null() if column.dtype != pl.String else column.is_null() | (column.str.strip_chars() == "")
        rows = np.setdiff1d(at(missing), issues[0][0] if issues else np.zeros(0, dtype=np.int64))
        if len(rows):
            issues.append((rows, "missing"))
        return times, issues + more

    def _numbers(self, column: pl.Series) -> tuple[pl.Series, list[Issue]]:
        issues: list[Issue] = []
        if column.dtype.is_float() or column.dtype.is_decimal():
            column = column.cast(pl.Float64)
            strange = column.is_nan() | column.is_infinite()
            if strange.any():
                issues.append((at(strange), "{} is not finite"))
            finite = column.set(strange.fill_null(False), None)
            scaled = (finite * self.scale).round()
            inside = (scaled >= FIRST_TIME) & (scaled < LAST_TIME)
            times = scaled.set(~inside.fill_null(True), None).cast(pl.Int64, strict=False)
            outside = at(finite.is_not_null() & times.is_null())
            return times, issues + self._outside(outside, column)
        whole = column.cast(pl.Int64, strict=False)
        low, high = -(-FIRST_TIME // self.scale), LAST_TIME // self.scale
        inside = ((whole >= low) & (whole < high)).fill_null(False)
        times = whole.set(~inside, None) * self.scale
        return times, self._outside(at(column.is_not_null() & ~inside), column)

    def _bounded(self, times: pl.Series, column: pl.Series) -> tuple[pl.Series, list[Issue]]:
        outside = at((times < FIRST_TIME) | (times >= LAST_TIME))
        if len(outside):
            times = times.set((times < FIRST_TIME) | (times >= LAST_TIME), None)
            return times, [(outside, "{} lies outside the years 1900 to 2199")]
        return times, []

    def _outside(self, rows: Longs, column: pl.Series) -> list[Issue]:
        if not len(rows):
            return []
        first = float(column[int(rows[0])])
        likely = [unit for unit in ("ms", "us") if 0 <= first * SCALE[unit] < PLAUSIBLE and SCALE[unit] < self.scale]
        if not likely and 0 <= first / 1000 < PLAUSIBLE:
            return [(rows, '{} lies outside the years 1900 to 2199; if these are nanoseconds, divide by 1000 and say time_unit="us"')]
        hint = f'; these look like {_UNITS[likely[0]]}: say time_unit="{likely[0]}"' if likely else ""
        return [(rows, f"{{}} {_UNITS[self.unit]} lie outside the years 1900 to 2199{hint}")]

    def _text(self, column: pl.Series) -> tuple[pl.Series, list[Issue]]:
        filled = column.is_not_null() & (column.str.strip_chars() != "")
        numbers = column.cast(pl.Float64, strict=False)
        if self.numeric is None:
            self.numeric = numbers.is_not_null().sum() * 2 >= filled.sum()
        if self.numeric:
            whole = column.cast(pl.Int64, strict=False)
            times, issues = self._numbers(whole)
            rest = filled & whole.is_null()
            if rest.any():
                fractions = numbers.set(~rest, None)
                more, odd = self._numbers(fractions)
                times = times.zip_with(times.is_not_null(), more)
                issues += odd
                lost = at(rest & numbers.is_null())
                if len(lost):
                    issues.append((lost, f"{{}} is not a number of {_UNITS[self.unit]}, as the other times are"))
            return times, issues
        times = _dates(column)
        lost = at(filled & times.is_null())
        times, issues = self._bounded(times, column)
        if len(lost):
            issues.append((lost, "{} is not a time; ISO 8601 is, such as 2024-05-01 or 2024-05-01T12:30:00Z"))
        return times, issues


_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}


def _dates(column: pl.Series) -> pl.Series:
    """ISO text to microseconds, null where it is none. Each form is tried on what the forms before it left over."""
    plain = column.str.strip_suffix("Z").str.replace(r"^(\d{4}-\d{1,2}-\d{1,2})T", "${1} ")
    times = pl.Series([None], dtype=pl.Int64).new_from_index(0, len(column))
    left = np.arange(len(column))
    for form in DATES:
        rest = plain[left]
        parsed = rest.str.to_datetime(form, time_unit="us", strict=False, exact=True)
        if form.endswith("z"):
            parsed = parsed.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        micros = parsed.to_physical()
        if len(left) == len(column):
            times = micros
        else:
            times = times.scatter(left, micros)
        left = left[micros.is_null().to_numpy()]
        if not len(left):
            break
    return times


def values(column: pl.Series, where: str) -> tuple[pl.Series, list[Issue]]:
    """Numbers to float32; missing ones stay null, anything else that is no finite number is an issue."""
    issues: list[Issue] = []
    given = column
    if column.dtype == pl.Binary:
        column, issues = text(column)
    if column.dtype == pl.String:
        numbers = column.cast(pl.Float64, strict=False)
        lost = at((column != "") & numbers.is_null())
        if len(lost):
            issues.append((lost, "{} is not a number"))
    elif given.dtype.is_numeric() or given.dtype in (pl.Boolean, pl.Null):
        numbers = column.cast(pl.Float64)
    else:
        raise DataError(f"{where} holds {_type_name(given.dtype)}; values are numbers")
    small = numbers.cast(pl.Float32, strict=False)
    strange = (small.is_nan() | small.is_infinite()).fill_null(False)
    if strange.any():
        issues.append((at(strange), "{} is not finite, or too large"))
        small = small.set(strange, None)
    return small, issues


def plain(column: pl.Series, where: str) -> tuple[pl.Series, list[Issue]]:
    """A context or table column, to one of Int64, Float64, Boolean, String, Datetime("us") or List(String)."""
    kind = column.dtype
    issues: list[Issue] = []
    if kind == pl.Binary:
        column, issues = text(column)
        kind = column.dtype
    if kind.is_integer() or kind == pl.Boolean:
        try:
            column = column if kind == pl.Boolean else column.cast(pl.Int64)
        except pl.exceptions.InvalidOperationError:
            raise DataError(f"{where} holds whole numbers beyond 64 bits") from None
    elif kind.is_float() or kind.is_decimal():
        column = column.cast(pl.Float64)
        strange = (column.is_nan() | column.is_infinite()).fill_null(False)
        if strange.any():
            issues.append((at(strange), "{} is not finite"))
            column = column.set(strange, None)
    elif kind == pl.String or isinstance(kind, (pl.Categorical, pl.Enum)) or kind == pl.Null:
        column = column.cast(pl.String)
        strange = column.str.contains("\0", literal=True).fill_null(False)
        if strange.any():
            issues.append((at(strange), "{} is no plain text"))
            column = column.set(strange, None)
    elif kind in (pl.Date, pl.Datetime):
        zone = getattr(kind, "time_zone", None)
        column = (column.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if zone else column).cast(pl.Datetime("us"))
    elif isinstance(kind, (pl.List, pl.Array)) and not isinstance(kind.inner, (pl.List, pl.Array, pl.Struct)) and kind.inner != pl.Object:
        column = column.cast(pl.List(pl.String))
        column = column.list.drop_nulls().fill_null([])
    else:
        raise DataError(f"{where} holds {_type_name(kind)}, which a log cannot hold; leave the column out")
    return column, issues


def infer(column: pl.Series, where: str) -> tuple[pl.Series, list[Issue]]:
    """A whole column of text to the narrowest of Int64, Float64, Boolean and String that fits every value; empty text is missing."""
    column = column.set((column == "").fill_null(False), None)
    filled = column.drop_nulls()
    if not len(filled):
        return column, []
    if filled.str.contains(INTEGER).all():
        whole = column.cast(pl.Int64, strict=False)
        if whole.null_count() == column.null_count():
            return whole, []
    strange = filled.str.contains(NOT_FINITE)
    if (strange | filled.str.contains(NUMBER)).all() and not strange.all():
        return plain(column.str.to_lowercase().cast(pl.Float64, strict=False), where)
    if filled.is_in(list(TRUTH)).all():
        return column.replace_strict(TRUTH, return_dtype=pl.Boolean), []
    return column, []


def _type_name(kind: Any) -> str:
    names = {pl.Boolean: "truth values", pl.Object: "Python objects", pl.Time: "times of day", pl.Duration: "durations", pl.Binary: "bytes"}
    if isinstance(kind, (pl.List, pl.Array)):
        return "lists"
    if isinstance(kind, pl.Struct):
        return "objects with fields"
    return names.get(kind.base_type(), str(kind))
