"""The writer over real stores: what waits together is kept together, in order; what fails fails alone; nothing acknowledged is missing."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import event as hooks

from palate.errors import StoreError
from palate.feedback.events import Event, ShownItem, ShownSlate
from palate.feedback.store import Appended, EventStore
from palate.serve.writer import MOST_EVENTS, MOST_SLATES, Overloaded, Writer

TIME = datetime(2026, 11, 23, 8, tzinfo=UTC)
LONG = 240.0  # seconds within which a busy machine does anything


def events(*names: str, user: str = "u") -> list[Event]:
    return [Event(id=name, kind="click", user=user, item="i", time=TIME) for name in names]


def slate(name: str, user: str | None = "u") -> ShownSlate:
    items = (ShownItem(item="i", position=0, score=1.0), ShownItem(item="j", position=1, score=0.5))
    return ShownSlate(recommendation=name, user=user, time=TIME, version="v", items=items)


def poisoned(name: str) -> list[Event]:
    """No database takes this text; `Event.parse` would have refused it."""
    return [one.model_copy(update={"item": "\ud800"}) for one in events(name)]


def poisoned_slate(name: str) -> ShownSlate:
    return slate(name).model_copy(update={"version": "\ud800"})


def kept(store: EventStore) -> list[str]:
    return [one.id for one in store.events(limit=10**6)[0]]


def shown(store: EventStore) -> list[str]:
    return [one.recommendation for one in store.slates(limit=10**6)[0]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def store(path: Path) -> Iterator[EventStore]:
    with EventStore.open(path, timeout=LONG) as opened:
        yield opened


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process's turn to write, as far as SQLite can tell."""
    other = sqlite3.connect(path, isolation_level=None, timeout=LONG)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@contextmanager
def transactions(store: EventStore) -> Iterator[list[int]]:
    """Counts them."""
    begun: list[int] = []

    def count(_: object) -> None:
        begun.append(1)

    hooks.listen(store._database.writer, "begin", count)
    yield begun
    hooks.remove(store._database.writer, "begin", count)


def until_taken(writer: Writer) -> None:
    """Until the thread has what it was given in its hands."""
    limit = time.monotonic() + LONG
    while writer._batches and time.monotonic() < limit:
        time.sleep(0.001)
    assert not writer._batches


# -- what is acknowledged ---------------------------------------------------------------------------------------------------------


def test_events_are_on_the_disk_when_the_future_has_its_result(store: EventStore, path: Path) -> None:
    with Writer(store) as writer:
        assert writer.events(events("1", "2")).result(LONG) == Appended(2, 0, 0)
        with EventStore.open(path) as other:
            assert kept(other) == ["1", "2"]
        assert writer.events(events("2", "3")).result(LONG) == Appended(1, 1, 0)
        assert writer.events([]).result(LONG) == Appended(0, 0, 0)
        store.forget("gone")
        assert writer.events(events("4", user="gone")).result(LONG) == Appended(0, 0, 1)
        assert writer.trouble is None
        assert writer.alive
    assert not writer.alive


