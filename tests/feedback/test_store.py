"""The event store, in SQLite and in PostgreSQL: what goes in comes out, once, in order, and not at all after `forget`."""

from __future__ import annotations

import os
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event as hooks

from palate.errors import ConfigError, DataError, StoreError
from palate.feedback.events import KINDS, VALUES, Event, ShownItem, ShownSlate, micros
from palate.feedback.export import export, frame, log_of, slate_frame
from palate.feedback.store import Action, Appended, Count, Decision, EventStore, Forgotten, Person, Shown

START = datetime(2026, 11, 23, 8, tzinfo=UTC)
HOUR = 3_600_000_000


def event(id: str, kind: str = "click", item: str | None = "a", user: str = "u", at: float = 0, **more: Any) -> Event:
    """An event `at` seconds after eight o'clock."""
    if kind in VALUES and "value" not in more:
        more["value"] = 4.0
    return Event.parse({"id": id, "kind": kind, "user": user, "item": item, "time": START + timedelta(seconds=at), **more}, id)


def slate(recommendation: str, user: str | None = "u", at: float = 0, items: str = "ab", **more: Any) -> ShownSlate:
    shown = tuple(ShownItem(item=item, position=place, score=1.0 / (1 + place), propensity=0.5) for place, item in enumerate(items))
    time = START + timedelta(seconds=at)
    return ShownSlate.parse(
        {"recommendation": recommendation, "user": user, "time": time, "version": "v1", "items": shown, **more}, "slate"
    )


def all_events(store: EventStore) -> list[Event]:
    return store.events(limit=10**6)[0]


# -- keeping ----------------------------------------------------------------------------------------------------------------------


def test_what_goes_in_comes_out(store: EventStore) -> None:
    events = [
        event("1", "impression", position=3, placement="home", recommendation="r", context={"device": "phone", "age": 3, "new": None}),
        event("2", "play", value=95.5, at=0.000001),
        event("3", "hide", reason="seen at the cinema"),
        event("4", "search", item=None, query='heat "1995" \\ 火'),
        event("5", "survey", value=5, user="ü 火"),
    ]
    assert store.append(events) == Appended(5, 0, 0)
    assert all_events(store) == events


def test_an_event_counts_once_and_the_first_stands(store: EventStore) -> None:
    assert store.append([event("1", item="a"), event("2"), event("1", item="b")]) == Appended(2, 1, 0)
    assert store.append([event("3"), event("2", item="c"), event("1", item="c")]) == Appended(1, 2, 0)
    assert store.append([]) == Appended(0, 0, 0)
    assert [(one.id, one.item) for one in all_events(store)] == [("1", "a"), ("2", "a"), ("3", "a")]
    assert sum(count.events for count in store.counts()) == 3


def test_a_large_batch_with_a_few_known_ids(store: EventStore) -> None:
    store.append([event(str(number)) for number in range(0, 3000, 7)])
    known = len(range(0, 3000, 7))
    assert store.append([event(str(number)) for number in range(3000)]) == Appended(3000 - known, known, 0)
    assert len(all_events(store)) == 3000


def test_batches_in_one_transaction_are_told_apart_as_if_they_had_come_one_after_the_other(store: EventStore) -> None:
    store.forget("w")
    store.append([event("known")])
    batches = [
        [event("1"), event("2", user="w"), event("1")],
        [],
        [event("1", item="b"), event("3"), event("known")],
        [event("2", item="of v", user="v"), event("3", user="w")],
    ]
    told = store.append_all(batches, [slate("r1"), slate("r2", user="w"), slate("r1", items="c")])
    assert told == [Appended(1, 1, 1), Appended(0, 0, 0), Appended(1, 2, 0), Appended(1, 0, 1)]
    assert [(one.id, one.item) for one in all_events(store)] == [("known", "a"), ("1", "a"), ("3", "a"), ("2", "of v")]
    assert [one.recommendation for one in store.slates()[0]] == ["r1"]
    assert sum(count.events for count in store.counts()) == 4
    assert store.append_all([]) == []
    assert store.append_all([[], []]) == [Appended(0, 0, 0)] * 2
    assert store.append_all([], [slate("r3")]) == []
    assert store.slate("r3") is not None


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    names=st.lists(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvw")), max_size=5), max_size=5),
    gone=st.sampled_from("uvw"),
)
def test_one_transaction_or_many_is_the_same(tmp_path: Path, names: list[list[tuple[str, str]]], gone: str) -> None:
    for end in ("", "-wal", "-shm"):
        for kind in ("one", "many"):
            (tmp_path / f"{kind}{end}").unlink(missing_ok=True)
    batches = [[event(name, user=user, item=f"{place}") for name, user in batch] for place, batch in enumerate(names)]
    with EventStore.open(tmp_path / "one") as one, EventStore.open(tmp_path / "many") as many:
        one.forget(gone)
        many.forget(gone)
        assert one.append_all(batches) == [many.append(batch) for batch in batches]
        assert all_events(one) == all_events(many)


