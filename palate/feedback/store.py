"""The event store: what people did and what they were shown, durable before it is acknowledged.

    store = EventStore.open("events.db")                  # or "postgresql://user:password@host/name"
    store.append(parse_events(body, now=now))             # Appended(new=3, repeated=0, forgotten=0)
    store.history("42")                                   # ("heat", "alien"), for Request.history

Rules
    An event is known by its id, a slate by its recommendation id; the first to come stands, the rest are counted as repeated.
    `append` keeps all of its events or none, and returns when they have reached the disk. Sending again after an error is always safe.
    `forget` removes everything of a person and leaves a keyed hash of the id. Whatever comes of that person later, whenever it happened,
    is dropped and counted, until `readmit`.
    Cursors are numbers that rise in the order of commits: what is read after a cursor is all that was committed since, and never less.

Threads may share a store; a process makes its own after a fork.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from sqlalchemy import Connection, Engine, Executable, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from palate.errors import StoreError
from palate.feedback import migrations as tables
from palate.feedback import questions
from palate.feedback.connect import Database, Replaced
from palate.feedback.events import WANTED, Event, ShownSlate, micros, moment
from palate.feedback.migrations import HOUR
from palate.feedback.rows import EVENT_COLUMNS, event_of, event_row, insert_new, known, slate_of, slate_row

T = TypeVar("T")
EVENT, SLATE = tables.events.c, tables.slates.c
NO_PLACEMENT, NO_POSITION = "", -1  # in the counts, whose key holds no NULL


class Appended(NamedTuple):
    """What became of what was sent: kept now, known already, dropped because the person was forgotten."""

    new: int
    repeated: int
    forgotten: int


class Marks(NamedTuple):
    """What the store keeps of those who were forgotten. of: keyed hashes of their ids, see `EventStore.mark`. state: how many, and when the
    newest was made (microseconds), by which a change is known.
    """

    of: frozenset[str]
    state: tuple[int, int]


class Shown(NamedTuple):
    """How often an item was on a person's screen, how often it was clicked there, and when it last was (microseconds)."""

    impressions: int
    clicks: int
    last: int


class Action(NamedTuple):
    """One thing a person did with an item. time: microseconds. seq: the event's cursor."""

    item: str
    kind: str
    value: float | None
    time: int
    seq: int


class Person(NamedTuple):
    """What a request needs of a person. actions: oldest first. impressions: by item."""

    actions: list[Action]
    impressions: dict[str, Shown]
    forgotten: bool


class Forgotten(NamedTuple):
    """How much was removed."""

    events: int
    slates: int


class Count(NamedTuple):
    """So many events of a kind in the hour that begins at `hour` (microseconds). placement "", position -1: the event named none."""

    hour: int
    kind: str
    placement: str
    position: int
    events: int


class Decision(NamedTuple):
    """Why a bundle was put into service, kept out or taken back.

    action: such as "promote", "refuse", "roll back". version: the bundle in question; against: the one in service. measures: by name.
    """

    time: datetime
    action: str
    version: str
    against: str | None
    reason: str
    measures: Mapping[str, float]


