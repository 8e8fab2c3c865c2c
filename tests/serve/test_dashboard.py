"""The dashboard on stores that were filled by hand, so that every number is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palate.feedback.ab import Experiment, Layer
from palate.feedback.events import Event, ShownItem, ShownSlate
from palate.feedback.store import Decision, EventStore
from palate.serve.dashboard import dashboard

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    with EventStore.open(tmp_path / "events.db") as opened:
        yield opened


def slate(
    name: str, ago: timedelta, items: list[str], user: str | None = "u", *, version: str = "v1", propensity: float = 1.0, **more: Any
) -> ShownSlate:
    predicted = more.pop("predicted", 0.5)
    shown = [
        {"item": item, "position": place, "score": 1.0, "propensity": propensity, "probabilities": {"label": predicted}}
        for place, item in enumerate(items)
    ]
    return ShownSlate.parse(
        {"recommendation": name, "user": user, "time": NOW - ago, "version": version, "items": items_of(shown), **more}, "s"
    )


def items_of(shown: list[dict[str, Any]]) -> tuple[ShownItem, ...]:
    return tuple(ShownItem.model_validate(one) for one in shown)


def click(name: str, ago: timedelta, item: str, recommendation: str, position: int, user: str = "u", kind: str = "click") -> Event:
    given = {"id": name, "kind": kind, "user": user, "item": item, "time": NOW - ago, "recommendation": recommendation}
    return Event.parse({**given, "position": position}, "event")


def shown(store: EventStore, **more: Any) -> dict[str, Any]:
    found = dashboard(store, **{"version": "v1", "catalogue": 8, "now": NOW, **more})
    assert json.loads(json.dumps(found, allow_nan=False)) == found  # plain values, and no NaN
    return found


HOURS, DAYS = timedelta(hours=1), timedelta(days=1)


def test_an_empty_store(store: EventStore) -> None:
    found = shown(store)
    assert found["totals"] == {
        "slates": 0,
        "events": 0,
        "people": 0,
        "item_ctr": {"value": None, "low": None, "high": None, "clicks": 0, "views": 0},
        "page_ctr": {"value": None, "low": None, "high": None, "clicks": 0, "views": 0},
    }
    assert found["coverage"] == {"items": 0, "catalogue": 8, "share": 0.0, "half": 0}
    assert (found["ctr"], found["calibration"], found["versions"], found["experiments"], found["decisions"]) == ([], [], [], [], [])
    assert found["off_policy"][0]["refused"] == "no slate of this version is older than 24 hours, so its clicks are not all in; wait"
    assert [returned["value"] for returned in found["returns"]] == [None, None]


def test_clicks_coverage_traffic_and_versions_by_hand(store: EventStore) -> None:
    store.append_slates(
        [
            slate("r1", 50 * HOURS, ["a", "b"], "ann"),
            slate("r2", 49 * HOURS, ["a", "c"], "bob", version="v0"),
            slate("r3", 1 * HOURS, ["a", "d"], "ann"),  # its window is open
            slate("r4", 1 * HOURS, ["b", "a"], None),
            slate("old", 40 * DAYS, ["e", "f"], "ann"),
        ]
    )
    store.append(
        [
            click("1", 50 * HOURS, "a", "r1", 0, "ann", "impression"),
            click("2", 49.5 * HOURS, "a", "r1", 0, "ann"),
            click("3", 0.5 * HOURS, "d", "r3", 1, "ann"),
            click("4", 0.5 * HOURS, "b", "r4", 0, "eve"),
            click("5", 10 * HOURS, "c", "r2", 1, "bob"),  # after the window: nobody's
        ]
    )
    store.decide(Decision(NOW - HOURS, "promote", "v1", "v0", "better", {"ndcg@10": 0.25}))
    found = shown(store)
    assert found["looked_at"] == {"slates": 4, "of": 4, "open": 2, "since": "2026-11-21T10:00:00Z"}
    assert (found["totals"]["slates"], found["totals"]["events"], found["totals"]["people"]) == (4, 5, 2)
    assert [(row["position"], row["clicks"], row["views"]) for row in found["ctr"]] == [(0, 2, 4), (1, 1, 4)]
    assert found["totals"]["item_ctr"]["value"] == 3 / 8
    assert found["totals"]["page_ctr"]["value"] == 3 / 4
    assert found["coverage"] == {"items": 4, "catalogue": 8, "share": 0.5, "half": 1}  # a fills 4 of the 8 places
    assert found["kinds"] == [{"kind": "click", "events": 4}, {"kind": "impression", "events": 1}]
    assert found["traffic"]["unit"] == "day"
    assert found["traffic"]["slates"] == [
        {"time": "2026-11-21T00:00:00Z", "version": "v0", "slates": 1},
        {"time": "2026-11-21T00:00:00Z", "version": "v1", "slates": 1},
        {"time": "2026-11-23T00:00:00Z", "version": "v1", "slates": 2},
    ]
    assert found["traffic"]["events"] == [{"time": "2026-11-21T00:00:00Z", "events": 2}, {"time": "2026-11-23T00:00:00Z", "events": 3}]
    now, before = found["versions"]
    assert (now["version"], now["current"], now["slates"], now["items"], now["item_ctr"]["value"]) == ("v1", True, 3, 3, 3 / 6)
    assert (before["version"], before["current"], before["slates"], before["page_ctr"]["value"]) == ("v0", False, 1, 0.0)
    (decision,) = found["decisions"]
    assert decision == {
        "time": "2026-11-23T11:00:00Z",
        "action": "promote",
        "version": "v1",
        "against": "v0",
        "reason": "better",
        "measures": {"ndcg@10": 0.25},
    }
    assert shown(store, days=1)["traffic"]["unit"] == "hour"
    assert shown(store, days=90)["coverage"]["items"] == 6


def test_intervals_are_wilsons_and_wider_where_views_are_of_few_people(store: EventStore) -> None:
    store.append_slates([slate(f"r{n}", 2 * HOURS, ["a"], f"u{n}") for n in range(10)])
    store.append([click(f"c{n}", HOURS, "a", f"r{n}", 0, f"u{n}") for n in range(5)])
    (alone,) = shown(store)["ctr"]
    assert (alone["low"], alone["high"]) == pytest.approx((0.2265, 0.7735), abs=1e-4)  # Wilson of 0.5 with 9: one mean is known
    store.append_slates([slate(f"more{n}", 2 * HOURS, ["a"], f"u{n % 10}") for n in range(90)])
    store.append([click(f"d{n}", HOURS, "a", f"more{n}", 0, f"u{n % 10}") for n in range(90) if n % 10 < 5])
    (ten_each,) = shown(store)["ctr"]
    assert (ten_each["clicks"], ten_each["views"]) == (50, 100)
    assert ten_each["low"] == pytest.approx(alone["low"])  # 100 views of ten people who always do the same are worth ten


def test_calibration_by_hand(store: EventStore) -> None:
    store.append_slates([slate(f"r{n}", 2 * HOURS, ["a"], f"u{n}", predicted=(n // 10) / 10) for n in range(100)])
    store.append([click(f"c{n}", HOURS, "a", f"r{n}", 0, f"u{n}") for n in range(100) if n % 10 < n // 10])
    (label,) = shown(store)["calibration"]
    assert (label["task"], label["predicted"], label["value"]) == ("label", pytest.approx(0.45), 0.45)
    assert [one["predicted"] for one in label["bins"]] == pytest.approx([n / 10 for n in range(10)])
    assert [one["value"] for one in label["bins"]] == pytest.approx([n / 10 for n in range(10)])


def test_what_is_no_probability_has_no_calibration(store: EventStore) -> None:
    store.append_slates([slate("r", 2 * HOURS, ["a"], predicted=3.5)])
    assert shown(store)["calibration"] == []


def explored(store: EventStore, slates: int = 3000, *, best: float = 0.8) -> None:
    """Place 1 shows "best" with this probability, else one of four others; place 2 one of five. Clicks: best 0.3, others 0.1."""
    rng = np.random.default_rng(5)
    rows, clicks = [], []
    for n in range(slates):
        first = "best" if rng.random() < best else f"other{rng.integers(4)}"
        items = [(first, best if first == "best" else (1 - best) / 4), (f"low{rng.integers(5)}", 0.2)]
        given = [{"item": item, "position": place, "score": 1.0, "propensity": p} for place, (item, p) in enumerate(items)]
        head = {"recommendation": f"r{n}", "user": f"u{n}", "time": NOW - 30 * HOURS, "version": "v1"}
        rows.append(ShownSlate.parse({**head, "items": items_of(given)}, "s"))
        if rng.random() < (0.3 if first == "best" else 0.1):
            clicks.append(click(f"c{n}", 29 * HOURS, first, f"r{n}", 0, f"u{n}"))
    store.append_slates(rows)
    store.append(clicks)


def test_off_policy_tells_what_exploring_costs(store: EventStore) -> None:
    explored(store)
    (found,) = shown(store)["off_policy"]
    assert found["refused"] is None
    assert found["slates"] == 3000
    assert found["places"] == 1  # at the second nothing is shown more often than not
    assert found["served"] == pytest.approx(0.8 * 0.3 + 0.2 * 0.1, abs=0.03)
    ips, snips = found["estimates"]
    assert (ips["method"], snips["method"]) == ("IPS", "SNIPS")
    for estimate in (ips, snips):
        assert estimate["low"] < 0.3 < estimate["high"]  # the truth
        assert estimate["high"] - estimate["low"] < 0.06
    assert snips["ess"] == pytest.approx(2400, rel=0.05)  # as many slates as showed it
    assert found["gain"]["value"] == pytest.approx(snips["value"] - found["served"])
    assert found["gain"]["low"] > 0


@pytest.mark.parametrize(
    ("best", "slates", "words"),
    [(0.3, 1000, "average 0.000 "), (0.8, 50, "effective sample size is")],
)
def test_off_policy_refuses_in_words(store: EventStore, best: float, slates: int, words: str) -> None:
    explored(store, slates, best=best)
    (found,) = shown(store)["off_policy"]
    assert words in found["refused"]
    assert found["estimates"] == []


def test_off_policy_refuses_where_nothing_was_drawn(store: EventStore) -> None:
    store.append_slates([slate(f"r{n}", 30 * HOURS, ["a", "b"], f"u{n}") for n in range(200)])
    (found,) = shown(store)["off_policy"]
    assert found["refused"].startswith("every one of the 400 places was shown with probability 1")
    assert (found["explored"], found["slates"]) == (0.0, 200)


def test_an_experiment_by_hand(store: EventStore) -> None:
    """40 users in two arms; of `mmr` all click on the first page, of `control` every second one. A slate a day for three days."""
    rows, clicks = [], []
    for n in range(40):
        arm = "mmr" if n % 2 else "control"
        for day in range(3):
            name = f"r{n}-{day}"
            rows.append(slate(name, (20 - day) * DAYS, ["a", "b"], f"u{n}", experiment="diversity", arm=arm))
            if day or arm == "mmr" or n % 4:  # the second day is not counted, whatever is clicked then
                clicks.append(click(name, (20 - day) * DAYS - HOURS, "a", name, 0, f"u{n}"))
    rows += [slate(f"young{n}", 2 * HOURS, ["a"], f"y{n}", experiment="diversity", arm="mmr") for n in range(3)]
    store.append_slates(rows)
    store.append(clicks)
    layer = Layer(name="rerank", experiments=(Experiment(name="diversity", arms={"control": 1, "mmr": 1}),))
    (found,) = shown(store, layers=(layer,))["experiments"]
    assert (found["experiment"], found["base"], found["waiting"], found["users"]) == ("diversity", "control", 3, {"control": 20, "mmr": 23})
    arms = {(row["metric"], row["arm"]): row["value"] for row in found["arms"]}
    assert arms[("page_ctr", "mmr")] == 1.0
    assert arms[("page_ctr", "control")] == 0.5
    assert arms[("item_ctr", "mmr")] == 0.5
    assert arms[("item_ctr", "control")] == 0.25
    assert arms[("L7", "mmr")] == 2.0  # two days back of the seven
    differences = {row["metric"]: row for row in found["differences"]}
    page = differences["page_ctr"]
    assert (page["value"], page["arm"], page["base"], page["level"]) == (0.5, "mmr", "control", 0.95)
    assert page["ever_low"] < page["low"] < 0.5 < page["high"] < page["ever_high"]
    ratio = found["sample_ratio"]
    assert ratio["set"]
    assert ratio["p"] == pytest.approx(0.6473, abs=1e-4)  # chi-squared of 23 and 20: 9 / 43
    assert ratio["p_always"] == 1.0


def test_an_experiment_nobody_has_finished(store: EventStore) -> None:
    store.append_slates([slate("r", HOURS, ["a"], "u", experiment="x", arm="a")])
    (found,) = shown(store)["experiments"]
    assert found["waiting"] == 1
    assert found["differences"] == []
    assert all(row["value"] is None for row in found["arms"])


def test_a_user_drawn_twice_is_said(store: EventStore) -> None:
    store.append_slates([slate(arm, (5 * DAYS) - hour * HOURS, ["a"], "u", experiment="x", arm=arm) for hour, arm in enumerate("ab")])
    (found,) = shown(store)["experiments"]
    assert "is in the arms a, b" in found["said"][0]


def test_return_visits_by_hand(store: EventStore) -> None:
    """ann comes back on two of seven days (twice on one of them), bob on none, cid's week is not over."""
    days = {"ann": [20, 18, 17.9, 15], "bob": [20], "cid": [3, 2]}
    store.append_slates([slate(f"{user}{at}", at * DAYS, ["a"], user) for user, times in days.items() for at in times])
    week, month = shown(store)["returns"]
    assert (week["value"], week["users"], week["waiting"], week["came_back"]) == (1.0, 2, 1, 0.5)
    assert week["days_back"] == [1, 0, 1, 0, 0, 0, 0, 0]
    assert (month["value"], month["waiting"]) == (None, 3)


def test_only_the_newest_are_looked_at(store: EventStore) -> None:
    store.append_slates([slate(f"r{n}", (60 - n) * HOURS, [f"i{n}"], f"u{n}") for n in range(40)])
    found = shown(store, most=10, catalogue=100)
    assert (found["looked_at"]["slates"], found["looked_at"]["of"]) == (10, 40)
    assert found["totals"]["slates"] == 40
    assert found["coverage"]["items"] == 10
    assert found["ctr"][0]["views"] == 10


def test_slates_whose_events_were_not_read_are_not_taken_for_unclicked(store: EventStore) -> None:
    store.append_slates([slate(f"r{n}", (60 - n) * HOURS, ["a"], f"u{n}") for n in range(4)])
    store.append(
        [click(f"c{n}-{m}", (60 - n) * HOURS - timedelta(minutes=1 + m), "a", f"r{n}", 0, f"u{n}") for n in range(4) for m in range(20)]
    )
    found = shown(store, most=2)
    assert found["ctr"][0]["clicks"] == found["ctr"][0]["views"] == 1  # of the older of the two, an event might not have been read