def test_a_batch_that_cannot_be_kept_takes_the_others_of_its_transaction_with_it(store: EventStore) -> None:
    bad = event("2").model_copy(update={"user": "\ud800"})  # no text that a database takes; `Event.parse` would have refused it
    with pytest.raises((StoreError, UnicodeEncodeError)):
        store.append_all([[event("1")], [bad]], [slate("r")])
    assert (all_events(store), store.slates()[0], store.counts()) == ([], [], [])


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(str.strip)
LOOSE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), LOOSE)


@st.composite
def any_event(draw: st.DrawFn) -> Event:
    kind = draw(st.sampled_from(KINDS))
    row: dict[str, Any] = {
        "kind": kind,
        "id": draw(TEXTS),
        "user": draw(TEXTS),
        "time": draw(st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC))),
        "recommendation": draw(st.none() | TEXTS),
        "placement": draw(st.none() | TEXTS),
        "context": draw(st.dictionaries(TEXTS, PLAIN, max_size=3)),
    }
    if kind == "search":
        row["query"] = draw(TEXTS)
    else:
        row |= {"item": draw(TEXTS), "position": draw(st.none() | st.integers(0, 9999))}
    if kind in VALUES:
        row["value"] = draw(st.floats(VALUES[kind].low, VALUES[kind].high)) if kind != "survey" else float(draw(st.integers(1, 5)))
    if kind == "hide":
        row["reason"] = draw(st.none() | LOOSE)
    return Event.parse(row, "event")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(batches=st.lists(st.lists(any_event(), max_size=6), max_size=4))
def test_any_events_come_back_as_they_were_in_the_order_they_came(store: EventStore, batches: list[list[Event]]) -> None:
    already = {one.id for one in all_events(store)}
    cursor, expected = store.cursor(), {}
    for batch in batches:
        expected.update({one.id: one for one in reversed(batch) if one.id not in already | set(expected)})
        store.append(batch)
    kept, behind = store.events(after=cursor)
    assert {one.id: one for one in kept} == expected
    assert len(kept) == len(expected)
    assert behind == store.cursor()
    for one in kept:
        assert store.of_user(one.user)[0].count(one) == 1


def test_slates_are_kept_once_and_found_by_their_id(store: EventStore) -> None:
    first = slate("r1", placement="home", experiment="x", arm="b", context={"device": "phone"})
    assert store.append_slates([first, slate("r2", user=None, at=7200), slate("r1", items="c")]) == Appended(2, 1, 0)
    assert store.append_slates([slate("r2")]) == Appended(0, 1, 0)
    assert store.slate("r1") == first
    assert store.slate("r3") is None
    page, cursor = store.slates(limit=1)
    assert page == [first]
    assert [one.recommendation for one in store.slates(cursor)[0]] == ["r2"]
    hour = micros(START)
    assert store.traffic() == [(hour, "v1", "x", "b", 1), (hour + 2 * HOUR, "v1", None, None, 1)]
    assert store.of_user("u")[1] == [first]


# -- one person -------------------------------------------------------------------------------------------------------------------