def test_many_senders_of_single_events_share_transactions_and_each_is_told_its_own(store: EventStore, path: Path) -> None:
    told: dict[str, Appended] = {}

    def send(sender: int) -> None:
        for number in range(20):
            name = f"{sender % 4}.{number}"  # each id comes from two senders
            told[f"{sender}.{number}"] = writer.events(events(name)).result(LONG)

    with transactions(store) as begun, Writer(store) as writer:
        threads = [threading.Thread(target=send, args=(sender,)) for sender in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(kept(store)) == sorted(f"{sender}.{number}" for sender in range(4) for number in range(20))
    assert sum(one.new for one in told.values()) == 80
    assert sum(one.repeated for one in told.values()) == 80
    assert all(one.new + one.repeated == 1 for one in told.values())
    assert len(begun) < 160


def test_what_waited_while_the_store_was_busy_is_kept_in_one_transaction_in_the_order_given(store: EventStore, path: Path) -> None:
    with Writer(store) as writer, transactions(store) as begun:
        with locked(path):
            first = writer.events(events("first"))
            until_taken(writer)
            rest = [writer.events(events(f"{number}")) for number in range(100)]
            assert writer.slate(slate("r"))
        assert not wait([first, *rest], LONG).not_done
        assert len(begun) == 2
    with EventStore.open(path) as again:
        assert kept(again) == ["first", *(f"{number}" for number in range(100))]
        assert shown(again) == ["r"]


def test_a_transaction_is_bounded_but_a_batch_stays_whole(store: EventStore, path: Path) -> None:
    size = MOST_EVENTS // 2 + 1
    with Writer(store, waiting=10 * MOST_EVENTS) as writer, transactions(store) as begun:
        with locked(path):
            futures = [writer.events(events("first"))]
            until_taken(writer)
            for number, length in enumerate((size, size, MOST_EVENTS + 7)):
                futures.append(writer.events(events(*(f"{number}.{place}" for place in range(length)))))
        assert [future.result(LONG).new for future in futures] == [1, size, size, MOST_EVENTS + 7]
        assert len(begun) == 4


def test_a_slate_waits_for_company_and_for_nobody_else(store: EventStore) -> None:
    with Writer(store) as writer, transactions(store) as begun:
        for number in range(50):
            assert writer.slate(slate(f"r{number}"))
        limit = time.monotonic() + LONG
        while len(shown(store)) < 50 and time.monotonic() < limit:
            time.sleep(0.005)
        assert shown(store) == [f"r{number}" for number in range(50)]
        assert len(begun) <= 3
        assert writer.waiting == (0, 0)


def test_a_slate_is_kept_no_later_than_the_events_given_after_it(store: EventStore) -> None:
    with Writer(store) as writer:
        for number in range(20):
            writer.slate(slate(f"r{number}"))
            writer.events(events(f"{number}")).result(LONG)
            assert shown(store)[-1] == f"r{number}"


def test_from_asyncio_and_a_caller_that_has_gone(store: EventStore, path: Path) -> None:
    async def main() -> Appended:
        with locked(path):
            first = writer.events(events("first"))
            until_taken(writer)
            gone = asyncio.wrap_future(writer.events(events("gone")))
            stays = asyncio.wrap_future(writer.events(events("stays")))
            too_late = asyncio.wrap_future(first)
            await asyncio.sleep(0)
            gone.cancel()
            too_late.cancel()
            await asyncio.sleep(0.01)
        return await stays

    with Writer(store) as writer:
        assert asyncio.run(main()) == Appended(1, 0, 0)
        assert writer.flush(LONG)
        assert kept(store) == ["first", "stays"]  # the first was being written already
        assert writer.waiting == (0, 0)


# -- bounds -----------------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_at_once(store: EventStore, path: Path) -> None:
    """At once: while nothing can be kept, since the file is locked."""
    with Writer(store, waiting=10) as writer:
        with locked(path):
            first = writer.events(events("first"))
            until_taken(writer)
            second = writer.events(events(*(f"{number}" for number in range(9))))
            with pytest.raises(Overloaded, match=r"^events: 10 wait to be kept, and there is room for 10; send them again later$") as error:
                writer.events(events("too many"))
            assert 1 <= error.value.seconds <= 60
            assert writer.slate(slate("r1"))
            assert not writer.slate(slate("r2"))
            assert writer.waiting == (10, 1)
            assert not writer.flush(0.01)
        assert (first.result(LONG).new, second.result(LONG).new) == (1, 9)
        assert writer.flush(LONG)
        assert writer.dropped == 1
        # a batch that is larger than all the room is taken where nothing waits
        assert writer.events(events(*(f"large {number}" for number in range(30)))).result(LONG).new == 30
    assert shown(store) == ["r1"]


# -- failures ---------------------------------------------------------------------------------------------------------------------


def test_a_poisoned_batch_fails_alone(store: EventStore, path: Path) -> None:
    with Writer(store) as writer:
        with locked(path):
            writer.events(events("first"))
            until_taken(writer)
            good = writer.events(events("1", "2"))
            bad = writer.events([*events("3"), *poisoned("4")])
            after = writer.events(events("2", "5"))
            writer.slate(slate("r"))
        assert good.result(LONG) == Appended(2, 0, 0)
        assert after.result(LONG) == Appended(1, 1, 0)
        assert isinstance(bad.exception(LONG), (StoreError, UnicodeEncodeError))
        assert writer.flush(LONG)
        assert writer.trouble is None
        assert writer.events(events("6")).result(LONG).new == 1
    assert kept(store) == ["first", "1", "2", "5", "6"]
    assert shown(store) == ["r"]


def test_a_poisoned_slate_is_dropped_once_others_show_that_the_store_is_well(store: EventStore, path: Path) -> None:
    with Writer(store) as writer:
        with locked(path):
            writer.events(events("first"))
            until_taken(writer)
            for one in (slate("r1"), poisoned_slate("r2"), slate("r3")):
                writer.slate(one)
            good = writer.events(events("1"))
        assert good.result(LONG).new == 1
        assert writer.flush(LONG)
        assert writer.dropped == 1
        # alone it might be the store that is to blame, so it is tried until something else is kept
        writer.slate(poisoned_slate("r4"))
        assert not writer.flush(0.3)
        assert writer.trouble
        writer.slate(slate("r5"))
        assert writer.flush(LONG)
        assert writer.dropped == 2
    assert shown(store) == ["r1", "r3", "r5"]


def test_a_store_that_is_locked_too_long_and_then_let_go(path: Path) -> None:
    with EventStore.open(path, timeout=0.2) as store, Writer(store, waiting=100) as writer:
        with locked(path):
            assert writer.slate(slate("r1"))
            failed = [writer.events(events(f"{number}")) for number in range(20)]
            for future in failed:
                error = future.exception(LONG)
                assert isinstance(error, StoreError)
                assert error.passing
                assert "locked by somebody else" in str(error)
            assert "locked by somebody else" in (writer.trouble or "")
            assert writer.slate(slate("r2"))
            assert not writer.flush(0.3)
            assert kept(store) == []
        assert [writer.events(events(f"{number}")).result(LONG).new for number in range(20)] == [1] * 20
        assert writer.flush(LONG)
        assert writer.trouble is None
        assert writer.dropped == 0
        assert shown(store) == ["r1", "r2"]


def test_a_store_that_is_full_takes_what_is_small(store: EventStore, path: Path) -> None:
    wide = [one.model_copy(update={"reason": None, "item": "i" * 250}) for one in events(*(f"wide {number}" for number in range(1500)))]
    with Writer(store) as writer:
        assert writer.events(events("first")).result(LONG).new == 1
        with store._database.writer.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 5}")
        with locked(path):
            writer.events(events("second"))
            until_taken(writer)
            small, large, after = writer.events(events("small")), writer.events(wide), writer.events(events("after"))
        assert (small.result(LONG).new, after.result(LONG).new) == (1, 1)
        error = large.exception(LONG)
        assert isinstance(error, StoreError)
        assert "the store is full" in str(error)
        with store._database.writer.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        assert writer.events(wide).result(LONG).new == 1500


