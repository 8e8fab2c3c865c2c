"""From the event store back to the front of the house: a `Log` to learn from, a polars frame, a Parquet file.

    log = log_of(store, items=bundle_items)               # all events that are about an item
    export(store, "events.parquet", after=cursor)         # what came since, a page at a time in memory

The log goes through `palate.read`, the same gate as every other log: nothing that is learnt from comes in by a back door.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from palate.data.log import read
from palate.data.tables import json_series
from palate.errors import DataError
from palate.feedback.events import NO_ITEM
from palate.feedback.store import EventStore
from palate.types import Log

# Columns of a frame of events. seq: the cursor of each event. context: the JSON text of an object, null where it is empty.
COLUMNS: Mapping[str, pl.DataType] = {
    "seq": pl.Int64(),
    "id": pl.String(),
    "kind": pl.String(),
    "user": pl.String(),
    "item": pl.String(),
    "time": pl.Datetime("us", "UTC"),
    "value": pl.Float64(),
    "recommendation": pl.String(),
    "position": pl.Int32(),
    "placement": pl.String(),
    "reason": pl.String(),
    "query": pl.String(),
    "context": pl.String(),
}
ITEM_COLUMNS: Mapping[str, pl.DataType] = {
    "seq": pl.Int64(),
    "recommendation": pl.String(),
    "user": pl.String(),
    "time": pl.Datetime("us", "UTC"),
    "version": pl.String(),
    "placement": pl.String(),
    "experiment": pl.String(),
    "arm": pl.String(),
    "position": pl.Int32(),
    "item": pl.String(),
    "score": pl.Float64(),
    "source": pl.String(),
    "propensity": pl.Float64(),
    "reason": pl.String(),
    "probabilities": pl.String(),
}


def frames(store: EventStore, after: int = 0, until: int | None = None, page: int = 100_000) -> Iterator[pl.DataFrame]:
    """The events after a cursor, up to and with `until`, oldest cursor first, a page at a time (see COLUMNS)."""
    for rows in store.rows(after, until, page):
        columns = zip(*rows, strict=True)
        yield pl.DataFrame({name: _series(name, column) for name, column in zip(COLUMNS, columns, strict=True)})


def frame(store: EventStore, after: int = 0, until: int | None = None) -> pl.DataFrame:
    """All of `frames` in one. Cost: about 200 bytes an event."""
    pages = list(frames(store, after, until))
    return pl.concat(pages) if pages else pl.DataFrame(schema=dict(COLUMNS))


def slate_frame(store: EventStore, after: int = 0) -> pl.DataFrame:
    """What was shown after a cursor of slates, a row an item (see ITEM_COLUMNS), slates in the order in which they were kept.

    probabilities: JSON text of an object, task by task. The last `seq` is the cursor behind them.
    """
    rows: list[tuple[Any, ...]] = []
    while True:
        slates, cursors = store.slates_with_cursors(after)
        if not slates:
            break
        for slate, cursor in zip(slates, cursors, strict=True):
            head = (cursor, slate.recommendation, slate.user, slate.time, slate.version, slate.placement, slate.experiment, slate.arm)
            rows += [
                (*head, one.position, one.item, one.score, one.source, one.propensity, one.reason, json.dumps(one.probabilities))
                for one in slate.items
            ]
        after = cursors[-1]
    return pl.DataFrame(rows, schema=dict(ITEM_COLUMNS), orient="row")


def log_of(
    store: EventStore,
    *,
    after: int = 0,
    until: int | None = None,
    context: Sequence[str] = (),
    users: Any = None,
    items: Any = None,
    positive: Sequence[str] | None = None,
    negative: Sequence[str] | None = None,
    positive_value: float | None = None,
    name: str = "event store",
) -> Log:
    """The stored events that are about an item, as a Log.

    after, until: cursors. context: keys of the events' context that become columns; null where an event has none. users, items: tables as
    in `palate.read`. positive, negative, positive_value: as in `palate.read`; by default what it takes for wanted and unwanted.
    Events are ordered by their time, and where that is equal by the order in which they were kept.
    Raises DataError if there is no such event. Cost: as `palate.read` of a frame, and reading the store at some 300,000 events a second.
    """
    events = frame(store, after, until).filter(~pl.col("kind").is_in(list(NO_ITEM)))
    if not events.height:
        raise DataError(f"{store.where}: no events about items after cursor {after}; send some, or start from an earlier cursor")
    plain = events.select("user", "item", "time", "kind", pl.col("value").cast(pl.Float32))
    for key in context:
        if key in plain.columns:
            raise DataError(f"context: {key!r} is a name of the log's own; it cannot be a column of context too")
    found = [json.loads(text) if text else {} for text in events["context"].to_list()] if context else []
    columns = [json_series(key, [row.get(key) for row in found]) for key in context]
    return read(
        plain.with_columns(columns),
        kind="kind",
        value="value",
        context=context,
        users=users,
        items=items,
        positive=positive,
        negative=negative,
        positive_value=positive_value,
        name=name,
    )


def export(store: EventStore, path: str | Path, *, after: int = 0, until: int | None = None) -> tuple[int, int]:
    """Writes events to a Parquet file, a page at a time, whole or not at all. Returns how many, and the cursor behind the last."""
    import pyarrow as pa
    from pyarrow import parquet

    target = Path(path)
    fresh = target.with_name(f".{target.name}.part")
    schema = pl.DataFrame(schema=dict(COLUMNS)).to_arrow().schema
    written, cursor = 0, after
    try:
        with parquet.ParquetWriter(fresh, schema) as writer:
            for page in frames(store, after, until):
                writer.write_table(page.to_arrow().cast(schema))
                written, cursor = written + page.height, int(page["seq"][-1])
        descriptor = os.open(fresh, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        os.replace(fresh, target)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{target}: cannot be written ({error}); see that its folder is there and has room") from None
    finally:
        fresh.unlink(missing_ok=True)
    return written, cursor


def _series(name: str, values: Sequence[Any]) -> pl.Series:
    if name == "time":
        return pl.Series(name, values, dtype=pl.Int64).cast(COLUMNS[name])
    return pl.Series(name, values, dtype=COLUMNS[name])