def test_a_history_by_hand(store: EventStore) -> None:
    store.append([event("1", at=30, item="c"), event("2", at=10, item="a"), event("3", "impression", at=40, item="d")])
    store.append([event("4", "play", at=20, item="b"), event("5", at=10, item="a2"), event("6", "hide", at=50, item="e")])
    store.append([event("7", at=99, user="v", item="z"), event("8", "search", item=None, at=60, query="q")])
    assert store.history("u") == ("a", "a2", "b", "c")  # by time; the tie at 10 by the order in which they were kept
    assert store.history("u", limit=2) == ("b", "c")
    assert store.history("u", before=micros(START) + 20_000_000) == ("a", "a2")
    assert store.history("u", kinds=["impression", "hide"]) == ("e",)  # impressions are no history, see `impressions`
    assert store.history("nobody") == ()


def test_seen_and_hidden(store: EventStore) -> None:
    kinds = ["click", "play", "purchase", "rating", "like", "impression", "survey", "hide"]
    store.append([event(kind, kind, item=kind) for kind in kinds])
    assert store.seen("u") == {"click", "play", "purchase", "rating", "like"}
    assert store.hidden("u") == {"hide"}
    store.append([event("later", "like", item="hide", at=5), event("earlier", "hide", item="like", at=-5)])
    assert store.hidden("u") == set()  # liked after it was hidden: taken back


def test_impressions_and_clicks_on_them(store: EventStore) -> None:
    store.append([event(f"i{at}", "impression", item="a", at=at) for at in (0, 10, 20)])
    store.append([event("c", item="a", at=21), event("i", "impression", item="b", at=30), event("d", item="other", at=31)])
    start = micros(START)
    assert store.impressions("u") == {"a": Shown(3, 1, start + 20_000_000), "b": Shown(1, 0, start + 30_000_000)}
    assert store.impressions("u", since=start + 20_000_000) == {"a": Shown(1, 1, start + 20_000_000), "b": Shown(1, 0, start + 30_000_000)}


def test_actions_behind_a_cursor(store: EventStore) -> None:
    store.append([event("1", "rating", item="c", at=30, value=4.5), event("2", "impression", item="d", at=40)])
    cursor = store.cursor()
    store.append(
        [event("3", "play", item="b", at=20, value=9.5), event("4", "hide", item="e", at=50), event("5", "search", item=None, query="q")]
    )
    store.append(
        [
            event("6", item="late", at=-10),
            event("7", item="tie", at=20),
            event("8", user="v"),
            event("9", "survey", item="b", at=60, value=2),
        ]
    )
    start = micros(START)
    kept = frame(store)
    seq = dict(zip(kept["id"], kept["seq"], strict=True))
    everything = [
        Action("late", "click", None, start - 10_000_000, seq["6"]),
        Action("b", "play", 9.5, start + 20_000_000, seq["3"]),
        Action("tie", "click", None, start + 20_000_000, seq["7"]),
        Action("c", "rating", 4.5, start + 30_000_000, seq["1"]),
        Action("e", "hide", None, start + 50_000_000, seq["4"]),
        Action("b", "survey", 2.0, start + 60_000_000, seq["9"]),
    ]
    assert store.actions("u") == everything
    assert store.actions("u", after=cursor) == [one for one in everything if one.item != "c"]
    assert store.actions("u", limit=2) == [everything[2], everything[5]]  # the last that were kept, whenever they happened
    assert store.actions("u", after=store.cursor()) == []
    assert store.actions("nobody") == []


def test_a_person_is_all_that_a_request_needs(store: EventStore) -> None:
    store.append([event("1", at=5, item="a"), event("2", "impression", at=4, item="a"), event("3", "impression", at=6, item="b")])
    cursor = store.cursor()
    store.append([event("4", "impression", at=10, item="a"), event("5", at=11, item="a"), event("6", "hide", at=12, item="b")])
    start = micros(START)
    for after in (0, cursor, store.cursor()):
        for since in (0, start + 5_500_000, start + 10_500_000, start + 60_000_000):
            found = store.person("u", after=after, impressions_since=since)
            assert found == Person(store.actions("u", after=after), store.impressions("u", since=since, after=after), False), (after, since)
    assert store.impressions("u", after=cursor) == {"a": Shown(1, 1, start + 10_000_000)}
    assert store.person("u") == Person(store.actions("u"), {}, False)
    assert store.person("u", limit=1).actions == store.actions("u", limit=1)
    assert store.person("nobody", impressions_since=0) == Person([], {}, False)
    store.forget("u")
    assert store.person("u", impressions_since=0) == Person([], {}, True)
    assert store.person("v") == Person([], {}, False)


