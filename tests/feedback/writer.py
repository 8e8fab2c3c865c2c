"""A process that writes until it is killed: python writer.py URL FIRST_BATCH SIZE. Prints the number of each batch once it is kept."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime

from palate.feedback.events import Event
from palate.feedback.store import EventStore


def batch(number: int, size: int) -> list[Event]:
    """Batch `number`, the same whenever it is made: what is sent again has the ids it had."""
    time = datetime(2026, 11, 23, 8, tzinfo=UTC)
    return [Event(id=f"{number}.{place}", kind="click", user=f"u{place % 3}", item=f"i{number}", time=time) for place in range(size)]


if __name__ == "__main__":
    url, number, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    store = EventStore.open(url, timeout=60)
    while True:
        store.append(batch(number, size))
        os.write(1, b"%d\n" % number)
        number += 1
