"""An older store becomes today's, whichever schema it had; a newer one is refused. The older schemas are literal SQL, as they were."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine
from sqlalchemy import inspect as look_at

from palate.errors import StoreError
from palate.feedback.migrations import NEWEST, STEPS, TABLES, migrate
from palate.feedback.store import EventStore

# What each step added to a SQLite store when it was released. Never to be edited: add the step that changes a table to STEPS instead.
AS_RELEASED = {
    1: """
        CREATE TABLE palate_schema (number INTEGER NOT NULL, name TEXT NOT NULL, time BIGINT NOT NULL, PRIMARY KEY (number));
        CREATE TABLE palate_meta ("key" TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY ("key"));
        CREATE TABLE palate_forgotten (who TEXT NOT NULL, time BIGINT NOT NULL, PRIMARY KEY (who));
        CREATE TABLE palate_events (seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, kind TEXT NOT NULL,
            user TEXT NOT NULL, item TEXT, time BIGINT NOT NULL, value DOUBLE, recommendation TEXT, position INTEGER,
            placement TEXT, reason TEXT, "query" TEXT, context TEXT, UNIQUE (id));
        CREATE INDEX palate_actions ON palate_events (user, time, seq, kind, item) WHERE kind <> 'impression';
        CREATE INDEX palate_impressions ON palate_events (user, time, item, kind) WHERE kind = 'impression';
        INSERT INTO palate_meta VALUES ('salt', '000102030405060708090a0b0c0d0e0f');
        INSERT INTO palate_schema VALUES (1, 'events', 0);
        INSERT INTO palate_events (id, kind, user, item, time, placement, position) VALUES
            ('1', 'click', 'u', 'a', 7200000000, 'home', 3), ('2', 'click', 'u', 'b', 7200000001, 'home', 3),
            ('3', 'like', 'u', 'c', 3600000000, NULL, NULL);
    """,
    2: """
        CREATE TABLE palate_slates (seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, recommendation TEXT NOT NULL, user TEXT,
            time BIGINT NOT NULL, version TEXT NOT NULL, placement TEXT, experiment TEXT, arm TEXT, context TEXT, items TEXT NOT NULL,
            UNIQUE (recommendation));
        CREATE INDEX palate_slates_of_user ON palate_slates (user, time);
        CREATE INDEX palate_slates_by_time ON palate_slates (time, version, experiment, arm);
        INSERT INTO palate_schema VALUES (2, 'slates', 0);
        INSERT INTO palate_slates (recommendation, user, time, version, items) VALUES ('r', 'u', 0, 'v', '[]');
    """,
    3: """
        CREATE TABLE palate_counts (hour BIGINT NOT NULL, kind TEXT NOT NULL, placement TEXT NOT NULL, position INTEGER NOT NULL,
            events BIGINT NOT NULL, PRIMARY KEY (hour, kind, placement, position));
        INSERT INTO palate_counts VALUES (7200000000, 'click', 'home', 3, 2), (3600000000, 'like', '', -1, 1);
        INSERT INTO palate_schema VALUES (3, 'counts', 0);
    """,
    4: """
        CREATE TABLE palate_decisions (seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, time BIGINT NOT NULL,
            action TEXT NOT NULL, version TEXT NOT NULL, against TEXT, reason TEXT NOT NULL, measures TEXT NOT NULL, UNIQUE (id));
        INSERT INTO palate_schema VALUES (4, 'decisions', 0);
    """,
    5: """
        CREATE INDEX palate_in_order_kept ON palate_events (user) WHERE kind <> 'impression';
        INSERT INTO palate_schema VALUES (5, 'actions in the order kept', 0);
    """,
}


def shape(connection: Connection) -> dict[str, Any]:
    """Tables, columns, keys and indexes, as the database tells them."""
    found = look_at(connection)
    return {
        table: (
            [(column["name"], str(column["type"]), column["nullable"]) for column in found.get_columns(table)],
            found.get_pk_constraint(table)["constrained_columns"],
            [constraint["column_names"] for constraint in found.get_unique_constraints(table)],
            sorted(
                (str(index["name"]), tuple(index["column_names"]), str(index["dialect_options"].get("sqlite_where")))
                for index in found.get_indexes(table)
            ),
        )
        for table in found.get_table_names()
    }


def shape_of(path: Path) -> dict[str, Any]:
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        found = shape(connection)
    engine.dispose()
    return found


def old(path: Path, number: int) -> Path:
    connection = sqlite3.connect(path)
    for step in range(1, number + 1):
        connection.executescript(AS_RELEASED[step])
    connection.close()
    return path


def test_every_step_is_held_here_and_numbered_in_order() -> None:
    assert [step.number for step in STEPS] == list(AS_RELEASED) == list(range(1, NEWEST + 1))


@pytest.mark.parametrize("number", AS_RELEASED)
def test_an_older_store_becomes_todays(tmp_path: Path, number: int) -> None:
    path = old(tmp_path / "old.db", number)
    with EventStore.open(path) as store:
        assert store.history("u") == ("c", "a", "b")
        assert [(count.hour, count.kind, count.placement, count.position, count.events) for count in store.counts()] == [
            (3_600_000_000, "like", "", -1, 1),
            (7_200_000_000, "click", "home", 3, 2),
        ]
        assert [one.recommendation for one in store.slates()[0]] == ([] if number < 2 else ["r"])
        assert store.decisions() == []
        assert store.mark("u") == store.mark("u") != store.mark("v")
    EventStore.open(tmp_path / "new.db").close()
    assert shape_of(path) == shape_of(tmp_path / "new.db")


def test_a_step_that_fails_leaves_the_older_store_as_it_was(tmp_path: Path) -> None:
    path = old(tmp_path / "old.db", 1)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE palate_decisions (theirs TEXT)")
    connection.close()
    before = shape_of(path)
    with pytest.raises(StoreError, match=r"table palate_decisions already exists"):
        EventStore.open(path)
    assert shape_of(path) == before


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "newer.db"
    EventStore.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO palate_schema VALUES (?, 'from the future', 0)", (NEWEST + 1,))
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match=rf"newer\.db: is of schema {NEWEST + 1}, and this Palate knows up to {NEWEST}; install a newer"):
        EventStore.open(path)


def test_the_steps_make_the_tables_that_are_declared_and_twice_is_once(url: str) -> None:
    with EventStore.open(url) as store, store._database.writer.connect() as connection:
        assert set(look_at(connection).get_table_names()) >= set(TABLES.tables)
        assert migrate(connection, "here") == 0
        for table in TABLES.tables.values():
            assert [column["name"] for column in look_at(connection).get_columns(table.name)] == list(table.c.keys())