def test_marks_say_who_was_forgotten_and_name_nobody(store: EventStore) -> None:
    none = store.marks()
    assert (none.of, store.marks(none) is none) == (frozenset(), True)
    store.forget("gone")
    one = store.marks(none)
    assert one.of == {store.mark("gone")}
    assert "gone" not in "".join(one.of)
    store.append([event("1")])
    store.forget("gone")  # again
    assert store.marks(one) is one
    store.readmit("gone")
    store.forget("other")
    assert store.marks(one).of == {store.mark("other")}
    store.readmit("other")
    assert store.marks(one).of == frozenset()


def test_those_who_were_forgotten_among_few_and_many(store: EventStore) -> None:
    assert store.forgotten_among(["u", "v"]) == set()
    gone = [f"gone{number}" for number in range(12)]
    for user in gone:
        store.forget(user)
    assert store.forgotten_among(["u", "gone3", "v", "gone3"]) == {"gone3"}
    assert store.forgotten_among(["u", *gone, *(f"u{number}" for number in range(1200))]) == set(gone)
    assert store.forgotten_among([]) == set()


def test_a_store_has_a_name_of_its_own(tmp_path: Path) -> None:
    with EventStore.open(tmp_path / "a.db") as one, EventStore.open(tmp_path / "b.db") as other:
        name = one.id
        assert name != other.id
    (tmp_path / "a.db").rename(tmp_path / "moved.db")
    with EventStore.open(tmp_path / "moved.db") as one:
        assert one.id == name
        assert len(name) == 16


def test_a_request_is_answered_from_an_index_alone(tmp_path: Path) -> None:
    with EventStore.open(tmp_path / "events.db") as store:
        store.append([event(str(n), "impression" if n % 9 else "click", item=f"i{n % 50}", user=f"u{n % 20}", at=n) for n in range(3000)])
        asked: list[tuple[str, Any]] = []
        hooks.listen(store._database.reader, "before_cursor_execute", lambda c, cursor, sql, values, *_: asked.append((sql, values)))
        store.history("u3")
        store.history("u3", before=2**60)
        store.seen("u3")
        store.hidden("u3")
        store.impressions("u3")
        store.actions("u3", after=2000)
        store.person("u3", after=2000, impressions_since=0)
        assert len(asked) == 8
        with store._database.reader.connect() as connection:
            plans = [
                " / ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)) for sql, values in list(asked)
            ]
    for plan in plans[:6]:
        assert "USING COVERING INDEX palate_actions (user=?" in plan or "USING COVERING INDEX palate_impressions (user=?" in plan, plan
    assert not any("TEMP B-TREE" in plan for plan in plans[:2]), "a history is not sorted, it is read in order"
    behind = "SEARCH palate_events USING INDEX palate_in_order_kept (user=? AND rowid>?)"
    assert plans[6] == behind, "what lies before the cursor is not read, and nothing is sorted"
    assert behind in plans[7]
    assert "USING COVERING INDEX palate_impressions (user=? AND time>?)" in plans[7]
    assert "sqlite_autoindex_palate_forgotten_1 (who=?)" in plans[7]
    assert not any(" SCAN palate_" in f" {plan}" for plan in plans)


# -- forgetting -------------------------------------------------------------------------------------------------------------------


def test_a_forgotten_person_is_gone_and_stays_gone(store: EventStore) -> None:
    store.append([event("1"), event("2", "hide", item="b"), event("3", "impression"), event("4", user="v")])
    store.append_slates([slate("r1"), slate("r2", user="v"), slate("r3", user=None)])
    assert store.forget("u") == Forgotten(3, 1)
    assert store.of_user("u") == ([], [])
    assert (store.history("u"), store.seen("u"), store.hidden("u"), store.impressions("u")) == ((), frozenset(), frozenset(), {})
    assert store.is_forgotten("u")
    assert not store.is_forgotten("v")
    # late events, whenever they happened, are dropped and counted; those of others are kept
    assert store.append([event("1"), event("5", at=10**6), event("6", user="v")]) == Appended(1, 0, 2)
    assert store.append_slates([slate("r1"), slate("r4", user="v"), slate("r5", user=None)]) == Appended(2, 0, 1)
    assert {one.user for one in all_events(store)} == {"v"}
    assert store.forget("u") == Forgotten(0, 0)
    assert store.forget("never here") == Forgotten(0, 0)
    store.compact()
    assert store.readmit("u")
    assert not store.readmit("u")
    assert store.append([event("7")]) == Appended(1, 0, 0)
    assert sum(count.events for count in store.counts()) == 6  # the counts name nobody and stay


