"""The command `palate learn`: once, on a schedule, or only a look at what was decided."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from palate import recipe as recipes
from palate.errors import ConfigError, PalateError
from palate.feedback.store import Decision, EventStore
from palate.learn.job import Learnt, Settings, every, learn

if TYPE_CHECKING:
    from rich.table import Table

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])")


class Stopped(PalateError, KeyboardInterrupt):  # noqa: N818 - nothing went wrong
    """SIGTERM: whoever runs this wants it to end."""


def seconds(text: str) -> float:
    """A span of time.

    >>> seconds("6h"), seconds("90s"), seconds("1.5d")
    (21600.0, 90.0, 129600.0)
    """
    found = _SPAN.fullmatch(text.strip())
    if found is None or float(found[1]) <= 0:
        raise ConfigError(f"--every {text}: write a number and a unit, s, m, h or d, such as 6h")
    return float(found[1]) * UNITS[found[2]]


def parted(changes: Sequence[str]) -> tuple[Settings, tuple[str, ...]]:
    """What `--set` says about learning, and what it changes in the recipe.

    >>> settings, others = parted(["learn.margin=0.2", "rank.trees=50"])
    >>> settings.margin, others
    (0.2, ('rank.trees=50',))
    """
    raw: dict[str, Any] = {"learn": {}}
    for change in changes:
        if change.startswith("learn."):
            recipes.apply_setting(raw, change)
    return Settings.parse(raw["learn"], "learn"), tuple(change for change in changes if not change.startswith("learn."))


def run(
    folder: Path,
    store: EventStore,
    *,
    changes: Sequence[str] = (),
    again: str | None = None,
    trust: Sequence[str] = (),
    quiet: bool = False,
    report: Callable[[Learnt | PalateError], None],
) -> None:
    """Learns once, or again and again; `report` is told each time. Raises PalateError where learning once fails."""
    settings, others = parted(changes)
    given: dict[str, Any] = {"settings": settings, "changes": others, "trust": tuple(trust), "quiet": quiet}
    if again is None:
        report(learn(folder, store, **given))
        return
    with _until_stopped() as stopped:
        every(seconds(again), folder, store, stopped=stopped, report=report, **given)


@contextmanager
def _until_stopped() -> Iterator[threading.Event]:
    """Within it SIGTERM ends the work at once, in good order; a bundle half made is no bundle, and the next run clears it away."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()
        raise Stopped("stopped")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield stopped
    except Stopped:
        return
    finally:
        signal.signal(signal.SIGTERM, before)


def table(decisions: Sequence[Decision]) -> Table:
    """Decisions, newest first, as a person reads them."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("time (UTC)", "decision", "version"):
        made.add_column(name, no_wrap=True, vertical="top")
    made.add_column("why", overflow="fold")
    colours = {"promote": "green", "refuse": "yellow", "fail": "red"}
    for one in decisions:
        style = colours.get(one.action, "")
        made.add_row(_second(one.time), Text(one.action, style=style), one.version, Text(one.reason))
    return made


def measures(learnt: Learnt) -> Table | None:
    """What was measured of the candidate and of the bundle in service; None where nothing was."""
    from rich import box
    from rich.table import Table

    told = learnt.measures
    names = [name for name in told if f"{name}.serving" in told]
    if not names:
        return None
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    made.add_column(f"{told['people']:.0f} people")
    for name in ("candidate", "in service", "difference", "interval of it"):
        made.add_column(name, justify="right")
    for name in names:
        interval = f"{told[f'{name}.low']:+.4f} to {told[f'{name}.high']:+.4f}"
        made.add_row(name, f"{told[name]:.4f}", f"{told[f'{name}.serving']:.4f}", f"{told[f'{name}.difference']:+.4f}", interval)
    return made


def _second(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
