"""Events and shown slates: what each kind takes, and the one line that says what is wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.feedback.events import KINDS, MOST_EVENTS, VALUES, Event, ShownSlate, micros, moment, parse_events
from palate.types import DataError, Slate

BASE: dict[str, Any] = {"id": "1", "kind": "click", "user": "u", "item": "i", "time": "2026-11-23T08:00:00Z"}
NEEDED: dict[str, dict[str, Any]] = {
    "play": {"value": 95.5},
    "rating": {"value": 4},
    "survey": {"value": 5},
    "search": {"query": "heat", "item": None},
}


def refused(where: str = "event", **changes: Any) -> str:
    with pytest.raises(DataError) as error:
        Event.parse({**BASE, **changes}, where)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 300
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_an_event_that_passes_and_survives_json(kind: str) -> None:
    event = Event.parse({**BASE, "kind": kind, **NEEDED.get(kind, {})}, "event")
    assert event.kind == kind
    assert Event.parse(json.loads(event.model_dump_json()), "event") == event


def test_times_are_instants_in_utc() -> None:
    event = Event.parse({**BASE, "time": "2026-11-23T10:00:00.25+02:00"}, "event")
    assert event.time == datetime(2026, 11, 23, 8, 0, 0, 250_000, tzinfo=UTC)
    assert event.time.tzinfo is UTC
    east = datetime(2026, 11, 23, 10, tzinfo=timezone(timedelta(hours=2)))
    assert Event.parse({**BASE, "time": east}, "event").micros == micros(datetime(2026, 11, 23, 8, tzinfo=UTC))


@given(st.integers(0, micros(datetime(2200, 1, 1, tzinfo=UTC)) - 1))
def test_microseconds_there_and_back(given: int) -> None:
    assert micros(moment(given)) == given


@pytest.mark.parametrize(
    "time",
    [
        *(0, 1.7e9, "1700000000", "2026-11-23", "2026-11-23T08:00:00", "2026-11-23T08:00:00.1234567Z", "2026-13-01T00:00:00Z"),
        *("0001-01-01T00:00:00+10:00", "2300-01-01T00:00:00Z", datetime(2026, 1, 1), "٢٠٢٦-11-23T08:00:00Z", None),
    ],
)
def test_times_that_would_be_a_guess_are_refused(time: Any) -> None:
    assert refused(time=time).startswith("event.time: ")


def test_one_line_names_field_and_mend() -> None:
    assert refused(usr="x") == "event.usr: no such key; did you mean `user`?"
    assert refused(kind="survey", value=6) == "event.value: of a survey is the answer, from 1 to 5, got 6.0"
    assert refused(kind="survey", value=2.5) == "event.value: of a survey is 1, 2, 3, 4 or 5, got 2.5"
    assert refused(kind="play") == "event.value: a play needs the seconds played; add value, 0 to 604800"
    assert refused(value=3) == "event.value: a click has none; leave it out"
    assert refused(item=None) == "event.item: a click is about an item; add item"
    assert refused(kind="search", query="x") == "event.item: a search is about no item; leave item and position out"
    assert refused(kind="search", item=None) == "event.query: a search needs what was searched for; add query"
    assert refused(reason="dull") == "event.reason: only a hide has one, not a click; leave it out"
    assert refused(query="dull") == "event.query: only a search has one, not a click; leave it out"
    assert "'impression', 'click'" in refused(kind="clik")
    with pytest.raises(DataError, match=r"^event\.user: is missing; add it$"):
        Event.parse({key: value for key, value in BASE.items() if key != "user"}, "event")


@pytest.mark.parametrize(
    ("field", "value"),
    [("user", value) for value in ("", " ", "\u3000", "a\nb", "a\0", "\ud800", "x" * 257, 7, None)]
    + [("id", "x" * 129), ("item", "x" * 257), ("placement", "x" * 65), ("recommendation", "x" * 129)]
    + [("position", value) for value in (-1, 10_000, 1.0, True)]
    + [("context", value) for value in ([], {"": 1}, {"a": [1]}, {"a": 2**63}, {"a": "\0"}, {"a": "\ud800"}, {"a": float("inf")})]
    + [("context", {f"k{key}": 1 for key in range(33)}), ("context", {f"k{key}": "x" * 500 for key in range(20)})],
)
def test_sizes_and_texts_are_bounded(field: str, value: Any) -> None:
    assert refused(**{field: value}).startswith(f"event.{field}")


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "5", True, 1e300])
def test_values_are_finite_numbers_in_bounds(kind: str, value: Any) -> None:
    assert refused(kind=kind, value=value).startswith("event.value: ")


def test_a_batch_names_the_place() -> None:
    assert len(parse_events(BASE)) == 1
    assert [event.id for event in parse_events([BASE, {**BASE, "id": "2"}])] == ["1", "2"]
    with pytest.raises(DataError, match=r"^events\[1\]\.item: "):
        parse_events([BASE, {**BASE, "item": 5}])
    with pytest.raises(DataError, match=r"^events\[1\]: should be an object, got 5$"):
        parse_events([BASE, 5])
    for other in ("text", None, 5):
        with pytest.raises(DataError, match="should be an event or a list of events"):
            parse_events(other)
    with pytest.raises(DataError, match="send at most 10000 at a time"):
        parse_events([BASE] * (MOST_EVENTS + 1))


def test_a_clock_that_runs_ahead_is_named() -> None:
    now = datetime(2026, 11, 23, 7, 30, tzinfo=UTC)
    assert parse_events(BASE, now=now)
    with pytest.raises(DataError, match=r"^event\.time: .* more than an hour ahead of the clock here; set the sender's clock$"):
        parse_events(BASE, now=now - timedelta(hours=1))


def slate(**changes: Any) -> ShownSlate:
    funnel = Slate(("a", "b"), (0.5, 0.25), ("ease", "popular"), ({"click": 0.1}, {"click": 0.05}), (0.9, 0.1), ("because", ""))
    given = {"recommendation": "r1", "time": datetime(2026, 11, 23, tzinfo=UTC), "version": "v1", **changes}
    return ShownSlate.of(funnel, **given)


def test_a_shown_slate_holds_what_the_funnel_said() -> None:
    shown = slate(user="u", placement="home", experiment="beta", arm="b", context={"device": "phone"})
    assert [(item.position, item.item, item.score, item.source, item.propensity) for item in shown.items] == [
        (0, "a", 0.5, "ease", 0.9),
        (1, "b", 0.25, "popular", 0.1),
    ]
    assert shown.items[1].probabilities == {"click": 0.05}
    assert shown.items[0].reason == "because"


def test_a_slate_that_cannot_be_is_refused() -> None:
    items = [{"item": "a", "position": 0, "score": 1.0}, {"item": "a", "position": 1, "score": 0.5}]
    plain = {"recommendation": "r", "time": "2026-11-23T08:00:00Z", "version": "v", "items": ()}
    with pytest.raises(DataError, match=r"^slate\.items: item 'a' stands twice; show each once$"):
        ShownSlate.parse({**plain, "items": tuple(items)}, "slate")
    with pytest.raises(DataError, match=r"^slate\.arm: experiment and arm come together"):
        slate(arm="b")
    with pytest.raises(DataError, match=r"^slate\.items\[0\]\.propensity: .*greater than 0, got 0"):
        ShownSlate.parse({**plain, "items": ({"item": "a", "position": 0, "score": 1.0, "propensity": 0.0},)}, "slate")
    with pytest.raises(DataError, match=r"^slate\.items\[0\]\.propensty: no such key; did you mean `propensity`\?$"):
        ShownSlate.parse({**plain, "items": ({"item": "a", "position": 0, "score": 1.0, "propensty": 1.0},)}, "slate")
