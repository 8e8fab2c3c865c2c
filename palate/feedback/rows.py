"""Events and slates as rows of the event store, and back; rows that go in once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select
from sqlalchemy.exc import IntegrityError

from palate.feedback import migrations as tables
from palate.feedback.events import Event, ShownSlate, moment

EVENT_COLUMNS = [column for column in tables.events.c if column.name != "seq"]
AT_ONCE = 500  # ids in one question


def event_row(event: Event) -> dict[str, Any]:
    """The columns of an event; its cursor is given by the store."""
    return {
        "id": event.id,
        "kind": event.kind,
        "user": event.user,
        "item": event.item,
        "time": event.micros,
        "value": event.value,
        "recommendation": event.recommendation,
        "position": event.position,
        "placement": event.placement,
        "reason": event.reason,
        "query": event.query,
        "context": _json(event.context) if event.context else None,
    }


def event_of(row: Sequence[Any]) -> Event:
    """From EVENT_COLUMNS, in their order."""
    fields = dict(zip((column.name for column in EVENT_COLUMNS), row, strict=True))
    return Event.model_validate({**fields, "time": moment(fields["time"]), "context": json.loads(fields["context"] or "{}")})


def slate_row(slate: ShownSlate) -> dict[str, Any]:
    """The columns of a slate; its items are JSON text without what is as usual."""
    row: dict[str, Any] = {name: getattr(slate, name) for name in ("recommendation", "user", "version", "placement", "experiment", "arm")}
    items = [shown.model_dump(exclude_defaults=True) for shown in slate.items]
    return {**row, "time": slate.micros, "context": _json(slate.context) if slate.context else None, "items": _json(items)}


def slate_of(row: Any) -> ShownSlate:
    """From a row of the table, by names."""
    fields = {name: value for name, value in row._mapping.items() if name != "seq"}
    context = json.loads(fields["context"] or "{}")
    items = tuple(json.loads(fields["items"]))
    return ShownSlate.model_validate({**fields, "time": moment(fields["time"]), "context": context, "items": items})


def insert_new(connection: Connection, table: Any, key: Any, rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Inserts the rows whose key is new, and returns them. Most batches are all new, so that is tried before anything is looked up."""
    if not rows:
        return rows
    connection.exec_driver_sql("SAVEPOINT before")
    try:
        connection.execute(insert(table), rows)
        return rows
    except IntegrityError:  # any other error ends the transaction, and SQLite may have ended it already
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT before")
        there = known(connection, key, [row[key.name] for row in rows])
        new = [row for row in rows if row[key.name] not in there]
        if new:
            connection.execute(insert(table), new)
        return new


def known(connection: Connection, key: Any, values: Sequence[str]) -> set[str]:
    """Which of the values stand in a column."""
    question = select(key).where(key.in_(bindparam("values", expanding=True)))
    found: set[str] = set()
    for start in range(0, len(values), AT_ONCE):
        found.update(connection.scalars(question, {"values": values[start : start + AT_ONCE]}))
    return found


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