def test_no_byte_of_a_forgotten_person_is_left_in_the_file(tmp_path: Path) -> None:
    with EventStore.open(tmp_path / "events.db") as store:
        secret = "margarete.zuckerkandl"
        for batch in range(6):
            store.append([event(f"{batch}.{n}", "impression" if n % 2 else "click", user=f"u{n % 7}", at=n) for n in range(200)])
            store.append([event(f"s{batch}.{n}", user=secret, at=n, placement="home") for n in range(20)])
            store.append_slates([slate(f"r{batch}", user=secret)])
        assert any(secret.encode() in path.read_bytes() for path in tmp_path.iterdir())
        store.forget(secret)
        store.compact()
        left = [path.name for path in tmp_path.iterdir() if secret.encode() in path.read_bytes()]
        assert left == []


# -- reading on -------------------------------------------------------------------------------------------------------------------


def test_a_cursor_never_goes_back_even_if_the_newest_is_forgotten(store: EventStore) -> None:
    store.append([event("1", user="v"), event("2")])
    _, cursor = store.events()
    store.forget("u")
    store.append([event("3", user="v")])
    later, behind = store.events(cursor)
    assert [one.id for one in later] == ["3"]
    assert behind > cursor
    assert store.events(behind) == ([], behind)


def test_a_reader_that_follows_the_cursor_misses_nothing_of_many_writers(store: EventStore) -> None:
    def write(writer: int) -> None:
        for batch in range(8):
            store.append([event(f"{writer}.{batch}.{n}", user=f"u{writer}") for n in range(5)])

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in writers:
        thread.start()
    found: list[str] = []
    cursor = 0
    while any(thread.is_alive() for thread in writers) or store.cursor() > cursor:
        page, cursor = store.events(cursor, limit=7)
        found += [one.id for one in page]
    for thread in writers:
        thread.join()
    assert sorted(found) == sorted(f"{writer}.{batch}.{n}" for writer in range(4) for batch in range(8) for n in range(5))


def test_counts_by_hour_kind_placement_and_position(store: EventStore) -> None:
    store.append([event("1", position=2, placement="home"), event("2", position=2, placement="home", at=3599), event("3")])
    store.append([event("4", position=2, placement="home", at=3600), event("1", position=2, placement="home")])
    hour = micros(START)
    assert store.counts() == [
        Count(hour, "click", "", -1, 1),
        Count(hour, "click", "home", 2, 2),
        Count(hour + HOUR, "click", "home", 2, 1),
    ]
    assert store.counts(since=hour + HOUR) == [Count(hour + HOUR, "click", "home", 2, 1)]
    assert len(store.counts(until=hour + HOUR)) == 2


def test_decisions_are_written_down(store: EventStore) -> None:
    first = Decision(START, "promote", "v2", "v1", "better by 0.01 ± 0.004", {"ndcg@10": 0.31})
    second = Decision(START + timedelta(hours=1), "roll back", "v1", None, "p99 too high", {})
    store.decide(first)
    store.decide(second)
    assert store.decisions() == [second, first]
    assert store.decisions(limit=1) == [second]


# -- learning ---------------------------------------------------------------------------------------------------------------------


