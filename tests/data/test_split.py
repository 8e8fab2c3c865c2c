"""Splits: nothing is lost, order and codes are kept, and nothing leaks; a leak is refused."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from palate.data.log import read
from palate.data.split import check, split
from palate.types import Log, SplitError


def log_of(*rows: tuple[str, str, int], **more: object) -> Log:
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return read(frame, **more)  # type: ignore[arg-type]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    rows = draw(
        st.lists(
            st.tuples(st.sampled_from("abcd"), st.sampled_from(["click", "click", "impression"]), st.integers(0, 12), st.integers(0, 2)),
            min_size=2,
            max_size=40,
        )
    )
    # the item numbers the rows, so that every event can be told from every other
    return read(
        pl.DataFrame(
            {
                "user": [row[0] for row in rows],
                "item": [f"i{number}" for number in range(len(rows))],
                "kind": [row[1] for row in rows],
                "time": [row[2] * 600 for row in rows],
                "visit": [row[3] for row in rows],
            }
        ),
        kind="kind",
        context=["visit"],
    )


WAYS: list[tuple[str, dict[str, object]]] = [
    ("leave-last-out", {}),
    ("leave-last-out", {"k": 2}),
    ("global-time", {"fraction": 0.3}),
    ("global-time", {"at": 3000 * 1_000_000}),
    ("session", {"gap_minutes": 15}),
    ("session", {"session": "visit"}),
    ("random", {"fraction": 0.4, "seed": 3}),
]


@given(log=logs(), way=st.sampled_from(WAYS))
@settings(max_examples=150, deadline=None)
def test_nothing_is_lost_and_nothing_leaks(log: Log, way: tuple[str, dict[str, object]]) -> None:
    how, more = way
    try:
        train, test = split(log, how, **more)  # type: ignore[arg-type]
    except SplitError:
        assume(False)
    row = pl.concat([train.events, test.events])["item"].to_physical().to_numpy()
    assert sorted(row.tolist()) == sorted(log.item_codes.tolist())
    place = {item: number for number, item in enumerate(log.item_codes.tolist())}
    for part in (train, test):
        assert len(part)
        assert [place[item] for item in part.item_codes.tolist()] == sorted(place[item] for item in part.item_codes.tolist())
        assert part.items is log.items
        assert part.users is log.users
        assert part.events.schema == log.events.schema
    check(train, test, how, **{key: value for key, value in more.items() if key in ("gap_minutes", "session")})  # type: ignore[arg-type]
    if how == "random":
        return
    first = {user: min(place[i] for i in items) for user, items in _items_by_user(test).items()}
    for user, items in _items_by_user(train).items():
        if user in first:
            assert max(place[item] for item in items) < first[user], "a training event stands after a test event of that user"
    if how == "leave-last-out":
        k = more.get("k", 1)
        wanted, held = _items_by_user(log.positives()), _items_by_user(test.positives())
        assert {user: items[-k:] for user, items in wanted.items() if len(items) > k} == held  # type: ignore[operator]
    if how == "global-time":
        assert train.times.max() < test.times.min()


def _items_by_user(log: Log) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for user, item in zip(log.user_codes.tolist(), log.item_codes.tolist(), strict=True):
        found.setdefault(user, []).append(item)
    return found


def test_leave_last_out_by_hand() -> None:
    log = log_of(("u", "a", 1), ("v", "a", 1), ("u", "b", 2), ("u", "c", 3), ("w", "b", 5), ("v", "c", 5))
    train, test = split(log, "leave-last-out")
    assert test.events["item"].cast(pl.String).to_list() == ["c", "c"]
    train, test = split(log, "leave-last-out", k=2)
    assert test.events["item"].cast(pl.String).to_list() == ["b", "c"]
    assert train.events["item"].cast(pl.String).to_list() == ["a", "a", "b", "c"]


def test_ties_in_time_keep_log_order() -> None:
    log = log_of(("u", "a", 7), ("u", "b", 7), ("u", "c", 7))
    train, test = split(log)
    assert train.events["item"].cast(pl.String).to_list() == ["a", "b"]
    assert test.events["item"].cast(pl.String).to_list() == ["c"]
    check(train, test, "leave-last-out")


def test_what_follows_the_last_wanted_event_is_tested_with_it() -> None:
    frame = pl.DataFrame(
        {"user": ["u"] * 4, "item": list("abcd"), "time": [1, 2, 3, 4], "kind": ["click", "impression", "click", "impression"]}
    )
    train, test = split(read(frame, kind="kind"), "leave-last-out")
    assert train.events["item"].cast(pl.String).to_list() == ["a", "b"]
    assert test.events["item"].cast(pl.String).to_list() == ["c", "d"]
    assert len(test.positives()) == 1


def test_an_event_below_the_positive_value_is_not_held_out() -> None:
    frame = pl.DataFrame({"user": ["u"] * 3, "item": list("abc"), "time": [1, 2, 3], "stars": [5.0, 4.0, 1.0]})
    _, test = split(read(frame, value="stars", positive_value=4), "leave-last-out")
    assert test.events["item"].cast(pl.String).to_list() == ["b", "c"]
    with pytest.raises(SplitError, match="no user has more than 2 wanted events"):
        split(read(frame, value="stars", positive_value=4), "leave-last-out", k=2)


def test_a_global_cut_does_not_part_a_moment() -> None:
    log = log_of(*[("u", f"i{number}", time) for number, time in enumerate([1, 2, 2, 2, 2, 2, 3])])
    train, test = split(log, "global-time", fraction=0.3)
    assert (len(train), len(test)) == (1, 6)
    train, test = split(log, "global-time", at=datetime(1970, 1, 1, 0, 0, 3))
    assert (len(train), len(test)) == (6, 1)
    assert len(split(log, "global-time", at="1970-01-01T00:00:02Z")[1]) == 6
    assert len(split(log, "global-time", at=3_000_000)[1]) == 1


def test_sessions_by_hand() -> None:
    log = log_of(("u", "a", 0), ("u", "b", 1800), ("u", "c", 3601), ("v", "a", 0), ("v", "b", 1), ("u", "d", 5401))
    train, test = split(log, "session")
    assert test.events["item"].cast(pl.String).to_list() == ["c", "d"]
    assert len(train) == 4
    with pytest.raises(SplitError, match="no user has two sessions"):
        split(log, "session", gap_minutes=60)
    check(train, test, "session")
    with pytest.raises(SplitError, match="a session of user 'u' is cut in two"):
        check(train, test, "session", gap_minutes=31)


def test_a_session_that_goes_on_beside_another_is_refused() -> None:
    frame = pl.DataFrame({"user": ["u"] * 3, "item": list("abc"), "time": [1, 2, 3], "visit": ["x", "y", "x"]})
    log = read(frame, context=["visit"])
    with pytest.raises(SplitError, match="leak: the last session of user 'u' starts at 1970-01-01T00:00:01, before another one has ended"):
        split(log, "session", session="visit")
    with pytest.raises(SplitError, match="no context column 'visits' to tell sessions by; the log has visit"):
        split(log, "session", session="visits")
    with pytest.raises(SplitError, match="1 events have no 'visit'"):
        split(read(frame.with_columns(visit=pl.Series(["x", None, "y"])), context=["visit"]), "session", session="visit")


def test_random_is_reproducible_and_only_by_name() -> None:
    log = log_of(*[("u", f"i{number}", number) for number in range(200)])
    one, two, other = (split(log, "random", seed=seed)[1] for seed in (1, 1, 2))
    assert_frame_equal(one.events, two.events)
    assert one.events["item"].to_list() != other.events["item"].to_list()
    with pytest.raises(SplitError, match="leak"):
        check(*split(log, "random"), "leave-last-out")


def test_leaks_are_refused() -> None:
    log = log_of(("u", "a", 1), ("v", "a", 2), ("u", "b", 3), ("v", "b", 4))
    train, test = split(log, "global-time", fraction=0.5)
    with pytest.raises(SplitError, match="leak: training runs to 1970-01-01T00:00:04, but the test starts at 1970-01-01T00:00:01"):
        check(test, train, "global-time")
    with pytest.raises(SplitError, match=r"leak: user 'u' is tested .*and 1 more users"):
        check(test, train, "leave-last-out")
    row = np.array([0, 1, 2])
    with pytest.raises(SplitError, match="leak: 1 event stands in both logs, first user 'u', item 'b'"):
        check(log.where(row), log.where(np.array([2, 3])), "leave-last-out")
    with pytest.raises(SplitError, match="the test log is empty"):
        check(log, log.where(np.zeros(4, dtype=np.bool_)), "random")


def test_settings_are_checked() -> None:
    log = log_of(("u", "a", 1), ("u", "b", 2))
    for how, more, message in (
        ("leave-one-out", {}, "no such split; there are leave-last-out, global-time, session, random"),
        ("leave-last-out", {"fraction": 0.1}, "fraction does not belong to leave-last-out, which takes k"),
        ("leave-last-out", {"k": 0}, "k must be at least 1"),
        ("global-time", {"fraction": 1.5}, "fraction must lie between 0 and 1"),
        ("global-time", {"fraction": 0.5, "at": "2020-01-01"}, "either fraction or at"),
        ("global-time", {"at": "soon"}, "'soon' is not a time"),
        ("global-time", {"at": "2020-01-01"}, "nothing to test on: the cut at 2020-01-01T00:00:00 leaves nothing after it"),
        ("global-time", {"at": 0}, "nothing to learn from"),
        ("session", {"gap_minutes": 0}, "gap_minutes must be positive"),
        ("session", {}, "no user has two sessions"),
        ("random", {"fraction": 1e-9}, "nothing to test on"),
    ):
        with pytest.raises(SplitError, match=message):
            split(log, how, **more)  # type: ignore[arg-type]
    with pytest.raises(SplitError, match="not in order of time"):
        split(log.where(np.array([1, 0])))
    with pytest.raises(SplitError, match="no events to split"):
        split(replace(log, events=log.events[:0]))
