"""What `palate reproduce` does: finds the data, trains, shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from palate.reproduce.base import (
    Done,
    Entry,
    Published,
    Table,
    cells,
    environment,
    headings,
    markdown,
    protocol_of,
    summary,
    table_of,
    tables,
    winners,
)
from palate.types import ConfigError, PalateError


@dataclass(frozen=True)
class Reproduced:
    """A table with our rows. rows: as `--json` gives them. notes: what differs from the published protocol. others: what is not run."""

    table: Table
    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    about: dict[str, Any]
    others: tuple[Published, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        others = [{"model": other.model, "published": dict(other.figures), "note": other.note} for other in self.others]
        said = {"winner": self.said, "rows": list(self.rows), "published only": others, "notes": list(self.notes)}
        return {"table": self.table.name, **said, **self.about}

    @property
    def said(self) -> str:
        """Who is best."""
        return " ".join(winners(self.table, self.rows))

    def _others(self) -> str:
        def one(other: Published) -> str:
            figures = " / ".join(f"{other.figures[metric]:.4f}" for metric in self.table.metrics[:2] if metric in other.figures)
            return f"{other.model} {figures}" + (f" ({other.note})" if other.note else "")

        names = " / ".join(headings(self.table.metrics[:2], published=False)[1:3])
        return f"Published, not run here ({names}): {'; '.join(one(other) for other in self.others)}."

    @property
    def text(self) -> str:
        """The table in Markdown, with what it takes to make it again."""
        if any("published" in row for row in self.rows):
            lines = [f"# {self.table.title}", "", f"Published: {self.table.source}.", ""]
            lines += [self.table.words, ""] if self.table.words else []
        else:
            lines = [f"# {Path(self.about['out']).name}", "", f"Other data by the protocol of {self.table.name}.", ""]
        lines += [f"**{self.said}**", "", markdown(self.rows, self.table.metrics)]
        lines += [self._others(), ""] if self.others else []
        lines += [f"- {row['model']}: {row['note']}" for row in self.rows if row["note"]]
        lines += [f"- {note}" for note in self.notes]
        seeds = sorted({seed for row in self.rows for seed in row["seeds"]})
        versions = ", ".join(f"{name} {version}" for name, version in self.about["environment"]["versions"].items())
        lines += [
            "",
            f"Seeds {', '.join(map(str, seeds))}; {self.about['precision']}. Command: `{self.about['command']}`. Versions: {versions}.",
        ]
        return "\n".join(lines) + "\n"

    def show(self, console: Console) -> None:
        """The table as a person reads it."""
        head = headings(self.table.metrics, published=any("published" in row for row in self.rows))
        shown = RichTable(title=self.table.title, box=None, pad_edge=False, title_justify="left")
        for place, name in enumerate(head):
            shown.add_column(name, justify="left" if place == 0 else "right")
        for row in self.rows:
            shown.add_row(*cells(row, self.table.metrics))
        console.print(shown)
        console.print(self.said, markup=False)
        if self.others:
            console.print(self._others(), markup=False, style="dim")
        for note in self.notes:
            console.print(f"[dim]{note}[/dim]")
        console.print(f"Settings, environment and figures of every run: [bold]{self.about['out']}[/bold]")


def names() -> list[str]:
    """The tables there are."""
    return sorted(tables())


def show_tables(console: Console, print_json: Callable[[Any], None] | None) -> None:
    """Every table with its models."""
    found = tables()
    if print_json is not None:
        print_json({name: {"title": table.title, "models": [entry.key for entry in table.entries]} for name, table in found.items()})
        return
    shown = RichTable(box=None, pad_edge=False)
    for heading in ("table", "what", "models"):
        shown.add_column(heading)
    for name, table in found.items():
        shown.add_row(f"[bold]{name}[/bold]", f"{table.title}\n[dim]{table.source}[/dim]", ", ".join(entry.key for entry in table.entries))
    console.print(shown)


def reproduce(
    name: str,
    keys: Sequence[str] | None,
    seeds: int,
    data: Path | None,
    out: Path,
    *,
    jobs: int = 1,
    bf16: bool = False,
    tune: bool = False,
    quiet: bool = False,
    command: str = "",
) -> Reproduced:
    """Trains the chosen models with seeds 0, 1, ... and puts the published figures beside ours. bf16: layers in bfloat16 autocast.

    tune: each model's settings are chosen among the table's grid first, on items held out of train.
    """
    table = table_of(name)
    if data is not None:
        table = replace(table, md5={})
    entries = table.chosen(keys)
    if bf16 and table.protocol != "clicks":
        raise ConfigError(f"--bf16: {name} trains in float32")
    if bf16:
        entries = tuple(replace(e, settings={**e.settings, "train": {**e.settings.get("train", {}), "bf16": True}}) for e in entries)
    from palate.reproduce import runs

    console = Console(stderr=True, highlight=False, quiet=quiet)
    folder = protocol_of(table).find(table, data, quiet)  # a protocol brings torch, which the list of tables does not need
    home = out / (name if data is None else f"{name}-{data.resolve().name}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(table.title, total=sum(seeds if entry.random else 1 for entry in entries))

        def told(entry: Entry, done: Done, there: int, total: int) -> None:
            bar.update(task, completed=there, total=total)
            figures = "  ".join(f"{metric} {done.metrics[metric]:.4f}" for metric in table.metrics)
            epochs = f", {done.epochs} epochs" if done.epochs else ""
            console.print(f"[{there}/{total}] {entry.model}, seed {done.seed}: {figures}{epochs}, {done.seconds:.0f} s", markup=False)

        kept, found = runs.run(table, entries, range(seeds), folder, home, jobs=jobs, tune=tune, command=command, told=told)
    rows = tuple(summary(entry, kept[entry.key], table.metrics, published=data is None) for entry in entries)
    if not rows:
        raise PalateError(f"{name}: no model chosen")
    about = {
        "command": command,
        "precision": "bf16 autocast" if bf16 else "float32",
        "out": str(home),
        "data": found.checksums,
        "environment": environment(),
    }
    done = Reproduced(table, rows, found.notes, about, table.others if data is None and keys is None else ())
    (home / "table.md").write_text(done.text, encoding="utf-8")
    return done
