"""The one validating gate: whatever the source, `read` gives a `Log`, or says in one line what is wrong and where."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import polars as pl

from palate.data.columns import Unit
from palate.data.gate import Columns, build
from palate.data.tables import SUFFIXES, open_table
from palate.types import DataError, Log

# name -> file in palate/data/sources, and what its `load` is given
SOURCES: dict[str, tuple[str, tuple[str, ...]]] = {
    "movielens-small": ("movielens", ("small",)),
    "movielens-100k": ("movielens", ("100k",)),
    "movielens-1m": ("movielens", ("1m",)),
    "movielens-20m": ("movielens", ("20m",)),
    "planted": ("planted", ()),
}


def read(
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
    positive: Sequence[str] | None = None,
    negative: Sequence[str] | None = None,
    positive_value: float | None = None,
    time_unit: Unit = "s",
    bad_rows: Literal["refuse"] | str | Path = "refuse",
    list_separator: str = "|",
    name: str | None = None,
    separator: str | None = None,
) -> Log:
    """A validated log of events.

    source: a path (.csv, .tsv, .txt, .jsonl, .ndjson, .parquet, .arrow, .feather), a polars, pandas or Arrow frame, or a source by name:
        movielens-small, movielens-100k, movielens-1m, movielens-20m, planted.
    user, item, time: the columns that say who, what and when. Times are numbers in `time_unit` since 1970, ISO 8601 text (UTC unless
        it names an offset), dates or datetimes. time=None: the order of the rows is their order in time (row number, as seconds).
    kind, value: columns of the kind of event (click, purchase, ...) and of a number (rating, dwell time, ...).
    context: further columns to keep.
    users, items: tables (a path or a frame) of what is known about ids, under the same column name as in the events, or `user` / `item`.
        In text files a column in which `list_separator` occurs is a column of lists.
    positive: the kinds that say "wanted"; by default all that occur but impression, exposure, view, dislike, hide, skip, block, survey.
        positive_value: where set, only with at least this value. negative: by default dislike, hide, block.
    bad_rows: "refuse", or a file (.parquet, .csv, .jsonl) where rejected rows are set aside: file, row, column, reason, the row itself.
    separator: of text files; by default a comma in .csv, a tab in .tsv, the likeliest in .txt.

    Ids become strings. Users and items are listed in the order of their table, then in that in which events first name them.
    The checksum is the sha256 of the file (of the Arrow IPC stream of a frame); with tables, of the checksums one after the other.

    Raises DataError that names file, line and column of the first problem. Cost: linear; 20 million rows of CSV take about 25 s.

    >>> import polars as pl
    >>> log = read(pl.DataFrame({"user": [7, 7], "item": ["b", "a"], "time": [20, 10]}))
    >>> log.events["item"].to_list(), log.items["item"].to_list()
    (['a', 'b'], ['b', 'a'])
    """
    columns = Columns(user, item, time, kind, value, _names(context), time_unit, list_separator)
    if isinstance(source, str) and source in SOURCES:
        if columns != Columns(list_separator=list_separator) or users is not None or items is not None:
            raise DataError(
                f"{source}: its columns and tables are known; leave user, item, time, kind, value, context, users and items out"
            )
        return _known(source, positive, negative, positive_value, name)
    if isinstance(source, str) and Path(source).suffix.lower() not in SUFFIXES and not Path(source).exists():
        near = difflib.get_close_matches(source, SOURCES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"sources are {', '.join(SOURCES)}"
        raise DataError(f"{source}: no such file, and no source of that name; {hint}")
    table = open_table(source, separator=separator, name=None if isinstance(source, (str, Path)) else name)
    return build(
        table,
        columns,
        users=None if users is None else open_table(users, separator=separator, name=_frame_name(users, "users")),
        items=None if items is None else open_table(items, separator=separator, name=_frame_name(items, "items")),
        positive=positive,
        negative=negative,
        positive_value=positive_value,
        bad_rows=bad_rows,
        name=name or (Path(source).stem if isinstance(source, (str, Path)) else "log"),
    )


def _frame_name(source: Any, name: str) -> str | None:
    return None if isinstance(source, (str, Path)) else name


def _names(context: Sequence[str]) -> tuple[str, ...]:
    if isinstance(context, str):
        raise DataError(f"context must be a list of columns, got the string {context!r}")
    return tuple(context)


def _known(
    source: str, positive: Sequence[str] | None, negative: Sequence[str] | None, positive_value: float | None, name: str | None
) -> Log:
    """A log by the name of its source, with the caller's idea of what is wanted."""
    module, arguments = SOURCES[source]
    log: Log = import_module(f"palate.data.sources.{module}").load(*arguments)
    kinds = log.events["kind"].unique().cast(pl.String).to_list()
    for key, given in (("positive", positive), ("negative", negative)):
        for kind in given or ():
            if kind not in kinds:
                raise DataError(f"{key}: {source} has no events of kind {kind!r}; it has {', '.join(map(repr, kinds))}")
    return replace(
        log,
        positive=log.positive if positive is None else tuple(positive),
        negative=log.negative if negative is None else tuple(negative),
        positive_value=log.positive_value if positive_value is None else positive_value,
        name=name or log.name,
    )
