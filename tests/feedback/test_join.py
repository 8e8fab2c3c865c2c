"""Slates joined with outcomes: each rule by hand, and against plain Python on any log: nothing from the cut on changes anything."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from palate.feedback.join import Settings, join
from palate.types import DataError

START = datetime(2026, 1, 1, tzinfo=UTC)
CUT = START + timedelta(days=10)
SLATES = {"recommendation": pl.String, "user": pl.String, "time": pl.Datetime("us", "UTC"), "position": pl.Int32, "item": pl.String}
EVENTS = {
    "id": pl.String, "kind": pl.String, "user": pl.String, "item": pl.String, "time": pl.Datetime("us", "UTC"), "value": pl.Float64,
    "recommendation": pl.String, "query": pl.String,
}  # fmt: skip


def slates(*given: tuple[str, str | None, float, str]) -> pl.DataFrame:
    """(recommendation, user, minute, items as letters)."""
    rows = [(name, user, START + timedelta(minutes=at), place, item) for name, user, at, items in given for place, item in enumerate(items)]
    frame = pl.DataFrame(rows, schema=SLATES, orient="row")
    return frame.with_columns(propensity=1 / (pl.col("position").cast(pl.Float64) + 1))


def events(*given: tuple[Any, ...]) -> pl.DataFrame:
    """(kind, user, item, minute, value, recommendation, query), the last three may be left out."""
    rows = []
    for number, one in enumerate(given):
        kind, user, item, at, value, recommendation, query = (*one, *[None] * (7 - len(one)))
        rows.append((f"e{number}", kind, user, item, START + timedelta(minutes=at), value, recommendation, query))
    return pl.DataFrame(rows, schema=EVENTS, orient="row")


def test_a_click_on_the_fifth_by_hand() -> None:
    """The four above were passed over; of the two below nobody knows."""
    joined = join(slates(("r", "u", 0, "abcdefg")), events(("click", "u", "e", 1, None, "r")), CUT)
    rows = joined.rows
    assert rows["clicked"].to_list() == [False] * 4 + [True] + [False] * 2
    assert rows["examined"].to_list() == [True] * 5 + [False] * 2
    assert joined.pairs.select("better", "worse", "margin").rows() == [("e", item, 1) for item in "abcd"]
    telling, sizes = joined.groups
    assert sizes.tolist() == [5]
    assert telling["grade"].to_list() == [0, 0, 0, 0, 1]
    assert telling["propensity"].to_list() == [1 / place for place in range(1, 6)]


def test_grades_hides_and_what_is_played_by_hand() -> None:
    happened = events(
        ("click", "u", "b", 1, None, "r"),
        ("play", "u", "b", 2, 30.0, "r"),
        ("play", "u", "b", 3, 12.0, "r"),
        ("purchase", "u", "c", 4, 9.5, "r"),
        ("click", "u", "d", 5, None, "r"),
        ("hide", "u", "d", 6, None, "r"),
        ("hide", "u", "f", 7, None, "r"),
        ("hide", "u", "z", 8),
        ("survey", "u", "b", 9, 2.0, "r"),
        ("survey", "u", "b", 10, 4.0, "r"),
        ("survey", "u", "y", 11, 5.0),
        ("rating", "u", "a", 12, 3.5, "r"),
        ("impression", "u", "e", 13, None, "r"),
    )
    joined = join(slates(("r", "u", 0, "abcdefg")), happened, CUT)
    columns = {
        name: joined.rows[name].to_list() for name in ("clicked", "examined", "hidden", "grade", "seconds", "rating", "satisfaction")
    }
    assert columns == {
        "clicked": [False, True, True, True, False, False, False],
        "examined": [True, True, True, True, True, True, False],
        "hidden": [False, False, False, True, False, True, False],
        "grade": [0, 1, 3, 0, 0, 0, 0],
        "seconds": [0, 42, 0, 0, 0, 0, 0],
        "rating": [3.5, None, None, None, None, None, None],
        "satisfaction": [None, 4, None, None, None, None, None],
    }
    assert sorted(joined.pairs.select("better", "worse", "margin").rows()) == [
        ("b", "a", 1), ("b", "d", 1), ("b", "e", 1), ("b", "f", 1),
        ("c", "a", 3), ("c", "b", 2), ("c", "d", 3), ("c", "e", 3), ("c", "f", 3),
    ]  # fmt: skip
    assert joined.hides["item"].to_list() == ["d", "f", "z"]
    assert joined.surveys.select("item", "value").rows() == [("b", 2), ("b", 4), ("y", 5)]
    assert joined.ratings["value"].to_list() == [3.5]


def test_attribution_by_hand() -> None:
    shown = slates(("one", "u", 0, "ab"), ("two", "u", 100, "bc"), ("other", "v", 100, "c"), ("anyone", None, 0, "d"))
    happened = events(
        ("click", "u", "b", 50),  # names none: the last slate that showed it, `one`
        ("click", "u", "c", 101, None, "two"),
        ("click", "u", "c", 102, None, "other"),  # shown to v
        ("click", "u", "z", 103, None, "two"),  # not in it
        ("click", "u", "c", 99),  # before any slate showed it
        ("click", "u", "c", 99, None, "two"),  # before its slate
        ("click", "u", "a", 24 * 60),  # the window is over
        ("click", "w", "d", 7, None, "anyone"),  # shown to somebody without an id
        ("click", "w", "d", 8),  # could be anybody's
    )
    joined = join(shown, happened, CUT)
    clicked = joined.rows.filter("clicked").select("recommendation", "item").rows()
    assert sorted(clicked) == [("anyone", "d"), ("one", "b"), ("two", "c")]
    assert joined.left == {
        "slates still open": 0,
        "events of no slate": 3,
        "events of another user's slate": 1,
        "events before their slate": 1,
        "events after the window": 1,
    }


def test_a_search_after_an_abandoned_slate_by_hand() -> None:
    shown = slates(("r", "u", 0, "abc"), ("s", "v", 0, "abc"), ("t", "w", 0, "abc"), ("x", "x", 0, "abc"))
    happened = events(
        ("search", "u", None, 2, None, None, "heat"),
        ("search", "u", None, 3, None, None, "heat 1995"),  # the words are changed until something is found
        ("click", "u", "b", 4),  # was on the slate
        ("click", "u", "z", 5),  # this should have been
        ("click", "u", "y", 6),
        ("click", "v", "b", 1, None, "s"),  # not abandoned
        ("search", "v", None, 2, None, None, "heat"),
        ("click", "v", "z", 3),
        ("search", "w", None, 11, None, None, "heat"),  # too late to be an answer to the slate
        ("click", "w", "z", 12),
        ("search", "x", None, 9, None, None, "heat"),
        ("click", "x", "z", 39),  # too long after the search
    )
    found = join(shown, happened, CUT).searches
    assert found.select("recommendation", "user", "query", "item").rows() == [("r", "u", "heat 1995", "z")]
    assert found["time"].to_list() == [START]
    assert join(shown, happened, CUT, Settings(search=timedelta(minutes=15), found=timedelta(hours=1))).searches["user"].to_list() == [
        "u",
        "w",
        "x",
    ]


def test_a_slate_in_between_takes_the_search() -> None:
    shown = slates(("r", "u", 0, "abc"), ("s", "u", 1, "def"), ("t", "u", 4, "z"))
    happened = events(("search", "u", None, 2, None, None, "heat"), ("click", "u", "z", 3), ("click", "u", "y", 5))
    assert join(shown, happened, CUT).searches.select("recommendation", "item").rows() == [("s", "z")]


def test_open_slates_wait_and_what_was_received_late_was_not_known() -> None:
    shown = slates(("old", "u", 0, "ab"), ("young", "u", 60, "ab"))
    happened = events(("click", "u", "b", 1, None, "old"), ("click", "u", "a", 61, None, "young"))
    cut = START + timedelta(hours=24, minutes=30)
    joined = join(shown, happened, cut)
    assert joined.rows["recommendation"].unique().to_list() == ["old"]
    assert joined.left["slates still open"] == 1
    late = happened.with_columns(received=pl.lit(cut, dtype=pl.Datetime("us", "UTC")))
    assert not join(shown, late, cut).rows["clicked"].any()
    assert join(shown, late, cut + timedelta(microseconds=1)).rows["clicked"].to_list() == [False, True]


def test_other_columns_stay_and_empty_frames_do() -> None:
    shown = slates(("r", "u", 0, "ab")).with_columns(arm=pl.lit("new"))
    assert join(shown, events(), CUT).rows["arm"].to_list() == ["new", "new"]
    nothing = join(slates(), events(), CUT)
    assert nothing.rows.height == nothing.pairs.height == nothing.searches.height == len(nothing.groups[1]) == 0
    bare = join(
        slates(("r", "u", 0, "ab")).drop("propensity").with_columns(propensity=None),
        events(("click", "u", "a", 1)).drop("value", "recommendation", "query"),
        CUT,
    )
    assert bare.rows["clicked"].to_list() == [True, False]


# -- any log --------------------------------------------------------------------------------------------------------------------------

LETTERS, PEOPLE = "abcde", ["u", "v", None]
SHOWN = st.lists(
    st.tuples(st.sampled_from(PEOPLE), st.integers(0, 200), st.lists(st.sampled_from(LETTERS), min_size=1, max_size=4, unique=True)),
    max_size=6,
)
KINDS = ["click", "play", "purchase", "hide", "impression", "search", "survey", "rating"]
HAPPENED = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.sampled_from(["u", "v"]),
        st.sampled_from(LETTERS),
        st.integers(0, 200),
        st.integers(0, 90),
        st.integers(-1, 6),
    ),
    max_size=14,
)
SHORT = Settings(window=timedelta(minutes=60), search=timedelta(minutes=30), found=timedelta(minutes=30))


def world(shown: list[Any], happened: list[Any]) -> tuple[pl.DataFrame, pl.DataFrame]:
    frame = slates(*[(f"r{number}", user, at, "".join(items)) for number, (user, at, items) in enumerate(shown)])
    given, received = [], []
    for kind, user, item, at, delay, named in happened:
        searching = kind == "search"
        slate = f"r{named}" if 0 <= named < len(shown) and not searching else None
        given.append(
            (
                kind,
                user,
                None if searching else item,
                at,
                4.0 if kind in ("play", "survey", "rating") else None,
                slate,
                "q" if searching else None,
            )
        )
        received.append(START + timedelta(minutes=at + delay))
    return frame, events(*given).with_columns(received=pl.Series(received, dtype=pl.Datetime("us", "UTC")))


@settings(max_examples=40, deadline=None)
@given(SHOWN, HAPPENED, st.integers(0, 260), st.booleans())
def test_nothing_from_the_cut_on_leaks(shown: list[Any], happened: list[Any], minute: int, received: bool) -> None:
    """The whole log and only what was known at the cut give the same; and nothing that is told bears a time from the cut on."""
    frame, log = world(shown, happened)
    cut = START + timedelta(minutes=minute)
    joined = join(frame, log if received else log.drop("received"), cut, SHORT)
    known = log.filter((pl.col("time") < cut) & (pl.col("received" if received else "time") < cut))
    known = known if received else known.drop("received")
    before = join(frame.filter(pl.col("time") < cut), known, cut, SHORT)
    for name in ("rows", "hides", "ratings", "surveys", "searches", "pairs"):
        assert_frame_equal(getattr(joined, name), getattr(before, name))
        for column in {"time", "taken", "searched"} & set(getattr(joined, name).columns):
            assert (getattr(joined, name)[column] < cut).all()
    assert joined.left == before.left
    assert (joined.rows["time"] + SHORT.window <= cut).all()


@settings(max_examples=60, deadline=None)
@given(SHOWN, HAPPENED, st.randoms())
def test_as_plain_python_has_it_in_any_order(shown: list[Any], happened: list[Any], order: Any) -> None:
    frame, log = world(shown, happened)
    log = log.drop("received")
    rows = join(
        frame.sample(fraction=1, shuffle=True, seed=order.randrange(99)), log.sample(fraction=1, shuffle=True, seed=1), CUT, SHORT
    ).rows
    got = {row[:2]: row[2:] for row in rows.select("recommendation", "item", "clicked", "examined", "hidden", "grade").rows()}
    told: dict[tuple[str, str], list[str]] = {(f"r{number}", item): [] for number, (_, _, items) in enumerate(shown) for item in items}
    for event in log.iter_rows(named=True):
        at = (event["time"] - START) / timedelta(minutes=1)
        if event["recommendation"]:
            number = int(event["recommendation"][1:])
            user, when, items = shown[number]
            fits = event["item"] in items and user in (None, event["user"]) and when <= at < when + 60
        else:
            mine = [
                (when, n) for n, (user, when, items) in enumerate(shown) if user == event["user"] and event["item"] in items and when <= at
            ]
            latest = max((when for when, _ in mine), default=None)
            tied = [n for when, n in mine if when == latest]
            if len(tied) > 1:
                return  # two slates at one moment: either may have it
            fits = latest is not None and at < latest + 60
            number = tied[0] if tied else -1
        if fits:
            told[f"r{number}", event["item"]].append(event["kind"])
    grades = {"click": 1, "play": 1, "purchase": 3}
    for number, (_, _, items) in enumerate(shown):
        clicks = [place for place, item in enumerate(items) if set(told[f"r{number}", item]) & set(grades)]
        for place, item in enumerate(items):
            kinds = told[f"r{number}", item]
            hidden = "hide" in kinds
            grade = 0 if hidden else max((grades.get(kind, 0) for kind in kinds), default=0)
            assert got[f"r{number}", item] == (place in clicks, bool(kinds) or place <= max(clicks, default=-1), hidden, grade)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, e: (s.drop("item"), e), "slates has no column 'item'"),
        (lambda s, e: (s, e.drop("kind")), "events has no column 'kind'"),
        (lambda s, e: (s.with_columns(rating=1.0), e), "a column 'rating', which the join makes"),
        (lambda s, e: (pl.concat([s, s]), e), "has position 0 twice"),
        (lambda s, e: (s.with_columns(item=pl.lit("a")), e), "has item 'a' twice"),
        (lambda s, e: (s, pl.concat([e, e])), "event 'e0' is there twice"),
        (lambda s, e: (s.with_columns(user=pl.Series(["u", "v"])), e), "differ in user or time"),
        (lambda s, e: (s, e.with_columns(user=pl.lit(None))), "user is missing in row 0"),
        (lambda s, e: (s.with_columns(pl.col("time").dt.replace_time_zone(None)), e), "a Datetime with a time zone"),
    ],
)
def test_bad_frames_are_one_line(change: Any, message: str) -> None:
    shown, happened = change(slates(("r", "u", 0, "ab")), events(("click", "u", "a", 1)))
    with pytest.raises(DataError, match=message) as raised:
        join(shown, happened, CUT)
    assert "\n" not in str(raised.value)


def test_a_cut_without_a_time_zone_is_refused() -> None:
    with pytest.raises(DataError, match="names no time zone"):
        join(slates(), events(), datetime(2026, 1, 1))
    assert np.array_equal(join(slates(), events(), CUT).groups[1], [])
