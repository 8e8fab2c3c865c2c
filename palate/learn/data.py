"""The log to learn from: what a bundle was made of, and what the event store has kept since, as one log through the one gate.

    log = combine(base, export.frame(store, until=cut), gone=store.forgotten_among(base.users["user"]))

What an event says
    A kind that the base log has means what it means there. Other kinds mean what `palate.read` takes them for: click, play, purchase,
    rating and like are wanted, hide is not, impression and survey are neither (a task may read them). `positive_value` is about ratings
    and the kinds of the base log: three seconds of a play are no bad rating. A hide that a later like took back is no hide.
    Found by a search after a slate was given up: wanted, once, whatever kind of event said so.

Ids keep their places: first those of the base log, then new ones in the order in which the store first named them.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

import polars as pl

from palate.data.gate import NEGATIVE, NOT_POSITIVE
from palate.data.log import read
from palate.data.tables import json_series
from palate.feedback.events import NO_ITEM
from palate.types import Log

RATED = "rating"
FOUND = "search"
"""The kind of an event that says an item was found by searching; events of the store that are searches have no item."""


class Combined(NamedTuple):
    """What can be learnt from. unread: values of the events' context that are not of the type that the base log has, and were left out."""

    log: Log
    unread: int


def combine(base: Log, events: pl.DataFrame, *, gone: Collection[str] = (), found: pl.DataFrame | None = None) -> Combined:
    """The base log and the events of a store (columns of `palate.feedback.export`) as one log.

    gone: people to leave out, who were forgotten. found: `user`, `item`, `taken`: what was found by searching (`join(...).searches`).
    Cost: that of `palate.read` of them all.
    """
    kept, users = base.events, base.users
    if gone:
        names = list(gone)
        kept, users = kept.filter(~pl.col("user").cast(pl.String).is_in(names)), users.filter(~pl.col("user").is_in(names))
    about = _without_taken_back(events.filter(~pl.col("kind").is_in(list(NO_ITEM)) & ~pl.col("user").is_in(list(gone))))
    columns, unread = _context(base, about)
    words = [pl.col(name).cast(pl.String) for name in ("user", "item", "kind")]
    value = pl.col("value").cast(pl.Float32)
    old = kept.select(*words, "time", value, *base.context)
    new = about.select(*words, pl.col("time").dt.convert_time_zone("UTC").dt.replace_time_zone(None), value, *columns)
    kinds = new["kind"].unique().sort().to_list()
    known = {*base.events["kind"].cast(pl.String).unique(), *base.positive, *base.negative}
    positive = [*base.positive, *(kind for kind in kinds if kind not in known and kind not in NOT_POSITIVE)]
    negative = [*base.negative, *(kind for kind in kinds if kind not in known and kind in NEGATIVE)]
    valued = tuple(dict.fromkeys([*(base.valued or base.positive), RATED]))
    if found is not None and found.height:
        new = pl.concat([new, _not_said_yet(new, found, positive, base.positive_value, valued)], how="diagonal")
        positive.append(FOUND)
    frame = pl.concat([old, new], how="vertical")
    there = set(frame["kind"].unique())
    log = read(
        frame,
        kind="kind",
        value="value",
        context=base.context,
        users=users,
        items=base.items,
        positive=[kind for kind in dict.fromkeys(positive) if kind in there],
        negative=[kind for kind in dict.fromkeys(negative) if kind in there],
        positive_value=base.positive_value,
        name=base.name,
    )
    return Combined(replace(log, valued=valued), unread)


def _without_taken_back(events: pl.DataFrame) -> pl.DataFrame:
    """The events without the hides after which the same person liked the same item."""
    likes = events.filter(kind="like").group_by("user", "item").agg(liked=pl.col("time").max())
    if not likes.height:
        return events
    joined = events.join(likes, on=["user", "item"], how="left", maintain_order="left")
    taken_back = (pl.col("kind") == "hide") & (pl.col("time") <= pl.col("liked")).fill_null(value=False)
    return joined.filter(~taken_back).drop("liked")


def _not_said_yet(
    new: pl.DataFrame, found: pl.DataFrame, positive: list[str], least: float | None, valued: tuple[str, ...]
) -> pl.DataFrame:
    """What was found by searching, where no wanted event says so already."""
    wanted = pl.col("kind").is_in(positive)
    if least is not None:
        wanted = wanted & (~pl.col("kind").is_in(list(valued)) | (pl.col("value") >= least).fill_null(value=False))
    taken = found.select("user", "item", pl.col("taken").dt.convert_time_zone("UTC").dt.replace_time_zone(None).alias("time")).unique()
    said = new.filter(wanted).select("user", "item", "time")
    return taken.join(said, on=["user", "item", "time"], how="anti").sort("time", "user", "item").with_columns(kind=pl.lit(FOUND))


def _context(base: Log, events: pl.DataFrame) -> tuple[list[pl.Series], int]:
    """The base log's columns of context, from the events' own; and how many values did not fit."""
    if not base.context:
        return [], 0
    given, unread, columns = contexts(events["context"]), 0, []
    for name in base.context:
        column, lost = fitting(name, [row.get(name) for row in given], base.events.schema[name])
        columns.append(column)
        unread += lost
    return columns, unread


def contexts(texts: pl.Series) -> list[dict[str, object]]:
    """Objects from their JSON text; null is an empty one."""
    return [json.loads(text) if text else {} for text in texts.to_list()]


def fitting(name: str, values: list[object], dtype: pl.DataType) -> tuple[pl.Series, int]:
    """Values as a column of a type; those that are not of it become null, and are counted."""
    whole = json_series(name, values)
    try:
        column = whole.cast(dtype, strict=False)
    except pl.exceptions.PolarsError:  # lists where one value belongs, say
        column = pl.Series(name, [None] * len(whole), dtype=dtype)
    return column, column.null_count() - whole.null_count()
