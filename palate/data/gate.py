"""From frames to a Log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import polars as pl

from palate.types import DataError, Log

NOT_POSITIVE = ("impression", "exposure", "view", "dislike", "hide", "skip", "block", "survey")
NEGATIVE = ("dislike", "hide", "block")


def build(
    events: pl.DataFrame,
    *,
    user: str = "user",
    item: str = "item",
    time: str | None = "time",
    kind: str | None = None,
    value: str | None = None,
    context: Sequence[str] = (),
    users: pl.DataFrame | None = None,
    items: pl.DataFrame | None = None,
    positive: Sequence[str] | None = None,
    negative: Sequence[str] | None = None,
    positive_value: float | None = None,
    time_unit: Literal["s", "ms", "us"] = "s",
    name: str = "log",
    checksum: str = "",
    only_kind: str = "event",
) -> Log:
    """A Log from frames."""
    for column in (user, item, time, kind, value, *context):
        if column is not None and column not in events.columns:
            raise DataError(f"{name}: no column {column!r}; it has {', '.join(events.columns)}")
    scale = {"s": 1_000_000, "ms": 1_000, "us": 1}[time_unit]
    if time is None:
        when = pl.int_range(pl.len(), dtype=pl.Int64) * 1_000_000
    elif events[time].dtype.is_numeric():
        when = (pl.col(time) * scale).cast(pl.Int64)
    else:
        when = pl.col(time).cast(pl.Datetime("us")).cast(pl.Int64)
    frame = events.select(
        pl.col(user).cast(pl.String).alias("user"),
        pl.col(item).cast(pl.String).alias("item"),
        when.cast(pl.Datetime("us")).alias("time"),
        (pl.col(kind).cast(pl.String) if kind else pl.lit(only_kind)).alias("kind"),
        (pl.col(value) if value else pl.lit(None)).cast(pl.Float32).alias("value"),
        *context,
    )
    tables = {}
    for key, own, table in (("user", user, users), ("item", item, items)):
        seen = frame.select(key).unique(maintain_order=True)
        if table is None:
            tables[key] = seen
        else:
            first = own if own in table.columns else key
            table = table.select(pl.col(first).cast(pl.String).alias(key), pl.exclude(first))
            tables[key] = pl.concat([table, seen.join(table, on=key, how="anti", maintain_order="left")], how="diagonal")
    kinds = sorted(frame["kind"].unique().to_list())
    frame = frame.with_columns(
        pl.col("user").cast(pl.Enum(tables["user"]["user"])),
        pl.col("item").cast(pl.Enum(tables["item"]["item"])),
        pl.col("kind").cast(pl.Enum(kinds)),
    ).sort("time", maintain_order=True)
    return Log(
        frame,
        tables["user"],
        tables["item"],
        name,
        checksum,
        tuple(positive) if positive is not None else tuple(k for k in kinds if k not in NOT_POSITIVE),
        tuple(negative) if negative is not None else tuple(k for k in kinds if k in NEGATIVE),
        positive_value,
    )
