"""What is wrong with the rows of a table: where, and why; and the file that bad rows are set aside in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from palate.data.columns import Issue
from palate.data.tables import Table
from palate.types import DataError, Longs

KEPT = 1000  # problems remembered one by one where the input is refused anyway
WRITERS = (".parquet", ".csv", ".jsonl")


@dataclass(frozen=True)
class Problem:
    """One problem: file, its line (text) or row (everything else) counted from 1, column ("" for the whole row), reason."""

    file: str
    unit: str
    row: int
    column: str
    reason: str

    def __str__(self) -> str:
        column = f", column {self.column!r}" if self.column else ""
        return f"{self.file}, {self.unit} {self.row}{column}: {self.reason}"


class Problems:
    """Collects the issues of one table chunk by chunk. keep: how many to remember one by one; all are counted."""

    def __init__(self, table: Table, keep: int | None = KEPT) -> None:
        self.table = table
        self.keep = keep
        self.counts: dict[tuple[str, str], int] = {}
        self.found: list[tuple[int, str, str]] = []  # position, column, reason

    def add(self, start: int, issues: dict[str, list[Issue]], given: pl.DataFrame) -> Longs:
        """Issues of a chunk that starts at position `start`, a list a column. Returns the row numbers (within the chunk) that have one."""
        flat = [(rows, column, reason) for column, found in issues.items() for rows, reason in found]
        if not flat:
            return np.zeros(0, dtype=np.int64)
        for rows, column, reason in flat:
            self.counts[column, reason] = self.counts.get((column, reason), 0) + len(rows)
        where = np.concatenate([rows for rows, _, _ in flat])
        which = np.repeat(np.arange(len(flat)), [len(rows) for rows, _, _ in flat])
        room = len(where) if self.keep is None else max(0, self.keep - len(self.found))
        for place in np.argsort(where, kind="stable")[:room].tolist():
            row, (_, column, reason) = int(where[place]), flat[which[place]]
            self.found.append((start + row, column, reason.replace("{}", shown(given[column][row])) if "{}" in reason else reason))
        return np.unique(where)

    @property
    def count(self) -> int:
        """All problems, remembered or not."""
        return sum(self.counts.values()) + len(self._broken())

    def _broken(self) -> list[tuple[int, str]]:
        return [(broken.record, broken.reason) for broken in self.table.broken if broken.reason]

    def listed(self, most: int | None = None) -> list[Problem]:
        """The problems in the order of the rows; at most so many. Walks a text file once to find the lines."""
        rows = self._sorted()[:most]
        numbers, _ = self.table.locate(np.array([record for record, _, _ in rows], dtype=np.int64)) if rows else (np.zeros(0), [])
        return [
            Problem(self.table.name, self.table.unit, int(number), column, reason)
            for number, (_, column, reason) in zip(numbers, rows, strict=True)
        ]

    def _sorted(self) -> list[tuple[int, str, str]]:
        records = self.table.records(np.array([position for position, _, _ in self.found], dtype=np.int64)).tolist()
        rows = [(record, column, reason) for record, (_, column, reason) in zip(records, self.found, strict=True)]
        broken = [(record, "", reason) for record, reason in self._broken()]
        return sorted(rows + (broken if self.keep is None else broken[: self.keep]), key=lambda row: row[0])

    def error(self) -> DataError:
        """The first problem, and how many more."""
        first = self.listed(1)[0]
        more = self.count - 1
        return DataError(
            f"{first}" + (f" (and {more:,} more problem{'s' if more > 1 else ''}; `palate validate` lists them)" if more else "")
        )

    def rejected(self) -> pl.DataFrame:
        """One row a rejected row: file, row, column, reason, record (the line as it stands, or the row as JSON)."""
        grouped: dict[int, list[tuple[str, str]]] = {}
        for record, column, reason in self._sorted():
            grouped.setdefault(record, []).append((column, reason))
        numbers, texts = self.table.locate(np.array(list(grouped), dtype=np.int64), texts=True) if grouped else (np.zeros(0, np.int64), [])
        reasons = [
            "; ".join(f"{column}: {reason}" if column and len(found) > 1 else reason for column, reason in found)
            for found in grouped.values()
        ]
        return pl.DataFrame(
            {
                "file": [self.table.name] * len(grouped),
                "row": numbers,
                "column": [", ".join(dict.fromkeys(column for column, _ in found if column)) for found in grouped.values()],
                "reason": reasons,
                "record": texts,
            },
            schema={"file": pl.String, "row": pl.Int64, "column": pl.String, "reason": pl.String, "record": pl.String},
        )


def shown(value: object, most: int = 60) -> str:
    """A value as a message shows it."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        value = value[:200].removeprefix("\0")
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def check_aside(path: Path) -> None:
    """Refuses a file for bad rows that could not be written."""
    if path.suffix.lower() not in WRITERS:
        raise DataError(f"bad_rows: {path} must end in {', '.join(WRITERS)}")
    if not path.absolute().parent.is_dir():
        raise DataError(f"bad_rows: there is no folder {path.absolute().parent}")


def set_aside(path: Path, tables: list[Problems]) -> int:
    """Writes every rejected row of these tables with its reason; returns how many. The file is written even if there are none."""
    frame = pl.concat([problems.rejected() for problems in tables])
    try:
        match path.suffix.lower():
            case ".parquet":
                frame.write_parquet(path)
            case ".csv":
                frame.write_csv(path)
            case _:
                frame.write_ndjson(path)
    except OSError as error:
        raise DataError(f"bad_rows: cannot write {path}: {error.strerror or error}") from None
    return frame.height
