"""What a source holds, or everything that is wrong with it: the report behind `palate validate FILE`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import polars as pl
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table as Grid
from rich.text import Text

from palate.data.columns import Unit, at, infer, text
from palate.data.gate import Columns, assemble, catalogue, scan_events, scan_table
from palate.data.log import SOURCES, read
from palate.data.problems import Problem, Problems, check_aside, set_aside
from palate.data.tables import JsonTable, Table, TextTable, open_table
from palate.types import Log, Longs

LISTED = 1000
BUCKETS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000)
ROLES = {"user": "user", "item": "item", "time": "time", "kind": "kind", "value": "value", "context": "context"}


@dataclass
class ColumnReport:
    """One column: what it is declared as ("" if it is not), the type its values have, and how many are missing."""

    name: str
    role: str
    type: str = "empty"
    missing: int = 0


@dataclass
class TableReport:
    """A table of users or items. rows: those that are good."""

    file: str
    rows: int
    columns: list[ColumnReport]


@dataclass
class Reason:
    """How often something is wrong with a column; `{}` stands for the values."""

    file: str
    column: str
    reason: str
    count: int


@dataclass
class Report:
    """What was found. rows counts the good ones, rejected the others; first and last are ISO times (UTC).

    per_user: (label, users) for users with 1, 2, 3-4, 5-9 ... events. duplicates: rows that repeat (user, item, time, kind).
    problems: the first ones (1,000 at most), of problem_count in all; reasons sums them up.
    """

    file: str
    format: str
    rows: int
    rejected: int
    users: int
    items: int
    kinds: dict[str, int]
    first: str | None
    last: str | None
    duplicates: int
    columns: list[ColumnReport]
    per_user: list[tuple[str, int]]
    tables: list[TableReport] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0
    reasons: list[Reason] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every row is good."""
        return self.problem_count == 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for one JSON object."""
        return asdict(self) | {"ok": self.ok, "per_user": dict(self.per_user)}


def validate(
    source: Any,
    *,
    user: str = "user",
    item: str = "item",
    time: str | None = "time",
    kind: str | None = None,
    value: str | None = None,
    context: Sequence[str] = (),
    users: Any = None,
    items: Any = None,
    time_unit: str = "s",
    bad_rows: Literal["refuse"] | str | Path = "refuse",
    list_separator: str = "|",
    separator: str | None = None,
) -> Report:
    """Reads a source as `palate.read` would, but goes on after a problem and reports all of them. Arguments are those of `read`.

    Raises DataError only where there is nothing to report on: no such file, no such column, a file that is not what its suffix says.
    Cost: twice that of `read`, since it looks at columns that are not declared, too.
    """
    columns = Columns(user, item, time, kind, value, tuple(context), cast(Unit, time_unit), list_separator)
    if isinstance(source, str) and source in SOURCES:
        return of_log(read(source), "source")
    aside = None if bad_rows == "refuse" else Path(bad_rows)
    if aside is not None:
        check_aside(aside)
    keep = LISTED if aside is None else None
    table = _Watched(open_table(source, separator=separator, name=None if isinstance(source, (str, Path)) else "frame"), columns)
    found: list[Problems] = []
    tables: list[TableReport] = []
    for key, column, given in (("user", user, users), ("item", item, items)):
        if given is not None:
            side = open_table(given, separator=separator, name=None if isinstance(given, (str, Path)) else f"{key}s")
            frame, problems = scan_table(side, cast(Literal["user", "item"], key), column, list_separator, keep=keep)
            found.append(problems)
            tables.append(TableReport(side.name, frame.height, _columns(frame, {key: key})))
    scanned = scan_events(table, columns, keep=keep)
    found.insert(0, scanned.problems)
    if aside is not None:
        set_aside(aside, found)
    problems_ = [problem for one in found for problem in one.listed(LISTED)][:LISTED]
    report = Report(
        file=table.name,
        format=table.format,
        rows=scanned.rows,
        rejected=table.seen - scanned.rows + sum(bool(broken.reason) for broken in table.broken),
        users=len(scanned.users),
        items=len(scanned.items),
        kinds={},
        first=None,
        last=None,
        duplicates=0,
        columns=list(table.reports.values()),
        per_user=[],
        tables=tables,
        problems=problems_,
        problem_count=sum(one.count for one in found),
        reasons=_reasons(found),
    )
    if scanned.rows:
        user_table, item_table = catalogue("user", None, scanned.users), catalogue("item", None, scanned.items)
        no_context = Columns(user, item, time, kind, value, (), columns.time_unit)
        frame, _ = assemble(scanned, no_context, user_table, item_table, text_source=False, name=table.name)
        _summarise(report, frame)
    return report


def of_log(log: Log, source_format: str = "log") -> Report:
    """The report of a log that is already validated."""
    report = Report(
        file=log.name,
        format=source_format,
        rows=len(log),
        rejected=0,
        users=log.n_users,
        items=log.n_items,
        kinds={},
        first=None,
        last=None,
        duplicates=0,
        columns=_columns(log.events, {name: ROLES.get(name, "context") for name in log.events.columns}),
        per_user=[],
        tables=[
            TableReport(key, table.height, _columns(table, {key[:-1]: key[:-1]}))
            for key, table in (("users", log.users), ("items", log.items))
        ],
    )
    if len(log):
        _summarise(report, log.events)
    return report


def _summarise(report: Report, events: pl.DataFrame) -> None:
    counts = events["kind"].value_counts(sort=True)
    report.kinds = {str(kind): int(count) for kind, count in zip(counts["kind"].cast(pl.String), counts["count"], strict=True)}
    report.first, report.last = (str(np.datetime64(int(events["time"].to_physical()[row]), "us")) for row in (0, -1))
    report.duplicates = events.height - events.select(pl.struct("user", "item", "time", "kind").n_unique()).item()
    per_user = np.bincount(events["user"].to_physical().to_numpy())
    per_user = per_user[per_user > 0]
    ends = [*BUCKETS[1:], math.inf]
    spans = [(start, end, int(((per_user >= start) & (per_user < end)).sum())) for start, end in zip(BUCKETS, ends, strict=True)]
    filled = [place for place, span in enumerate(spans) if span[2]]
    spans = spans[filled[0] : filled[-1] + 1]
    report.per_user = [(_label(start, end), users) for start, end, users in spans]


def _label(start: int, end: float) -> str:
    if end == math.inf:
        return f"{start:,}+"
    return f"{start:,}" if end == start + 1 else f"{start:,}-{int(end) - 1:,}"


def _reasons(found: list[Problems]) -> list[Reason]:
    reasons = []
    for problems in found:
        name = problems.table.name
        reasons += [Reason(name, column, reason, count) for (column, reason), count in problems.counts.items() if count]
        broken: dict[str, int] = {}
        for piece in problems.table.broken:
            if piece.reason:
                broken[piece.reason] = broken.get(piece.reason, 0) + 1
        reasons += [Reason(name, "", reason, count) for reason, count in broken.items()]
    return sorted(reasons, key=lambda reason: -reason.count)


def _columns(frame: pl.DataFrame, roles: dict[str, str]) -> list[ColumnReport]:
    return [
        ColumnReport(name, roles.get(name, ""), _type(frame[name].dtype), frame[name].null_count())
        for name in frame.columns
    ]  # fmt: skip


def _type(kind: pl.DataType) -> str:
    if kind.is_integer():
        return "integer"
    if kind.is_float() or kind.is_decimal():
        return "number"
    if isinstance(kind, (pl.List, pl.Array)):
        return "list"
    if kind == pl.Null:
        return "empty"
    names: dict[Any, str] = {pl.Boolean: "truth value", pl.Datetime: "time", pl.Date: "date", pl.Binary: "bytes"}
    return names.get(kind.base_type(), "text")


class _Watched(Table):
    """A table that notes types and missing values of every column while the gate reads the declared ones."""

    def __init__(self, inner: Table, columns: Columns) -> None:
        self.inner = inner
        self.name, self.format, self.unit = inner.name, inner.format, inner.unit
        self.seen = 0
        roles = {column: key for key, column in columns.declared}
        self.reports = {name: ColumnReport(name, roles.get(name, "")) for name in inner.columns}

    @property
    def broken(self) -> list[Any]:  # type: ignore[override]
        return self.inner.broken

    @property
    def columns(self) -> list[str]:
        return self.inner.columns

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        wanted = list(columns or [])
        # lines of JSON may bring new keys at any time; every other format has said its columns by now
        everything = None if isinstance(self.inner, JsonTable) else list(dict.fromkeys(self.columns))
        for chunk in self.inner.chunks(everything):
            self.seen += chunk.height
            for name in chunk.columns:
                self._note(chunk[name])
            for report in self.reports.values():
                report.missing += chunk.height if report.name not in chunk.columns else 0
            absent = [pl.lit(None, dtype=pl.String).alias(name) for name in wanted if name not in chunk.columns]
            yield chunk.with_columns(absent).select(wanted)

    def _note(self, column: pl.Series) -> None:
        report = self.reports.get(column.name)
        if report is None:
            report = self.reports[column.name] = ColumnReport(column.name, "", missing=self.seen - len(column))
        if isinstance(self.inner, TextTable):
            column, _ = text(column)
            column, _ = infer(column, column.name)
        report.missing += column.null_count() if column.dtype != pl.String else len(at(column.is_null() | (column == "")))
        kind = _type(column.dtype) if column.null_count() < len(column) else "empty"
        if report.type != kind and kind != "empty":
            report.type = {"empty": kind, ("integer", "number"): "number"}.get(
                report.type if report.type == "empty" else (min(report.type, kind), max(report.type, kind)), "text"
            )

    def locate(self, records: Longs, *, texts: bool = False) -> tuple[Longs, list[str | None]]:
        return self.inner.locate(records, texts=texts)

    def checksum(self, columns: Sequence[str]) -> str:
        return self.inner.checksum(columns)


def render(report: Report) -> RenderableType:
    """The report as a person reads it."""
    parts: list[RenderableType] = [Text.from_markup(f"[bold]{escape(report.file)}[/bold]  [dim]{report.format}[/dim]")]
    facts = Grid(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim")
    facts.add_column()
    facts.add_row("events", f"{report.rows:,}" + (f"  ({report.rejected:,} rows rejected)" if report.rejected else ""))
    facts.add_row("users", f"{report.users:,}")
    facts.add_row("items", f"{report.items:,}")
    facts.add_row("kinds", escape(", ".join(f"{kind} {count:,}" for kind, count in report.kinds.items())) or "none")
    if report.first:
        facts.add_row("time (UTC)", f"{report.first[:19].replace('T', ' ')}  to  {str(report.last)[:19].replace('T', ' ')}")
    facts.add_row("duplicates", f"{report.duplicates:,}  [dim](same user, item, time and kind)[/dim]")
    parts += [facts, Text(""), _grid_of_columns(report.columns, report.rows + report.rejected, "not declared")]
    for table in report.tables:
        parts += [Text(""), Text.from_markup(f"[bold]{escape(table.file)}[/bold]  [dim]{table.rows:,} rows[/dim]")]
        parts.append(_grid_of_columns(table.columns, table.rows, "kept"))
    if report.per_user:
        parts += [Text(""), _histogram(report)]
    parts.append(Text(""))
    if report.ok:
        parts.append(Text("No problems found.", style="green"))
    else:
        parts += _rendered_problems(report)
    return Group(*parts)


def _grid_of_columns(columns: list[ColumnReport], rows: int, other: str) -> Grid:
    grid = Grid(box=None, pad_edge=False)
    for name, justify in (("column", "left"), ("read as", "left"), ("type", "left"), ("missing", "right")):
        grid.add_column(name, justify=cast(Literal["left", "right"], justify))
    for column in columns:
        share = f"{column.missing:,}  ({column.missing / rows:.1%})" if column.missing and rows else "0"
        grid.add_row(escape(column.name), column.role or f"[dim]{other}[/dim]", column.type, share)
    return grid


def _histogram(report: Report) -> Grid:
    grid = Grid(box=None, pad_edge=False)
    grid.add_column("events a user", justify="right")
    grid.add_column("users", justify="right")
    grid.add_column("")
    most = max(users for _, users in report.per_user)
    for label, users in report.per_user:
        grid.add_row(label, f"{users:,}", Text("█" * max(round(40 * users / most), 1 if users else 0), style="cyan"))
    return grid


def _rendered_problems(report: Report, most: int = 20) -> list[RenderableType]:
    parts: list[RenderableType] = [Text(f"{report.problem_count:,} problem{'s' if report.problem_count > 1 else ''}", style="bold red")]
    for problem in report.problems[:most]:
        parts.append(Text(f"  {problem}"))
    if report.problem_count > most:
        parts.append(Text(f"  ... and {report.problem_count - most:,} more; in all:", style="dim"))
        for reason in report.reasons[:most]:
            column = f", column {reason.column!r}" if reason.column else ""
            parts.append(Text(f"  {reason.count:>9,} x  {reason.file}{column}: {reason.reason.replace('{}', '...')}"))
    return parts
