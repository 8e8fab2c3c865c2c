"""The one validating gate: whatever the source, `read` gives a `Log` or says in one line what is wrong and where."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import polars as pl

from palate.data.gate import build
from palate.types import DataError, Log

SOURCES = {
    "movielens-small": ("palate.data.sources.movielens", "small"),
    "movielens-100k": ("palate.data.sources.movielens", "100k"),
    "movielens-1m": ("palate.data.sources.movielens", "1m"),
    "movielens-20m": ("palate.data.sources.movielens", "20m"),
    "planted": ("palate.data.sources.planted", None),
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
    time_unit: Literal["s", "ms", "us"] = "s",
    bad_rows: Literal["refuse"] | Path = "refuse",
    list_separator: str = "|",
    name: str | None = None,
) -> Log:
    """A validated log from a file, a frame, or the name of a source."""
    if isinstance(source, str) and source in SOURCES:
        module, which = SOURCES[source]
        log: Log = import_module(module).load(which) if which else import_module(module).load()
        changes: dict[str, Any] = {}
        if positive is not None:
            changes["positive"] = tuple(positive)
        if negative is not None:
            changes["negative"] = tuple(negative)
        if positive_value is not None:
            changes["positive_value"] = positive_value
        if name is not None:
            changes["name"] = name
        return replace(log, **changes)
    frame, checksum = _frame(source)
    return build(
        frame,
        user=user,
        item=item,
        time=time,
        kind=kind,
        value=value,
        context=context,
        users=None if users is None else _frame(users)[0],
        items=None if items is None else _frame(items)[0],
        positive=positive,
        negative=negative,
        positive_value=positive_value,
        time_unit=time_unit,
        name=name or (Path(source).stem if isinstance(source, (str, Path)) else "log"),
        checksum=checksum,
    )


def _frame(source: Any) -> tuple[pl.DataFrame, str]:
    if isinstance(source, pl.DataFrame):
        return source, ""
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.exists():
            raise DataError(f"{path}: no such file")
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        if path.suffix == ".parquet":
            return pl.read_parquet(path), checksum
        if path.suffix in (".jsonl", ".ndjson"):
            return pl.read_ndjson(path), checksum
        return pl.read_csv(path, separator="\t" if path.suffix == ".tsv" else ","), checksum
    return pl.DataFrame(source), ""
