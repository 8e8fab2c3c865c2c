"""The tables of the event store, and the steps by which an older store becomes today's.

The steps are a numbered list here and not Alembic's: there are few tables, both databases can undo changes of tables within a transaction,
and a service must be able to bring its store up to date when it starts, from the installed package alone, without a folder of scripts,
an environment file and a command of its own. A step once released never changes. Until a table changes, the step that made it may name the
table as it stands; tests hold the tables of every older schema as literal SQL, so that a change without a step is caught.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import BigInteger, Column, Connection, Double, Identity, Index, Integer, MetaData, Table, Text, func, insert, select, text
from sqlalchemy import inspect as look_at

from palate.errors import StoreError

TABLES = MetaData()
HOUR = 3_600_000_000  # microseconds


def _number() -> Column[int]:
    """Numbers that rise in the order of commits and are never given twice, not even after the last row is deleted: cursors rely on it."""
    return Column("seq", BigInteger().with_variant(Integer, "sqlite"), Identity(always=True), primary_key=True)


schema = Table(
    "palate_schema",
    TABLES,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("time", BigInteger, nullable=False),
)
meta = Table("palate_meta", TABLES, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))
forgotten = Table("palate_forgotten", TABLES, Column("who", Text, primary_key=True), Column("time", BigInteger, nullable=False))
events = Table(
    "palate_events",
    TABLES,
    _number(),
    Column("id", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("item", Text),
    Column("time", BigInteger, nullable=False),
    Column("value", Double),
    Column("recommendation", Text),
    Column("position", Integer),
    Column("placement", Text),
    Column("reason", Text),
    Column("query", Text),
    Column("context", Text),
    sqlite_autoincrement=True,
)
# Two indexes that hold all that a request asks of a person, so that no row is fetched. Impressions are many and have one of their own, or
# a history would be sought among them. Each event stands in one of the two.
IS_ACTION, IS_IMPRESSION = text("kind <> 'impression'"), text("kind = 'impression'")
Index(
    "palate_actions",
    *(events.c[name] for name in ("user", "time", "seq", "kind", "item")),
    sqlite_where=IS_ACTION,
    postgresql_where=IS_ACTION,
)
Index(
    "palate_impressions",
    *(events.c[name] for name in ("user", "time", "item", "kind")),
    sqlite_where=IS_IMPRESSION,
    postgresql_where=IS_IMPRESSION,
)
# What a person did behind a cursor. SQLite has the cursor at the end of every index, and finds it only there.
in_order_kept = (
    Index("palate_in_order_kept", events.c.user, sqlite_where=IS_ACTION).ddl_if(dialect="sqlite"),
    Index("palate_in_order_kept", events.c.user, events.c.seq, postgresql_where=IS_ACTION).ddl_if(dialect="postgresql"),
)
slates = Table(
    "palate_slates",
    TABLES,
    _number(),
    Column("recommendation", Text, nullable=False, unique=True),
    Column("user", Text),
    Column("time", BigInteger, nullable=False),
    Column("version", Text, nullable=False),
    Column("placement", Text),
    Column("experiment", Text),
    Column("arm", Text),
    Column("context", Text),
    Column("items", Text, nullable=False),
    sqlite_autoincrement=True,
)
Index("palate_slates_of_user", slates.c.user, slates.c.time)
Index("palate_slates_by_time", slates.c.time, slates.c.version, slates.c.experiment, slates.c.arm)
counts = Table(
    "palate_counts",
    TABLES,
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),
    Column("placement", Text, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("events", BigInteger, nullable=False),
)
decisions = Table(
    "palate_decisions",
    TABLES,
    _number(),
    Column("id", Text, nullable=False, unique=True),
    Column("time", BigInteger, nullable=False),
    Column("action", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("against", Text),
    Column("reason", Text, nullable=False),
    Column("measures", Text, nullable=False),
    sqlite_autoincrement=True,
)


def _events(connection: Connection) -> None:
    for table in (meta, forgotten, events):
        table.create(connection)
    connection.execute(insert(meta).values(key="salt", value=secrets.token_hex(16)))


def _slates(connection: Connection) -> None:
    slates.create(connection)


def _counts(connection: Connection) -> None:
    """The counts begin with the events that are there."""
    counts.create(connection)
    hour = (events.c.time - events.c.time % HOUR).label("hour")
    columns = (hour, events.c.kind, func.coalesce(events.c.placement, ""), func.coalesce(events.c.position, -1))
    connection.execute(insert(counts).from_select(list(counts.c.keys()), select(*columns, func.count()).group_by(*columns)))


def _decisions(connection: Connection) -> None:
    decisions.create(connection)


def _in_order_kept(connection: Connection) -> None:
    for index in in_order_kept:  # of which one is for this database; step 1 makes it too where the table is new
        index.create(connection, checkfirst=True)


class Step(NamedTuple):
    """From the schema before it to `number`."""

    number: int
    name: str
    apply: Callable[[Connection], None]


STEPS = (
    Step(1, "events", _events),
    Step(2, "slates", _slates),
    Step(3, "counts", _counts),
    Step(4, "decisions", _decisions),
    Step(5, "actions in the order kept", _in_order_kept),
)
NEWEST = STEPS[-1].number


def version(connection: Connection) -> int:
    """The number of the store's schema; 0 where there is none."""
    if not look_at(connection).has_table(schema.name):
        return 0
    return connection.scalar(select(func.max(schema.c.number))) or 0


def migrate(connection: Connection, where: str, upto: int = NEWEST) -> int:
    """Brings a store to schema `upto`, inside the caller's transaction: all steps or none. Returns how many there were.

    Raises StoreError if the store was written by a newer Palate.
    """
    now = version(connection)
    if now > NEWEST:
        raise StoreError(f"{where}: is of schema {now}, and this Palate knows up to {NEWEST}; install a newer Palate or use another store")
    if not now:
        schema.create(connection, checkfirst=True)
    for step in (waiting := STEPS[now:upto]):
        step.apply(connection)
        connection.execute(insert(schema).values(number=step.number, name=step.name, time=time.time_ns() // 1000))
    return len(waiting)