def test_a_store_that_goes_away_and_comes_back(path: Path) -> None:
    (path.parent / "here").mkdir()
    with EventStore.open(path.parent / "here" / "events.db", timeout=1) as store, Writer(store) as writer:
        assert writer.events(events("1")).result(LONG).new == 1
        (path.parent / "here").rename(path.parent / "away")
        writer.slate(slate("r"))
        error = writer.events(events("2")).exception(LONG)
        assert isinstance(error, StoreError)
        assert error.passing
        (path.parent / "away").rename(path.parent / "here")
        assert writer.events(events("2")).result(LONG).new == 1
        assert writer.flush(LONG)
        assert (kept(store), shown(store)) == (["1", "2"], ["r"])


# -- the end ----------------------------------------------------------------------------------------------------------------------


def test_closing_keeps_what_waits_and_takes_nothing_more(store: EventStore, path: Path) -> None:
    writer = Writer(store)
    with locked(path):
        futures = [writer.events(events(f"{number}")) for number in range(50)]
        for number in range(3 * MOST_SLATES):
            writer.slate(slate(f"r{number}"))
        closing = threading.Thread(target=writer.close)
        closing.start()
        while writer._stopped is None:
            time.sleep(0.001)
        with pytest.raises(StoreError, match=r"events\.db: the writer is closed; the service is stopping$") as error:
            writer.events(events("late"))
        assert error.value.passing
        assert not writer.slate(slate("late"))
    closing.join()
    assert [future.result(0).new for future in futures] == [1] * 50
    assert len(shown(store)) == 3 * MOST_SLATES
    assert writer.dropped == 1
    assert writer.close()  # twice is once
    assert writer.flush(0)


