"""Progress a person can watch: one line a step, with its seconds. Silent where nobody looks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console


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
