"""Stores in SQLite, and in a PostgreSQL server of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palate.feedback.store import EventStore


@pytest.fixture(scope="session")
def server(postgresql: Any) -> Any:
    """The PostgreSQL server."""
    return postgresql


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for a store: in SQLite always, in PostgreSQL where there is a server."""
    return str(tmp_path / "events.db") if request.param == "sqlite" else request.getfixturevalue("server").fresh()


@pytest.fixture
def store(url: str) -> Iterator[EventStore]:
    with EventStore.open(url, timeout=60) as opened:  # the machine may be busy
        yield opened