def test_closing_while_the_store_fails_answers_everybody_and_counts_what_is_lost(path: Path) -> None:
    with EventStore.open(path, timeout=0.1) as store:
        writer = Writer(store)
        with locked(path):
            futures = [writer.events(events(f"{number}")) for number in range(5)]
            writer.slate(slate("r"))
            assert writer.close(LONG)
        assert all(isinstance(future.exception(0), StoreError) for future in futures)
        assert writer.dropped == 1
        assert writer.waiting == (0, 0)


def test_closing_does_not_wait_for_ever(store: EventStore, path: Path) -> None:
    writer = Writer(store)
    with locked(path):
        future = writer.events(events("1"))
        assert not writer.close(0.05)
        assert not future.done()
    assert future.result(LONG).new == 1
    assert writer.close(LONG)


class Ending(EventStore):
    """A store in which the thread ends, as by a defect that nobody foresaw."""

    def append_all(self, batches: object, slates: object = ()) -> list[Appended]:
        raise SystemExit


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_thread_that_has_ended(path: Path) -> None:
    with Ending.open(path) as store:
        writer = Writer(store)
        first = writer.events(events("1"))
        assert "the writer has ended; start the service again" in str(first.exception(LONG))
        writer._thread.join(LONG)
        assert not writer.alive
        with pytest.raises(StoreError, match="the writer has ended"):
            writer.events(events("2"))
        assert not writer.slate(slate("r"))
        assert writer.flush(LONG)
        assert writer.close()


def test_under_fire_everything_acknowledged_is_there_once(path: Path) -> None:
    """Senders, slates, locks and a forgotten person at once; what was refused or failed is sent again, as a client would."""
    with EventStore.open(path, timeout=0.05) as store, Writer(store, waiting=200) as writer:
        acknowledged: list[str] = []
        ends = threading.Event()

        def send(sender: int) -> None:
            for number in itertools.count():
                if ends.is_set():
                    return
                names = [f"{sender}.{number}.{place}" for place in range(sender + 1)]
                while True:
                    try:
                        writer.events(events(*names, user=f"u{sender}")).result(LONG)
                        break
                    except (Overloaded, StoreError):
                        time.sleep(0.005)
                acknowledged.extend(names)
                writer.slate(slate(names[0], f"u{sender}"))

        threads = [threading.Thread(target=send, args=(sender,)) for sender in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(6):
            time.sleep(0.05)
            with locked(path):
                time.sleep(0.08)
        ends.set()
        for thread in threads:
            thread.join()
        assert writer.flush(LONG)
        found = kept(store)
        assert len(found) == len(set(found))
        assert set(found) == set(acknowledged)
        assert len(shown(store)) + writer.dropped == len([name for name in acknowledged if name.endswith(".0")])
