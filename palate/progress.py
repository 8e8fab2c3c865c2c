"""Progress a person can watch: one line a step, with its seconds. Silent where nobody looks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class Steps:
    """`[2/7] retrieve: ease ... 1.3 s` on standard error, one line a step; a spinner while it runs, on a terminal."""

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        self.total = total
        self.done = 0
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        return None

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Announces, times and ticks off one step."""
        self.done += 1
        if self.quiet:
            yield
            return
        label = f"[{self.done}/{self.total}] {what}"
        start = time.perf_counter()
        yield
        self.console.print(f"  [green]✓[/green] \\{label}  [dim]{time.perf_counter() - start:.1f} s[/dim]")


class RowsBar:
    """A bar with rows and rows a second on standard error, for passes over large files; gone when it is done. Silent where nobody looks.

    total: what `advance` adds up to (bytes, rows). unit: what is counted.
    """

    def __init__(self, what: str, total: int, *, unit: str = "rows", quiet: bool = False) -> None:
        rate = TextColumn("{task.fields[said]}")
        columns = (TextColumn("  {task.description}"), BarColumn(), TaskProgressColumn(), rate, TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True)
        self._task = self._bar.add_task(what, total=total, said="")
        self._unit, self._rows, self._start = unit, 0, time.perf_counter()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._bar.stop()

    def advance(self, amount: int) -> None:
        """Moves the bar."""
        self._bar.advance(self._task, amount)

    def count(self, rows: int) -> None:
        """Counts rows."""
        self._rows += rows
        rate = self._rows / max(time.perf_counter() - self._start, 1e-9)
        self._bar.update(self._task, said=f"{self._rows:,} {self._unit}, {rate:,.0f}/s")
