"""A base log and a store's events as one log: what each kind means, ids that keep their places, forgotten people, searches."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from palate.data.log import read
from palate.errors import DataError
from palate.feedback.export import COLUMNS
from palate.learn.data import combine
from palate.types import Log

TIME = datetime(2026, 1, 1, tzinfo=UTC)


def events(*rows: dict[str, Any]) -> pl.DataFrame:
    """Events of a store; `at`: seconds after TIME."""
    plain = {"user": "ann", "item": "heat", "value": None, "context": None}
    made = []
    for number, row in enumerate(rows):
        at = TIME.timestamp() + row.pop("at", number)
        made.append({**plain, "seq": number + 1, "id": str(number), "time": datetime.fromtimestamp(at, UTC), **row})
    return pl.DataFrame(made, schema=dict(COLUMNS))


@pytest.fixture
def base() -> Log:
    """Ratings, of which 4 and more are wanted; items with titles; the hour as context."""
    frame = pl.DataFrame(
        {
            "user": ["ann", "bob", "bob"],
            "item": ["heat", "alien", "heat"],
            "time": [10, 20, 30],
            "kind": ["rating"] * 3,
            "value": [5.0, 4.0, 2.0],
            "hour": [8, 9, 10],
        }
    )
    items = pl.DataFrame({"item": ["alien", "big", "heat"], "title": ["Alien", "Big", "Heat"]})
    return read(frame, kind="kind", value="value", context=["hour"], items=items, positive_value=4, name="films")


def wanted(log: Log) -> list[tuple[str, str, str]]:
    words = [pl.col(name).cast(pl.String) for name in ("user", "item", "kind")]
    return log.positives().events.select(words).rows()


def test_every_kind_means_what_it_says_by_hand(base: Log) -> None:
    kinds = ["impression", "click", "play", "purchase", "like", "hide", "survey"]
    later = events(
        *({"kind": kind, "item": kind, "value": 3.0 if kind in ("play", "purchase", "survey") else None} for kind in kinds),
        {"kind": "rating", "item": "good", "value": 4.5},
        {"kind": "rating", "item": "bad", "value": 3.5},
        {"kind": "search", "item": None},
    )
    log = combine(base, later).log
    # A play of three seconds, and a purchase of three coins, are no ratings below 4.
    assert wanted(log) == [
        ("ann", "heat", "rating"),
        ("bob", "alien", "rating"),
        *(("ann", kind, kind) for kind in ("click", "play", "purchase", "like")),
        ("ann", "good", "rating"),
    ]
    assert log.negatives().events["item"].cast(pl.String).to_list() == ["hide"]
    assert set(log.events["kind"].cast(pl.String)) == {*kinds, "rating"}
    assert (log.name, log.positive_value) == ("films", 4)
    assert log.events["time"].is_sorted()
    assert log.events["time"][-1] == datetime(2026, 1, 1, 0, 0, 8)


def test_a_kind_of_the_base_keeps_its_meaning(base: Log) -> None:
    """Here clicks were never wanted; nor does the store make them so."""
    frame = pl.DataFrame({"user": ["a", "a"], "item": ["x", "y"], "time": [1, 2], "kind": ["click", "purchase"]})
    log = combine(read(frame, kind="kind", positive=["purchase"]), events({"kind": "click"}, {"kind": "purchase"})).log
    assert [kind for _, _, kind in wanted(log)] == ["purchase", "purchase"]


def test_ids_keep_their_places_and_new_ones_follow(base: Log) -> None:
    log = combine(base, events({"kind": "click", "user": "cid", "item": "fargo"}, {"kind": "click", "user": "bob", "item": "jaws"})).log
    assert log.items["item"].to_list() == ["alien", "big", "heat", "fargo", "jaws"]
    assert log.items["title"].to_list() == ["Alien", "Big", "Heat", None, None]
    assert log.users["user"].to_list() == ["ann", "bob", "cid"]


def test_forgotten_people_are_gone_from_the_base_too(base: Log) -> None:
    log = combine(base, events({"kind": "click", "user": "cid"}), gone={"bob"}).log
    assert log.users["user"].to_list() == ["ann", "cid"]
    assert len(log) == 2


def test_a_hide_that_was_taken_back_is_none(base: Log) -> None:
    log = combine(
        base,
        events(
            {"kind": "hide", "item": "alien"},
            {"kind": "like", "item": "alien"},
            {"kind": "like", "item": "big"},
            {"kind": "hide", "item": "big"},
            {"kind": "hide", "item": "alien", "user": "bob"},
        ),
    ).log
    assert log.negatives().events.select(pl.col("user", "item").cast(pl.String)).rows() == [("ann", "big"), ("bob", "alien")]


def test_what_a_search_found_is_wanted_once(base: Log) -> None:
    """The click that took it says so already; a kind that is not wanted here does not."""
    took = [{"kind": "click", "item": "fargo", "at": 60}, {"kind": "rating", "item": "jaws", "value": 1.0, "at": 90}]
    found = pl.DataFrame(
        {
            "user": ["ann", "ann"],
            "item": ["fargo", "jaws"],
            "taken": [datetime(2026, 1, 1, 0, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 1, 30, tzinfo=UTC)],
        }
    )
    log = combine(base, events(*took), found=found).log
    assert wanted(log)[2:] == [("ann", "fargo", "click"), ("ann", "jaws", "search")]
    assert wanted(combine(base, events(*took)).log)[2:] == [("ann", "fargo", "click")]


def test_context_is_read_as_the_base_has_it(base: Log) -> None:
    texts = ['{"hour": 7, "device": "phone"}', None, '{"hour": "11"}', '{"hour": "noon"}', '{"hour": [1]}']
    one_by_one = [combine(base, events({"kind": "click", "context": text})) for text in texts]
    assert [found.log.events["hour"][-1] for found in one_by_one] == [7, None, 11, None, None]
    assert [found.unread for found in one_by_one] == [0, 0, 0, 1, 1]


def test_it_goes_through_the_one_gate(base: Log) -> None:
    with pytest.raises(DataError, match="item"):
        combine(base, events({"kind": "click", "item": "two\nlines"}))
