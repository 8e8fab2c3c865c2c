"""Slates joined with what came of them, into rows to learn from: two frames as `palate.feedback.export` makes them, and a cut.

    slates   recommendation, user, time, position (from 0), item, propensity, and any others (arm, version ...): a row an item shown
    events   id, kind, user, item, time, value, recommendation, query

Attribution. An event that names a recommendation goes to that slate, if the slate held the item and was shown to that user; one that names
none goes to the last slate before it that showed its user the item. Either way within `window` of the slate; what comes later is nobody's.

What was seen. People read from the top: who clicks the fifth item has passed over the four above (Joachims 2002, KDD; Joachims, Granka,
Pan, Hembrooke, Gay 2005, SIGIR: "Click > Skip Above"). An item is `examined` if it stands at or above the last click of its slate, or if
an event of its own says so.

Delay. A slate counts when its window is over at the cut, so that "not clicked" means just that (Chapelle 2014, KDD: what is not clicked yet
is no negative); younger slates wait for the next time. Nothing at or after the cut is looked at: neither what happened then nor, where the
events have a column `received`, what was only known then. So the rows of a cut are those that could have been made at that moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

import numpy as np
import polars as pl
import pydantic

from palate import config
from palate.types import DataError, Longs

TIME = pl.Datetime("us", "UTC")
SLATES: Mapping[str, pl.DataType] = {
    "recommendation": pl.String(),
    "user": pl.String(),
    "time": TIME,
    "position": pl.Int64(),
    "item": pl.String(),
    "propensity": pl.Float64(),
}
EVENTS: Mapping[str, pl.DataType] = {
    "id": pl.String(),
    "kind": pl.String(),
    "user": pl.String(),
    "item": pl.String(),
    "time": TIME,
    "value": pl.Float64(),
    "recommendation": pl.String(),
    "query": pl.String(),
}
OUTCOMES = ("clicked", "examined", "hidden", "grade", "seconds", "rating", "satisfaction")


class Settings(config.Config):
    """window: how long after a slate an event still counts for it. search: how soon a search must follow an abandoned slate to have been
    caused by it; found: how soon after the search the item must be taken. grades: what kinds of event are worth in a LambdaRank group;
    these kinds are what "clicked" means.
    """

    window: timedelta = timedelta(hours=24)
    search: timedelta = timedelta(minutes=10)
    found: timedelta = timedelta(minutes=30)
    grades: dict[str, int] = pydantic.Field(default_factory=lambda: {"click": 1, "play": 1, "like": 2, "purchase": 3})

    @pydantic.model_validator(mode="after")
    def _spans_and_grades(self) -> Self:
        for name in ("window", "search", "found"):
            if getattr(self, name) <= timedelta(0):
                raise ValueError(f"{name} must be longer than nothing")
        if not self.grades or not all(1 <= grade <= 30 for grade in self.grades.values()):
            raise ValueError("grades must name at least one kind, and be 1 to 30")
        return self


@dataclass(frozen=True)
class Joined:
    """What was learnt from slates whose window is over, all of it known before the cut.

    rows: the columns of the slates, and
        clicked        Boolean: any event of a kind that has a grade
        examined       Boolean, see the head of the file. hidden: Boolean
        grade          Int64: the highest of its events, 0 without one, 0 if hidden
        seconds        Float64: played in all, 0 if not
        rating, satisfaction   Float64: the last rating, the last answer to a survey; null without one.
    hides: user, item, time of every hide, of items shown or not: negatives for retrieval. ratings, surveys: user, item, time, value: what
    trains tasks of ratings and of satisfaction, of items shown or not. searches: retrieval positives, `recommendation`, `user`, `time` (of
    the slate: the moment to ask as of), `query`, `item`, `taken`, `searched`. left: events and slates that did not enter, and why.
    """

    rows: pl.DataFrame
    hides: pl.DataFrame
    ratings: pl.DataFrame
    surveys: pl.DataFrame
    searches: pl.DataFrame
    left: Mapping[str, int]

    @property
    def pairs(self) -> pl.DataFrame:
        """Within each slate what was preferred to what: `recommendation`, `user`, `time`, `better`, `worse`, `margin` (of the grades).

        A higher grade beats a lower one among the items examined: a click beats what was passed over above it, and what was hidden.
        """
        seen = self.rows.filter("examined").select("recommendation", "user", "time", "item", "grade")
        return (
            seen.join(seen.select("recommendation", "item", "grade"), on="recommendation", how="inner", maintain_order="left_right")
            .filter(pl.col("grade") > pl.col("grade_right"))
            .select("recommendation", "user", "time", better="item", worse="item_right", margin=pl.col("grade") - pl.col("grade_right"))
        )

    @property
    def groups(self) -> tuple[pl.DataFrame, Longs]:
        """For LambdaRank: the examined rows of slates that prefer something to something, and how many rows each such slate has."""
        seen = self.rows.filter("examined")
        telling = seen.filter(pl.col("grade").n_unique().over("recommendation") > 1)
        sizes = telling.group_by("recommendation", maintain_order=True).len()["len"]
        return telling, sizes.to_numpy().astype(np.int64)


def join(slates: pl.DataFrame, events: pl.DataFrame, cut: datetime, settings: Settings = Settings()) -> Joined:
    """Training rows as of `cut` (aware of its time zone). Frames without an optional column (value, recommendation, query) have none of it.

    Errors: DataError for missing columns, for null ids or times, for an item or a position twice in a slate, an event id twice. Cost: sorts
    of both frames.
    """
    if cut.tzinfo is None:
        raise DataError(f"join: the cut {cut} names no time zone; give it one, such as UTC")
    now = pl.lit(cut, dtype=TIME)
    shown, happened = _slates(slates), _events(events)
    known = pl.col("time") < now
    if "received" in happened.columns:
        known = known & (pl.col("received") < now)
    happened = happened.filter(known).drop("received", strict=False)
    past = shown.filter(pl.col("time") < now)
    left = {"slates still open": 0}
    attributed, left_over = _attribute(past, happened.filter(pl.col("item").is_not_null()), settings)
    left |= left_over
    over = pl.col("time") + settings.window <= now
    closed = past.filter(over)
    left["slates still open"] = past.filter(~over)["recommendation"].n_unique()
    taken = ["user", "item", "time"]
    return Joined(
        rows=_label(closed, attributed, settings),
        hides=happened.filter(kind="hide").select(taken),
        ratings=happened.filter(kind="rating").drop_nulls("value").select(*taken, "value"),
        surveys=happened.filter(kind="survey").drop_nulls("value").select(*taken, "value"),
        searches=_searches(past, happened, attributed, settings),
        left=left,
    )


def _attribute(shown: pl.DataFrame, events: pl.DataFrame, settings: Settings) -> tuple[pl.DataFrame, dict[str, int]]:
    """Events with the `slate` they belong to (a recommendation) and its item, and how many have none."""
    places = shown.select(slate="recommendation", viewer="user", shown="time", item="item")
    named = events.filter(pl.col("recommendation").is_not_null())
    met = named.join(
        places, left_on=["recommendation", "item"], right_on=["slate", "item"], how="inner", maintain_order="left"
    ).with_columns(slate="recommendation")
    theirs = met.filter(pl.col("viewer").is_null() | (pl.col("viewer") == pl.col("user")))
    free = events.filter(pl.col("recommendation").is_null()).sort("time", maintain_order=True)
    last = free.join_asof(
        places.filter(pl.col("viewer").is_not_null()).sort("shown", maintain_order=True),
        left_on="time",
        right_on="shown",
        by_left=["user", "item"],
        by_right=["viewer", "item"],
        strategy="backward",
        check_sortedness=False,
    ).filter(pl.col("slate").is_not_null())
    columns = ["id", "kind", "user", "item", "time", "value", "slate", "shown"]
    both = pl.concat([theirs.select(columns), last.select(columns)])
    inside = both.filter((pl.col("time") >= pl.col("shown")) & (pl.col("time") < pl.col("shown") + settings.window))
    left = {
        "events of no slate": named.height - met.height + free.height - last.height,
        "events of another user's slate": met.height - theirs.height,
        "events before their slate": both.filter(pl.col("time") < pl.col("shown")).height,
        "events after the window": both.filter(pl.col("time") >= pl.col("shown") + settings.window).height,
    }
    return inside.sort("time", "id"), left


def _label(closed: pl.DataFrame, attributed: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """The rows of closed slates, in the order of time, slate and position."""
    kind, value = pl.col("kind"), pl.col("value")
    outcome = attributed.group_by("slate", "item", maintain_order=True).agg(
        best=kind.replace_strict(settings.grades, default=0, return_dtype=pl.Int64).max(),
        hidden=(kind == "hide").any(),
        seconds=value.filter(kind == "play").sum(),
        rating=value.filter(kind == "rating").drop_nulls().last(),
        satisfaction=value.filter(kind == "survey").drop_nulls().last(),
        touched=pl.lit(value=True),
    )
    rows = closed.sort("time", "recommendation", "position").join(
        outcome, left_on=["recommendation", "item"], right_on=["slate", "item"], how="left", maintain_order="left"
    )
    clicked = pl.col("best").fill_null(0) > 0
    lowest = pl.when(clicked).then(pl.col("position")).max().over("recommendation")
    return rows.with_columns(
        clicked=clicked,
        examined=pl.col("touched").fill_null(value=False) | (pl.col("position") <= lowest).fill_null(value=False),
        hidden=pl.col("hidden").fill_null(value=False),
        grade=pl.when(pl.col("hidden").fill_null(value=False)).then(0).otherwise(pl.col("best").fill_null(0)),
        seconds=pl.col("seconds").fill_null(0.0),
    ).drop("best", "touched")


def _searches(shown: pl.DataFrame, events: pl.DataFrame, attributed: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """Retrieval positives: what abandoned slates should have held.

    A slate was abandoned if its user searched within `search` of it, before any other slate and any click. The item is the first one with a
    graded event (that names no recommendation) within `found` of the last such search, and that the slate did not hold.
    """
    graded = list(settings.grades)
    views = shown.filter(pl.col("user").is_not_null()).unique("recommendation", keep="first", maintain_order=True)
    views = views.select("recommendation", "user", shown="time").sort("shown", maintain_order=True)
    searches = events.filter(kind="search").select("user", "query", searched="time").sort("searched", maintain_order=True)
    # Each search belongs to the last slate before it. Several may follow one slate: the words are changed until something is found.
    caused = (
        searches.join_asof(views, left_on="searched", right_on="shown", by="user", strategy="backward", check_sortedness=False)
        .drop_nulls("recommendation")
        .filter(pl.col("searched") < pl.col("shown") + settings.search)
    )
    clicks = attributed.filter(pl.col("kind").is_in(graded)).select("slate", at="time")
    before = (
        caused.select("recommendation", "searched")
        .join(clicks, left_on="recommendation", right_on="slate")
        .filter(pl.col("at") <= pl.col("searched"))
    )
    abandoned = caused.join(before, on=["recommendation", "searched"], how="anti", maintain_order="left")
    # What was taken belongs to the last search or slate before it.
    marks = pl.concat(
        [
            searches.select("user", mark="searched", search=pl.lit(value=True)),
            views.select("user", mark="shown", search=pl.lit(value=False)),
        ]
    ).sort("mark", "search", maintain_order=True)
    takes = (
        events.filter(pl.col("kind").is_in(graded) & pl.col("item").is_not_null() & pl.col("recommendation").is_null())
        .select("user", "item", taken="time")
        .sort("taken", maintain_order=True)
    )
    after = takes.join_asof(marks, left_on="taken", right_on="mark", by="user", strategy="backward", check_sortedness=False).filter(
        pl.col("search").fill_null(value=False) & (pl.col("taken") < pl.col("mark") + settings.found)
    )
    first = after.join(abandoned, left_on=["user", "mark"], right_on=["user", "searched"], how="inner", maintain_order="left")
    first = first.join(shown.select("recommendation", "item"), on=["recommendation", "item"], how="anti", maintain_order="left")
    return first.unique("recommendation", keep="first", maintain_order=True).select(
        "recommendation", "user", "query", "item", "taken", time="shown", searched="mark"
    )


def _slates(frame: pl.DataFrame) -> pl.DataFrame:
    taken = [name for name in OUTCOMES if name in frame.columns]
    if taken:
        raise DataError(f"join: slates has a column {taken[0]!r}, which the join makes; rename it")
    shown = _typed(frame, SLATES, "slates", needed=("recommendation", "time", "position", "item"), wanted=("user", "propensity"))
    for name in ("position", "item"):
        twice = shown.filter(pl.struct("recommendation", name).is_duplicated())
        if twice.height:
            raise DataError(
                f"join: the slate {twice['recommendation'][0]!r} has {name} {twice[name][0]!r} twice; each place shows one item, once"
            )
    uneven = shown.group_by("recommendation").agg(pl.col("user", "time").n_unique()).filter((pl.col("user") > 1) | (pl.col("time") > 1))
    if uneven.height:
        raise DataError(
            f"join: the rows of the slate {uneven['recommendation'][0]!r} differ in user or time; a slate is one answer to one user"
        )
    return shown


def _events(frame: pl.DataFrame) -> pl.DataFrame:
    events = _typed(frame, EVENTS, "events", needed=("id", "kind", "user", "time"), wanted=("item",))
    twice = events.filter(pl.col("id").is_duplicated())
    if twice.height:
        raise DataError(f"join: the event {twice['id'][0]!r} is there twice; the store keeps each once: join what it holds")
    keep = [*EVENTS, *(["received"] if "received" in events.columns else [])]
    return events.select(keep).sort("time", "id")


def _typed(
    frame: pl.DataFrame, columns: Mapping[str, pl.DataType], what: str, *, needed: tuple[str, ...], wanted: tuple[str, ...]
) -> pl.DataFrame:
    """The frame with these columns in these types; the others of `columns` are null where it has none. needed: never null."""
    for name in (*needed, *wanted):
        if name not in frame.columns:
            raise DataError(f"join: {what} has no column {name!r}; it has {', '.join(frame.columns)}")
    for name in needed:
        if frame[name].null_count():
            raise DataError(f"join: {what}: {name} is missing in row {int(frame[name].is_null().arg_true()[0])}; every row needs it")
    for name in {"time", "received"} & set(frame.columns):
        given = frame.schema[name]
        if not isinstance(given, pl.Datetime) or given.time_zone is None:
            raise DataError(f"join: {what}: {name} is {given}; it must be a Datetime with a time zone")
    times = [pl.col(name).dt.convert_time_zone("UTC").dt.cast_time_unit("us") for name in ("time", "received") if name in frame.columns]
    frame = frame.with_columns(times)
    return frame.with_columns(
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(kind).alias(name) for name, kind in columns.items() if name != "time"
    )