def test_a_log_of_the_store(store: EventStore) -> None:
    store.append([event("1", "rating", value=4.5, at=20, context={"device": "tv"}), event("2", item="b", at=10, user="v")])
    store.append([event("3", "search", item=None, query="q"), event("4", "hide", item="c", at=30, context={"device": "phone"})])
    log = log_of(store, context=["device"], items=pl.DataFrame({"item": ["a", "b", "c", "new"], "title": ["A", "B", "C", "N"]}))
    assert log.events["item"].to_list() == ["b", "a", "c"]
    assert log.events["value"].to_list() == [None, 4.5, None]
    assert log.events["device"].to_list() == [None, "tv", "phone"]
    assert log.items["item"].to_list() == ["a", "b", "c", "new"]
    assert (log.positive, log.negative) == (("click", "rating"), ("hide",))
    assert log.times.tolist() == [micros(START) + at * 10**6 for at in (10, 20, 30)]
    cursor = store.cursor()
    with pytest.raises(DataError, match=rf"no events about items after cursor {cursor}; send some"):
        log_of(store, after=cursor)
    with pytest.raises(DataError, match="'user' is a name of the log's own"):
        log_of(store, context=["user"])


def test_a_frame_and_a_parquet_file(store: EventStore, tmp_path: Path) -> None:
    store.append([event(str(n), "play", value=n / 3, at=n, position=n, context={"n": n}) for n in range(10)])
    whole = frame(store)
    assert whole["id"].to_list() == [str(n) for n in range(10)]
    assert whole["time"].to_list() == [START + timedelta(seconds=n) for n in range(10)]
    middle = frame(store, after=whole["seq"][2], until=whole["seq"][5])
    assert middle["id"].to_list() == ["3", "4", "5"]
    assert frame(store, after=store.cursor()).schema == whole.schema
    target = tmp_path / "events.parquet"
    assert export(store, target) == (10, store.cursor())
    assert pl.read_parquet(target).equals(whole)
    assert export(store, target, after=store.cursor()) == (0, store.cursor())
    with pytest.raises(DataError, match="cannot be written"):
        export(store, tmp_path / "nowhere" / "events.parquet")


def test_a_frame_of_what_was_shown(store: EventStore) -> None:
    assert slate_frame(store).height == 0
    store.append_slates([slate("r1", items="xyz"), slate("r2", user=None, items="x")])
    shown = slate_frame(store)
    assert shown["item"].to_list() == ["x", "y", "z", "x"]
    assert shown["position"].to_list() == [0, 1, 2, 0]
    assert shown["user"].to_list() == ["u", "u", "u", None]
    assert shown["propensity"].to_list() == [0.5] * 4
    assert slate_frame(store, after=int(shown["seq"][0]))["recommendation"].to_list() == ["r2"]


# -- opening ----------------------------------------------------------------------------------------------------------------------


def test_what_was_kept_is_there_when_the_store_is_opened_again(url: str) -> None:
    with EventStore.open(url) as store:
        store.append([event("1")])
        store.forget("v")
    with EventStore.open(url, create=False) as store:
        assert store.history("u") == ("a",)
        assert store.is_forgotten("v")


@pytest.mark.parametrize("url", ["mysql://a:secret@h/d", "sqlite://", "sqlite:///:memory:", "oracle://a:secret@h/d", "no url://a:secret"])
def test_urls_that_are_no_store(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^store: ") as error:
        EventStore.open(url)
    assert "secret" not in str(error.value)


def test_a_server_that_is_not_there_and_its_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match=r"^postgresql\+psycopg://a:\*\*\*@/d\S*: the server cannot be reached") as error:
        EventStore.open("postgresql://a:secret@/d?host=/nowhere", timeout=2)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.passing


def test_files_that_are_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="its folder does not exist"):
        EventStore.open(tmp_path / "nowhere" / "events.db")
    with pytest.raises(StoreError, match="is a folder"):
        EventStore.open(tmp_path)
    with pytest.raises(StoreError, match="there is no such store"):
        EventStore.open(tmp_path / "events.db", create=False)
    assert not (tmp_path / "events.db").exists()
    (tmp_path / "text.db").write_text("not a database, and long enough to be looked at as one" * 20)
    with pytest.raises(StoreError, match="is damaged or no store") as error:
        EventStore.open(tmp_path / "text.db")
    assert not error.value.passing


def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with EventStore.open(tmp_path / "events.db") as store:
            store.append([event("1")])
            assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
            assert len(list(tmp_path.iterdir())) == 3
    finally:
        os.umask(before)
