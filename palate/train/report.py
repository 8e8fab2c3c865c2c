"""What a person sees while a network trains: a bar on the terminal, one line an epoch, and TensorBoard files."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 20  # steps between scalars in TensorBoard


class Report:
    """A live bar (rate, rows a second, running losses, time left) on a terminal; without a terminal one line an epoch and nothing else.

    folder: where TensorBoard's event files go, or None. quiet: neither bar nor lines. A context manager.
    """

    def __init__(self, name: str, steps: int, *, quiet: bool, folder: Path | None, done: int = 0) -> None:
        self.name = name
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )
        self.bar = self.progress.add_task(name, total=steps, completed=done, figures="")
        self.writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder), purge_step=done or None)
        self._since = time.perf_counter()
        self._steps = self._rows = 0
        self._sums: dict[str, float] = {}

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.progress.stop()
        if self.writer is not None:
            self.writer.close()

    def step(self, done: int, epoch: str, values: Mapping[str, float], rows: int, rate: float) -> None:
        """One step is done; `rate` is the learning rate of the dense part."""
        self._steps += 1
        self._rows += rows
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, 0.0) + value * rows
        seconds = time.perf_counter() - self._since
        if self._steps < EVERY and seconds < 1.0:
            return
        means = {key: value / max(1, self._rows) for key, value in self._sums.items()}
        speed = f"{self._steps / seconds:.0f} steps/s  {self._rows / seconds:,.0f} rows/s"
        figures = f"{speed}  " + "  ".join(f"{key} {value:.4f}" for key, value in means.items())
        self.progress.update(self.bar, completed=done, description=f"{self.name} {epoch}", figures=figures)
        if self.writer is not None:
            for key, value in means.items():
                self.writer.add_scalar(f"train/{key}", value, done)
            self.writer.add_scalar("train/lr", rate, done)
            self.writer.add_scalar("train/rows_per_second", self._rows / seconds, done)
        self._since = time.perf_counter()
        self._steps = self._rows = 0
        self._sums = {}

    def epoch(self, done: int, epoch: str, metrics: Mapping[str, float], seconds: float, rows: int) -> None:
        """One epoch and its validation are done. rows: how many were trained on in these `seconds`."""
        if not self.quiet:
            figures = "  ".join(f"{key} {value:.4f}" for key, value in metrics.items())
            speed = f"[dim]{seconds:.1f} s, {rows / max(seconds, 1e-9):,.0f} rows/s[/dim]"
            self.console.print(f"{self.name} {epoch}  {figures}  {speed}", soft_wrap=True)
        if self.writer is not None:
            for key, value in metrics.items():
                self.writer.add_scalar(f"epoch/{key}", value, done)
            self.writer.flush()
