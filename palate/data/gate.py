"""The gate: tables of raw rows go in, a validated `Log` or a `DataError` comes out. `palate.data.log.read` is its front door.

Rows are checked a chunk at a time, so that besides the log itself only one chunk of raw text is in memory.
Cost: one pass over the rows, hashing two ids a row; about 20 s and 2 GiB for 20 million rows of CSV on one core.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from palate.data.columns import SCALE, Issue, Times, Unit, ids, infer, plain, values
from palate.data.problems import Problems, check_aside, set_aside
from palate.data.tables import FrameTable, Table, TextTable, translated
from palate.types import DataError, Log

NOT_POSITIVE = ("impression", "exposure", "view", "dislike", "hide", "skip", "block", "survey")
NEGATIVE = ("dislike", "hide", "block")
OWN = ("user", "item", "time", "kind", "value")
MOST_KINDS = 1000


@dataclass(frozen=True)
class Columns:
    """Which column of the source is what. `kind`, `value` and `time` may be None: one kind, no values, file order.

    only_kind: what every event is called where there is no column of kinds.
    """

    user: str = "user"
    item: str = "item"
    time: str | None = "time"
    kind: str | None = None
    value: str | None = None
    context: tuple[str, ...] = ()
    time_unit: Unit = "s"
    list_separator: str = "|"
    only_kind: str = "event"

    def __post_init__(self) -> None:
        if self.time_unit not in SCALE:
            raise DataError(f"time_unit must be one of {', '.join(SCALE)}, got {self.time_unit!r}")
        taken: dict[str, str] = {}
        for key, column in self.declared:
            if not isinstance(column, str):
                raise DataError(f"{key} must name a column, got {column!r}")
            if key == "context" and column in OWN and column != getattr(self, column):
                raise DataError(f"context: {column!r} is a name of the log's own; rename the column")
            if column in taken:
                raise DataError(f"column {column!r} is declared twice, as {taken[column]} and as {key}")
            taken[column] = key

    @property
    def declared(self) -> list[tuple[str, str]]:
        """(keyword, column) of everything declared."""
        named = [(key, getattr(self, key)) for key in OWN]
        return [(key, column) for key, column in named if column is not None] + [("context", column) for column in self.context]


@dataclass
class Events:
    """Checked events, not yet a log: chunks of every column, the ids in the order in which the source first names them."""

    columns: dict[str, list[pl.Series]]
    users: pl.Series
    items: pl.Series
    kinds: list[str]
    rows: int
    problems: Problems


class Firsts:
    """Distinct ids in the order in which they first come, gathered chunk by chunk. Merges rarely, so that the cost stays linear."""

    def __init__(self) -> None:
        self.known = pl.Series([], dtype=pl.String)
        self.pending: list[pl.Series] = []
        self.waiting = 0

    def add(self, column: pl.Series) -> None:
        distinct = column.unique(maintain_order=True)
        self.pending.append(distinct)
        self.waiting += len(distinct)
        if self.waiting > len(self.known) + 2_000_000:
            self._merge()

    def _merge(self) -> None:
        self.known = pl.concat([self.known, *self.pending]).unique(maintain_order=True)
        self.pending, self.waiting = [], 0

    def all(self) -> pl.Series:
        self._merge()
        return self.known


def scan_events(table: Table, columns: Columns, *, keep: int | None) -> Events:
    """Checks every row of a table of events. keep: how many problems to remember one by one."""
    table.need(columns.declared)
    problems = Problems(table, keep)
    times = Times(columns.time_unit, f"{table.name}: column {columns.time!r}")
    users, items = Firsts(), Firsts()
    parts: dict[str, list[pl.Series]] = {}
    kinds: list[str] = [] if columns.kind else [columns.only_kind]
    start = rows = 0

    for chunk in table.chunks([column for _, column in columns.declared]):
        issues: dict[str, list[Issue]] = {}
        clean: dict[str, pl.Series] = {}
        for key, column in columns.declared:
            where = f"{table.name}: column {column!r}"
            given = chunk[column]
            if key in ("user", "item", "kind"):
                clean[key], issues[column] = ids(given, where)
            elif key == "time":
                clean[key], issues[column] = times(given)
            elif key == "value":
                clean[key], issues[column] = values(given, where)
            else:
                clean[column], issues[column] = plain(given, where)
        if columns.time is None:
            clean["time"] = pl.int_range(start, start + chunk.height, dtype=pl.Int64, eager=True) * 1_000_000
        bad = problems.add(start, issues, chunk)
        if len(bad):
            good = np.ones(chunk.height, dtype=np.bool_)
            good[bad] = False
            clean = {name: column.filter(pl.Series(good)) for name, column in clean.items()}
        users.add(clean["user"])
        items.add(clean["item"])
        if columns.kind:
            found_kinds = clean["kind"].unique()
            kinds += sorted(found_kinds.filter(~found_kinds.is_in(kinds)).to_list())
            if len(kinds) > MOST_KINDS:
                raise DataError(f"{table.name}: column {columns.kind!r} has more than {MOST_KINDS} kinds; is it the right column?")
            clean["kind"] = clean["kind"].cast(pl.Enum(kinds)).to_physical().cast(pl.UInt16)
        for name, series in clean.items():
            parts.setdefault(name, []).append(series)
        start += chunk.height
        rows += len(clean["user"])
    return Events(parts, users.all(), items.all(), kinds, rows, problems)


def scan_table(
    table: Table, key: Literal["user", "item"], column: str, separator: str, *, keep: int | None
) -> tuple[pl.DataFrame, Problems]:
    """Checks a table of users or items. column: what events call the id; `key` itself is tried next."""
    have = table.columns
    own = column if column in have else key
    table.need([(f"{key}s", own)])
    if own != key and key in have:
        raise DataError(f"{table.name}: both {own!r} and {key!r} are columns; rename one")
    problems = Problems(table, keep)
    with translated(table.name, table.format):
        chunks = list(table.chunks())
        frame = pl.concat(chunks, how="diagonal_relaxed") if chunks else pl.DataFrame({name: [] for name in have})
    is_text = isinstance(table, TextTable)
    clean: dict[str, pl.Series] = {}
    issues_of: dict[str, list[Issue]] = {}
    for name in [own, *(name for name in frame.columns if name != own)]:
        given, where = frame[name], f"{table.name}: column {name!r}"
        if name == own:
            series, issues = ids(given, where)
            again = (~series.is_first_distinct() & series.is_not_null() & (series != "")).arg_true().to_numpy().astype(np.int64)
            if len(again):
                issues.append((again, "id {} stands in the table twice"))
        else:
            series, issues = plain(given, where)
            if is_text:
                if separator and series.str.contains(separator, literal=True).any():
                    series = series.set(series == "", None).str.split(separator).fill_null([])
                else:
                    series, more = infer(series, where)
                    issues += more
        issues_of[name] = issues
        clean[key if name == own else name] = series
    result = pl.DataFrame([series.alias(name) for name, series in clean.items()])
    bad = problems.add(0, issues_of, frame)
    if len(bad):
        good = np.ones(result.height, dtype=np.bool_)
        good[bad] = False
        result = result.filter(pl.Series(good))
    return result, problems


def catalogue(key: str, table: pl.DataFrame | None, seen: pl.Series) -> pl.DataFrame:
    """One row an id: the rows of the table first, then the ids that only events name, in the order in which they first come."""
    if table is None:
        return pl.DataFrame({key: seen})
    extra = seen.filter(~seen.is_in(table[key].implode()))
    return pl.concat([table, pl.DataFrame({key: extra})], how="diagonal") if len(extra) else table


def build(
    events: Table | pl.DataFrame,
    columns: Columns = Columns(),
    *,
    users: Table | pl.DataFrame | None = None,
    items: Table | pl.DataFrame | None = None,
    positive: Sequence[str] | None = None,
    negative: Sequence[str] | None = None,
    positive_value: float | None = None,
    bad_rows: Literal["refuse"] | str | Path = "refuse",
    name: str = "log",
    checksum: str | None = None,
) -> Log:
    """A log from its tables. Sources that know how to parse their own files call this; everyone else calls `read`."""
    aside = None if bad_rows == "refuse" else Path(bad_rows)
    if aside is not None:
        check_aside(aside)
    table = _as_table(events, name)
    tables: dict[str, pl.DataFrame | None] = {"user": None, "item": None}
    found: list[Problems] = []
    keep = None if aside is not None else 1
    sums = []
    for key, column, given in (("user", columns.user, users), ("item", columns.item, items)):
        if given is not None:
            side = _as_table(given, f"{key}s")
            tables[key], problems = scan_table(side, key, column, columns.list_separator, keep=keep)  # type: ignore[arg-type]
            found.append(problems)
            if checksum is None:
                sums.append(side.checksum(side.columns))
    scanned = scan_events(table, columns, keep=keep)
    found.insert(0, scanned.problems)
    if aside is not None:
        set_aside(aside, found)
    else:
        for problems in found:
            if problems.count:
                raise problems.error()
    if not scanned.rows:
        left = f"; all {scanned.problems.count:,} rows were bad, see {aside}" if aside is not None and scanned.problems.count else ""
        raise DataError(f"{table.name}: no events{left}")
    if checksum is None:
        checksum = table.checksum([column for _, column in columns.declared])
        if sums:
            checksum = hashlib.sha256("".join([checksum, *sums]).encode()).hexdigest()
    user_table = catalogue("user", tables["user"], scanned.users)
    item_table = catalogue("item", tables["item"], scanned.items)
    frame, kinds = assemble(scanned, columns, user_table, item_table, text_source=isinstance(table, TextTable), name=table.name)
    return Log(
        events=frame,
        users=user_table,
        items=item_table,
        name=name,
        checksum=checksum,
        positive=_kinds("positive", positive, kinds, [kind for kind in kinds if kind.lower() not in NOT_POSITIVE]),
        negative=_kinds("negative", negative, kinds, [kind for kind in kinds if kind.lower() in NEGATIVE]),
        positive_value=positive_value,
    )


def assemble(
    scanned: Events, columns: Columns, users: pl.DataFrame, items: pl.DataFrame, *, text_source: bool, name: str
) -> tuple[pl.DataFrame, list[str]]:
    """The frame of events, oldest first. Chunks are given up column by column, so that no column is held twice."""
    parts = scanned.columns
    kinds = sorted(scanned.kinds)
    done: dict[str, pl.Series] = {}
    with translated(name, "a log"):
        done["user"] = pl.concat(parts.pop("user")).cast(pl.Enum(users["user"]))
        done["item"] = pl.concat(parts.pop("item")).cast(pl.Enum(items["item"]))
        done["time"] = pl.concat(parts.pop("time")).cast(pl.Datetime("us"))
        codes = parts.pop("kind", None)
        if codes is None:
            codes = [pl.repeat(0, scanned.rows, dtype=pl.UInt16, eager=True)]
        # kinds were numbered as they came; they are listed by name
        done["kind"] = pl.Series(scanned.kinds, dtype=pl.Enum(kinds)).gather(pl.concat(codes))
        done["value"] = pl.concat(parts.pop("value", [pl.repeat(None, scanned.rows, dtype=pl.Float32, eager=True)]))
        for column in columns.context:
            pieces = parts.pop(column)
            whole = pl.concat([piece.to_frame(column) for piece in pieces], how="vertical_relaxed").to_series()
            if text_source:
                whole, issues = infer(whole, f"{name}: column {column!r}")
                if issues:
                    raise DataError(
                        f"{name}: column {column!r} holds numbers that are not finite (nan, inf); mend them, or leave the column out"
                    )
            done[column] = whole
        # column by column, so that at most one stands in memory twice
        order = None if done["time"].is_sorted() else np.argsort(done["time"].to_physical().to_numpy(), kind="stable")
        for key, series in done.items():
            done[key] = series.rechunk() if order is None else series.gather(order)
        return pl.DataFrame([series.alias(key) for key, series in done.items()]), kinds


def _as_table(given: Table | pl.DataFrame, name: str) -> Table:
    return FrameTable(given, name) if isinstance(given, pl.DataFrame) else given


def _kinds(key: str, given: Sequence[str] | None, kinds: list[str], default: list[str]) -> tuple[str, ...]:
    """The kinds that count as wanted (or unwanted). A likely typing mistake is refused, a kind that merely did not occur is not."""
    if given is None:
        return tuple(default)
    if isinstance(given, str):
        raise DataError(f"{key} must be a list of kinds, got the string {given!r}")
    for kind in given:
        near = difflib.get_close_matches(kind, kinds, n=1, cutoff=0.75)
        if kind not in kinds and near:
            raise DataError(f"{key}: no event is of kind {kind!r}; did you mean {near[0]!r}?")
    if key == "positive" and given and not set(given) & set(kinds):
        raise DataError(f"positive: no event is of kind {', '.join(map(repr, given))}; the log has {', '.join(map(repr, kinds))}")
    return tuple(given)