class EventStore:
    """See the top of the file. Every method raises StoreError of one line; its `passing` says whether trying again may help."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert: Any = sqlite.insert if database.path else postgresql.insert

    @classmethod
    def open(cls, url: str | Path, *, timeout: float = 5.0, create: bool = True) -> Self:
        """Opens a store, makes it if it is new, and brings it up to date if an older Palate wrote it.

        url: a path, `sqlite:///events.db` or `postgresql://user:password@host/name`. timeout: seconds to wait for a lock or a connection.
        Raises StoreError if it cannot be reached or was written by a newer Palate.
        """
        store = cls(Database(url, timeout, create))
        try:
            store._write(lambda connection: tables.migrate(connection, store.where))
            salt = store._read(lambda connection: connection.scalar(select(tables.meta.c.value).where(tables.meta.c.key == "salt")))
        except BaseException:
            store.close()
            raise
        if not isinstance(salt, str):
            raise StoreError(f"{store.where}: its key for forgotten people is missing; restore it from a copy")
        store._salt = bytes.fromhex(salt)
        return store

    _salt: bytes

    @property
    def id(self) -> str:
        """The name of this store, the same wherever it is moved, and no other's: a bundle that learnt from it says so."""
        return hashlib.blake2b(b"the store's name", key=self._salt, digest_size=8).hexdigest()

    @property
    def where(self) -> str:
        """The path or the URL, without the password."""
        return self._database.where

    def close(self) -> None:
        """Gives all connections back; the store opens them again if it is used."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- writing ----------------------------------------------------------------------------------------------------------------

    def append(self, events: Iterable[Event]) -> Appended:
        """Keeps the events that are new: all or none, on the disk when it returns.

        Cost on SQLite: about 2 ms for the disk and 80 microseconds an event; so send batches.
        """
        return self.append_all([events])[0]

    def append_all(self, batches: Iterable[Iterable[Event]], slates: Iterable[ShownSlate] = ()) -> list[Appended]:
        """Keeps several batches in one transaction, all or none, and says of each what `append` would have said, one after the other.

        slates: kept in the same transaction, before the events that may answer them.
        """
        given = [list(batch) for batch in batches]
        shown = _by_id(slates)
        if not shown and not any(given):
            return [Appended(0, 0, 0) for _ in given]

        def work(connection: Connection) -> list[Appended]:
            self._keep_slates(connection, shown)
            forgotten = self._forgotten_among(connection, {event.user for batch in given for event in batch})
            rows: dict[str, dict[str, Any]] = {}
            first: dict[str, int] = {}  # the batch that an event came with
            dropped = [0] * len(given)
            for place, batch in enumerate(given):
                for event in batch:
                    if event.user in forgotten:
                        dropped[place] += 1
                    elif event.id not in rows:  # of two with one id the first stands
                        rows[event.id], first[event.id] = event_row(event), place
            kept = insert_new(connection, tables.events, EVENT.id, list(rows.values()))
            self._count(connection, kept)
            new = Counter(first[row["id"]] for row in kept)
            return [Appended(new[place], len(batch) - new[place] - dropped[place], dropped[place]) for place, batch in enumerate(given)]

        return self._write(work)

    def append_slates(self, slates: Iterable[ShownSlate]) -> Appended:
        """Keeps what was shown, by the same rules as `append`."""
        given = list(slates)
        if not given:
            return Appended(0, 0, 0)
        new, dropped = self._write(lambda connection: self._keep_slates(connection, _by_id(given)))
        forgotten = sum(slate.user in dropped for slate in given) if dropped else 0
        return Appended(new, len(given) - new - forgotten, forgotten)

    def forget(self, user: str) -> Forgotten:
        """Removes all events and slates of a person, for good, and drops whatever comes of them later.

        What stays is a keyed hash of the id, so that later events are known, and the counts, which name nobody. No question finds the rows
        any more. SQLite overwrites them and empties its log, but copies may stay in unused parts of pages that were split before;
        `compact` leaves nothing.
        """

        def work(connection: Connection) -> Forgotten:
            mark = self._insert(tables.forgotten).values(who=self.mark(user), time=time.time_ns() // 1000)
            connection.execute(mark.on_conflict_do_nothing())
            gone = (connection.execute(delete(table).where(table.c.user == user)).rowcount for table in (tables.events, tables.slates))
            return Forgotten(*gone)

        removed = self._write(work)
        self._database.empty_log()
        return removed

    def readmit(self, user: str) -> bool:
        """Lets a forgotten person begin anew. False if they were not forgotten."""
        table = tables.forgotten
        return self._write(lambda connection: connection.execute(delete(table).where(table.c.who == self.mark(user))).rowcount) > 0

    def compact(self) -> None:
        """Rewrites the store so that no byte of what was deleted is left in it. Writers wait: about 5 s a GB. For quiet hours."""
        self._database.compact([table.name for table in (tables.events, tables.slates)])

    def decide(self, decision: Decision) -> None:
        """Writes a decision down."""
        row = {**decision._asdict(), "time": micros(decision.time), "measures": json.dumps(dict(decision.measures), allow_nan=False)}
        statement = self._insert(tables.decisions).values(id=uuid.uuid4().hex, **row).on_conflict_do_nothing()
        self._write(lambda connection: connection.execute(statement).close())

    # -- one person: what a request asks, answered from an index ------------------------------------------------------------------

    def history(self, user: str, *, limit: int = 200, kinds: Sequence[str] = WANTED, before: int | None = None) -> tuple[str, ...]:
        """The items of the person's last `limit` events of these kinds, oldest first, for `Request.history`.

        before: microseconds; only events earlier than that. An item is named as often as there were events of it, as in a log.
        """
        question = questions.HISTORY if before is None else questions.HISTORY_BEFORE
        values = {"user": user, "kinds": list(kinds), "limit": limit, **({} if before is None else {"before": before})}
        return tuple(row[0] for row in reversed(self._all(question, values)))

    def seen(self, user: str) -> frozenset[str]:
        """Every item that the person ever clicked, played, bought, rated or liked."""
        return frozenset(row[0] for row in self._all(questions.SEEN, {"user": user, "kinds": list(WANTED)}))

    def hidden(self, user: str) -> frozenset[str]:
        """The items that the person hid and did not like later: never to be shown again."""
        latest: dict[str, str] = {row[0]: row[1] for row in self._all(questions.HIDDEN, {"user": user})}
        return frozenset(item for item, kind in latest.items() if kind == "hide")

    def impressions(self, user: str, *, since: int = 0, after: int = 0) -> dict[str, Shown]:
        """For each item that was on the person's screen since then, behind cursor `after`: how often, how often clicked, and when last."""
        values = {"user": user, "since": since, "after": after}
        clicks: dict[str, int] = {row[0]: row[1] for row in self._all(questions.CLICKS, values)}
        found = self._all(questions.IMPRESSIONS, values)
        return {item: Shown(times, clicks.get(item, 0), last) for item, times, last in found}

    def actions(self, user: str, *, after: int = 0, limit: int = 5000) -> list[Action]:
        """What the person did behind cursor `after` (but for impressions and searches), oldest first; at most the last `limit` kept.

        Cost: 60 microseconds and 1 to 2 an action, however much lies before the cursor.
        """
        rows = self._all(questions.ACTIONS, {"user": user, "after": after, "limit": limit})
        return sorted((Action(*row) for row in rows), key=_by_time)

    def person(self, user: str, *, after: int = 0, impressions_since: int | None = None, limit: int = 5000) -> Person:
        """All that a request needs of a person, in one question: `actions`, `impressions` since then (None: none), whether forgotten.

        Cost: some 90 microseconds of a person with few events behind the cursor; the three asked for one by one cost 350.
        """
        values = {"user": user, "after": after, "limit": limit, "who": self.mark(user)}
        if impressions_since is None:
            rows = self._all(questions.PERSON, values)
        else:
            rows = self._all(questions.PERSON_AND_IMPRESSIONS, {**values, "since": impressions_since})
        actions: list[Action] = []
        shown: list[tuple[str, int, int]] = []
        forgotten = False
        for part, item, kind, value, at, number in rows:
            if part == questions.AN_ACTION:
                actions.append(Action(item, kind, value, at, number))
            elif part == questions.AN_IMPRESSION:
                shown.append((item, number, at))
            else:
                forgotten = True
        actions.sort(key=_by_time)
        impressions: dict[str, Shown] = {}
        if shown and impressions_since is not None:
            clicks = Counter(one.item for one in actions if one.kind == "click" and one.time >= impressions_since)
            impressions = {item: Shown(times, clicks[item], last) for item, times, last in shown}
        return Person(actions, impressions, forgotten)

    def of_user(self, user: str, limit: int = 1000) -> tuple[list[Event], list[ShownSlate]]:
        """The person's last events and slates, oldest first: what the store knows."""
        events = select(*EVENT_COLUMNS).where(EVENT.user == user).order_by(EVENT.time.desc(), EVENT.seq.desc()).limit(limit)
        slates = select(tables.slates).where(SLATE.user == user).order_by(SLATE.time.desc(), SLATE.seq.desc()).limit(limit)
        kept = [event_of(row) for row in reversed(self._all(events))]
        return kept, [slate_of(row) for row in reversed(self._all(slates))]

    def is_forgotten(self, user: str) -> bool:
        """Whether the person was forgotten."""
        return bool(self._read(lambda connection: self._forgotten_among(connection, {user})))

    def mark(self, user: str) -> str:
        """What stands for a person who was forgotten; made without asking the store."""
        return hashlib.blake2b(user.encode(), key=self._salt, digest_size=32).hexdigest()

    def marks(self, before: Marks | None = None) -> Marks:
        """Of all who were forgotten, for the time when the store cannot be asked. before: is returned if nothing has changed since.

        Cost: counting the marks; where they have changed, reading all, some 150 bytes each.
        """
        who, when = tables.forgotten.c

        def ask(connection: Connection) -> Marks:
            count, newest = connection.execute(select(func.count(), func.max(when))).one()
            state = (count, newest or 0)
            return before if before is not None and before.state == state else Marks(frozenset(connection.scalars(select(who))), state)

        return self._read(ask)

    def forgotten_among(self, users: Iterable[str]) -> set[str]:
        """Those of the people who were forgotten. Cost: 2 microseconds each, and reading all marks where there are fewer of those."""
        wanted = set(users)
        table = tables.forgotten

        def ask(connection: Connection) -> set[str]:
            if (connection.scalar(select(func.count()).select_from(table)) or 0) > len(wanted):
                return self._forgotten_among(connection, wanted)
            marks = set(connection.scalars(select(table.c.who)))
            return {user for user in wanted if self.mark(user) in marks} if marks else set()

        return self._read(ask)

    # -- everything: for learning and for the dashboard ---------------------------------------------------------------------------

    def events(self, after: int = 0, limit: int = 10_000) -> tuple[list[Event], int]:
        """The next `limit` events after a cursor, in the order in which they were kept, and the cursor behind them."""
        rows = self._all(select(EVENT.seq, *EVENT_COLUMNS).where(EVENT.seq > after).order_by(EVENT.seq).limit(limit))
        return [event_of(row[1:]) for row in rows], rows[-1][0] if rows else after

    def slates(self, after: int = 0, limit: int = 1000) -> tuple[list[ShownSlate], int]:
        """The next `limit` slates after a cursor, and the cursor behind them. Events and slates have cursors of their own."""
        slates, cursors = self.slates_with_cursors(after, limit)
        return slates, cursors[-1] if cursors else after

    def slates_with_cursors(self, after: int = 0, limit: int = 1000) -> tuple[list[ShownSlate], list[int]]:
        """The same, with the cursor of each slate."""
        rows = self._all(select(tables.slates).where(SLATE.seq > after).order_by(SLATE.seq).limit(limit))
        return [slate_of(row) for row in rows], [row.seq for row in rows]

    def slate(self, recommendation: str) -> ShownSlate | None:
        """What was shown under this id; None if nothing was."""
        rows = self._all(select(tables.slates).where(SLATE.recommendation == recommendation))
        return slate_of(rows[0]) if rows else None

    def rows(self, after: int = 0, until: int | None = None, limit: int = 100_000) -> Iterator[Sequence[Any]]:
        """All events after a cursor, up to and with cursor `until`, in pages of rows (seq, then the columns of the table)."""
        while True:
            question = select(EVENT.seq, *EVENT_COLUMNS).where(EVENT.seq > after).order_by(EVENT.seq).limit(limit)
            page = self._all(question if until is None else question.where(EVENT.seq <= until))
            if not page:
                return
            yield page
            after = page[-1].seq

    def cursor(self) -> int:
        """The cursor behind the newest event: what is kept later comes after it."""
        return self._read(lambda connection: connection.scalar(select(func.max(EVENT.seq)))) or 0

    def slate_cursor(self) -> int:
        """The cursor behind the newest slate."""
        return self._read(lambda connection: connection.scalar(select(func.max(SLATE.seq)))) or 0

    def counts(self, since: int = 0, until: int = 2**62) -> list[Count]:
        """Events by hour, kind, placement and position, oldest first. They were counted when kept, and stay when people are forgotten."""
        count = tables.counts
        question = select(count).where(count.c.hour >= since - since % HOUR, count.c.hour < until)
        return [Count(*row) for row in self._all(question.order_by(*count.primary_key))]

    def traffic(self, since: int = 0, until: int = 2**62) -> list[tuple[int, str, str | None, str | None, int]]:
        """Slates shown, by hour, bundle version, experiment and arm: (hour, version, experiment, arm, how many)."""
        hour = (SLATE.time - SLATE.time % HOUR).label("hour")
        columns = (hour, SLATE.version, SLATE.experiment, SLATE.arm)
        question = select(*columns, func.count()).where(SLATE.time >= since, SLATE.time < until).group_by(*columns).order_by(*columns)
        return [tuple(row) for row in self._all(question)]

    def decisions(self, limit: int = 100) -> list[Decision]:
        """The last decisions, newest first."""
        table = tables.decisions.c
        columns = (table.time, table.action, table.version, table.against, table.reason, table.measures)
        rows = self._all(select(*columns).order_by(table.seq.desc()).limit(limit))
        return [Decision(moment(row.time), row.action, row.version, row.against, row.reason, json.loads(row.measures)) for row in rows]

    # -- how ----------------------------------------------------------------------------------------------------------------------

    def _write(self, work: Callable[[Connection], T]) -> T:
        """One transaction, which has reached the disk when this returns."""

        def whole(connection: Connection) -> T:
            with connection.begin():
                self._database.take_turn(connection)
                result = work(connection)
            self._database.same_file(connection)
            return result

        return self._on(self._database.writer, whole)

    def _read(self, ask: Callable[[Connection], T]) -> T:
        return self._on(self._database.reader, ask)

    def _on(self, pool: Engine, work: Callable[[Connection], T]) -> T:
        """Does something on a connection of a pool; again, once, on a new one if the old was stale. StoreError of one line otherwise."""
        for again in (True, False):
            try:
                with pool.connect() as connection:
                    self._database.same_file(connection)
                    return work(connection)
            except Replaced:
                self._database.close()
                if not again:
                    raise self._database.gone() from None
            except SQLAlchemyError as error:
                if not (again and isinstance(error, DBAPIError) and error.connection_invalidated):
                    raise self._database.explain(error) from None
        raise AssertionError("unreachable")

    def _all(self, question: Executable, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        return self._read(lambda connection: connection.execute(question, values).all())

    def _forgotten_among(self, connection: Connection, users: set[str]) -> set[str]:
        table = tables.forgotten
        if not connection.scalar(select(table.c.who).limit(1)):
            return set()
        by_hash = {self.mark(user): user for user in users}
        return {by_hash[who] for who in known(connection, table.c.who, list(by_hash))}

    def _keep_slates(self, connection: Connection, slates: Mapping[str, ShownSlate]) -> tuple[int, set[str]]:
        """How many were new, and whose were dropped."""
        if not slates:
            return 0, set()
        forgotten = self._forgotten_among(connection, {slate.user for slate in slates.values() if slate.user is not None})
        wanted = [slate_row(slate) for slate in slates.values() if slate.user not in forgotten]
        return len(insert_new(connection, tables.slates, SLATE.recommendation, wanted)), forgotten

    def _count(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        tally = Counter(
            (
                row["time"] - row["time"] % HOUR,
                row["kind"],
                row["placement"] or NO_PLACEMENT,
                NO_POSITION if row["position"] is None else row["position"],
            )
            for row in rows
        )
        if tally:
            table = tables.counts
            statement = self._insert(table)
            statement = statement.on_conflict_do_update(
                index_elements=list(table.primary_key), set_={"events": table.c.events + statement.excluded.events}
            )
            connection.execute(statement, [Count(*key, times)._asdict() for key, times in tally.items()])


def _by_id(slates: Iterable[ShownSlate]) -> dict[str, ShownSlate]:
    found: dict[str, ShownSlate] = {}
    for slate in slates:
        found.setdefault(slate.recommendation, slate)  # of two with one id the first stands
    return found


def _by_time(action: Action) -> tuple[int, int]:
    return action.time, action.seq
