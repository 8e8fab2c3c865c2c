"""Small logs, built by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl
import pytest

from palate.types import Log

Event = tuple[str, str, int, str]


def make_log(
    events: Sequence[Event], users: pl.DataFrame | None = None, items: pl.DataFrame | None = None, context: pl.DataFrame | None = None
) -> Log:
    """Events (user, item, seconds, kind) in log order. Kinds: like (positive), hide (negative), view (neither)."""
    if users is None:
        users = pl.DataFrame({"user": sorted({event[0] for event in events})}, schema={"user": pl.String})
    if items is None:
        items = pl.DataFrame({"item": sorted({event[1] for event in events})}, schema={"item": pl.String})
    frame = pl.DataFrame(
        {
            "user": pl.Series([e[0] for e in events], dtype=pl.Enum(users["user"])),
            "item": pl.Series([e[1] for e in events], dtype=pl.Enum(items["item"])),
            "time": pl.Series([e[2] * 1_000_000 for e in events], dtype=pl.Int64).cast(pl.Datetime("us", "UTC")),
            "kind": pl.Series([e[3] for e in events], dtype=pl.Enum(["like", "hide", "view"])),
            "value": pl.Series([None] * len(events), dtype=pl.Float32),
        }
    )
    if context is not None:
        frame = pl.concat([frame, context], how="horizontal")
    return Log(frame, users, items, name="hand", positive=("like",), negative=("hide",))


@pytest.fixture
def films() -> Log:
    """Two people, four films; ann has two events at one time, bob hid one film, and cid never acted."""
    users = pl.DataFrame({"user": ["ann", "bob", "cid"], "age": [30, 50, None], "job": ["nurse", None, "clerk"]})
    items = pl.DataFrame(
        {
            "item": ["1", "2", "3", "4"],
            "title": ["Alien (1979)", "Heat (1995)", "Twins", "Twins"],
            "year": [1979, 1995, 1988, None],
            "genres": [["Horror", "SciFi"], ["Crime"], [], ["Horror"]],
            "vector": [[1.0, 0.0], [0.0, 1.0], None, [0.5, 0.5]],
        }
    )
    events = [
        ("ann", "1", 10, "like"),
        ("bob", "1", 20, "like"),
        ("ann", "2", 30, "like"),
        ("ann", "4", 30, "like"),
        ("bob", "4", 40, "hide"),
        ("bob", "3", 50, "view"),
        ("bob", "2", 60, "like"),
        ("ann", "1", 70, "like"),
    ]
    context = pl.DataFrame({"device": ["tv", "tv", "phone", None, "tv", "tv", "phone", "tv"], "hour": [1, 2, 3, 4, 5, 6, 7, 8]})
    return make_log(events, users, items, context)


@pytest.fixture(scope="session")
def log_of() -> Callable[..., Log]:
    return make_log
