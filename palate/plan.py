"""`palate train --dry-run`: what a recipe would train, its tables and its memory, from the data but without any training.

Networks are built on torch's `meta` device, where tensors have shapes and no memory, so that a plan may be larger than the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import psutil

from palate import recipe as recipes
from palate.types import ConfigError, Inputs, Log

if TYPE_CHECKING:
    from torch import nn

    from palate.config import Training


@dataclass(frozen=True)
class PlannedTable:
    """One embedding table. kind: "whole", "qr" or "bloom". bytes: with the state of its optimiser."""

    name: str
    rows: int
    width: int
    kind: str
    bytes: int


@dataclass(frozen=True)
class PlannedNetwork:
    """One network. parameters: all; dense_parameters: outside the tables. batch_bytes: an estimate of what one batch holds at its peak."""

    name: str
    tables: tuple[PlannedTable, ...]
    parameters: int
    dense_parameters: int
    dense_bytes: int
    batch_bytes: int
    batch_size: int
    epochs: int
    steps_an_epoch: int | None
    path: str
    bf16: bool

    @property
    def bytes(self) -> int:
        """Tables, the rest, and one batch."""
        return sum(table.bytes for table in self.tables) + self.dense_bytes + self.batch_bytes


@dataclass(frozen=True)
class Plan:
    """stages: (stage, component) in the order of the funnel. memory: bytes of this machine. device: where networks train."""

    stages: tuple[tuple[str, str], ...]
    networks: tuple[PlannedNetwork, ...]
    device: str
    memory: int
    rows: int

    @property
    def bytes(self) -> int:
        """Of the largest network: networks are trained one after another."""
        return max((network.bytes for network in self.networks), default=0)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        networks = [{**asdict(network), "bytes": network.bytes} for network in self.networks]
        stages = [{"stage": stage, "use": name} for stage, name in self.stages]
        return {"plan": stages, "device": self.device, "rows": self.rows, "networks": networks, "bytes": self.bytes, "memory": self.memory}

    def show(self, console: Any) -> None:
        """As a person reads it."""
        from rich.table import Table

        console.print("  ->  ".join(f"{stage}: {name}" for stage, name in self.stages))
        for network in self.networks:
            steps = "" if network.steps_an_epoch is None else f", {network.steps_an_epoch:,} steps each"
            console.print(
                f"\n{network.name}: {network.epochs} epochs of batches of {network.batch_size:,}{steps}, on {self.device}, "
                f"{network.path}{', bf16' if network.bf16 else ''}"
            )
            shown = Table(box=None, pad_edge=False)
            for heading in ("table", "rows", "width", "embedding", "memory"):
                shown.add_column(heading, justify="left" if heading in ("table", "embedding") else "right")
            for table in network.tables:
                shown.add_row(table.name, f"{table.rows:,}", str(table.width), table.kind, size(table.bytes))
            console.print(shown)
            console.print(
                f"{network.parameters:,} parameters, {network.dense_parameters:,} of them dense ({size(network.dense_bytes)}); "
                f"a batch about {size(network.batch_bytes)}; in all about {size(network.bytes)}"
            )
        console.print(f"\nthis machine has {size(self.memory)}; nothing was trained")

    def check(self) -> None:
        """ConfigError where a network, or one batch of it, is larger than the memory of the machine."""
        for network in self.networks:
            if network.batch_bytes > self.memory:
                fits = network.batch_size * self.memory // (2 * network.batch_bytes)
                raise ConfigError(
                    f"{network.name}.train.batch_size: a batch of {network.batch_size:,} rows takes about {size(network.batch_bytes)}, and "
                    f"this machine has {size(self.memory)}; {fits:,} would fit"
                )
            if network.bytes > self.memory and network.tables:
                largest = max(network.tables, key=lambda table: table.bytes)
                raise ConfigError(
                    f"{network.name}: takes about {size(network.bytes)}, and this machine has {size(self.memory)}; the largest table is "
                    f"{largest.name!r}, {size(largest.bytes)}: give the feature fewer `buckets`, a higher `min_count`, or "
                    '`embedding = {kind = "qr"}`'
                )


def size(count: int) -> str:
    """Bytes as a person reads them.

    >>> size(999), size(5 * 2**20), size(3 * 2**30)
    ('999 B', '5.0 MiB', '3.0 GiB')
    """
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count} B"


def of(recipe: recipes.Recipe) -> Plan:
    """The plan of a recipe. Cost: reading the data, and fitting the encoder (vocabularies say how large tables are) for a funnel."""
    retrievers, ranker, rerankers = recipes.components(recipe)
    stages = [("rank", ranker.name)] if ranker is not None else []
    networks: list[PlannedNetwork] = []
    if recipe.data.rows is not None:
        from palate.features.rows import Rows

        rows = Rows.open(recipe.data.rows)
        networks.append(_of_ranker(recipes.click_ranker(recipe), rows.inputs, len(rows)))
        return Plan(tuple(stages), tuple(networks), recipe.run.device, psutil.virtual_memory().total, len(rows))
    stages = [*(("retrieve", one.name) for one in retrievers), *stages, *(("rerank", one.name) for one in rerankers)]
    log = recipes.split_data(recipe, recipes.read_data(recipe))[0]
    if any(hasattr(one.config, "train") for one in (*retrievers, ranker) if one is not None):
        networks = list(_of_funnel(recipe, retrievers, ranker, log))
    return Plan(tuple(stages), tuple(networks), recipe.run.device, psutil.virtual_memory().total, len(log))


def _of_funnel(recipe: recipes.Recipe, retrievers: Any, ranker: Any, log: Log) -> Iterator[PlannedNetwork]:
    import torch

    from palate.features.encode import Encoder
    from palate.features.history import History
    from palate.features.spec import FeatureSet
    from palate.rank.neural import NeuralRanker

    history = History.of(log)
    for retriever in retrievers:
        if hasattr(retriever.config, "train") and hasattr(retriever, "_features"):
            encoder = Encoder.fit(retriever._features(log), log, history)
            with torch.device("meta"):
                retriever._build(encoder)
            yield _measured(retriever.name, retriever.network, retriever.config.train, len(log.positives()))
    if isinstance(ranker, NeuralRanker):
        own = Encoder.fit(recipes.features(recipe, log) or FeatureSet.derive(log), log, history).inputs()
        said = [f"{retriever.name}.{what}" for retriever in retrievers for what in ("score", "rank")]
        tasks = tuple(task.name for task in ranker.config.tasks) or own.tasks
        yield _of_ranker(ranker, Inputs((*own.dense, *said, *(f"{name}.has" for name in said)), own.sparse, tasks), None)


def _of_ranker(ranker: Any, inputs: Inputs, rows: int | None) -> PlannedNetwork:
    import torch

    with torch.device("meta"):
        network = ranker.build(inputs)
    return _measured(ranker.name, network, ranker.config.train, rows)


def _measured(name: str, network: nn.Module, training: Training, rows: int | None) -> PlannedNetwork:
    import torch

    from palate.nn.embedding import Embeddings, table_bytes

    tables: list[PlannedTable] = []
    weights, numbers = 0, 0
    for module in network.modules():
        if isinstance(module, Embeddings):
            for table, count in module.table_rows.items():
                width, kind = module.table_widths[table], table.rpartition(":")[2]
                kind = {"bloom": "bloom", "quotient": "qr", "remainder": "qr"}.get(kind, "whole")
                tables.append(PlannedTable(table, count, width, kind, table_bytes(count, width, training)))
                weights += count * width
            # Ids and lengths, the vectors and their gradients.
            numbers += len(module.inputs.sparse) * (3 + 2 * module.width)
        elif isinstance(module, torch.nn.Linear):
            numbers += 3 * module.out_features + module.in_features  # result, activation, gradient; and what it read
    parameters = sum(weight.numel() for weight in network.parameters())
    dense = parameters - weights
    batch = training.batch_size if rows is None else min(training.batch_size, rows)
    state = {"adam": 2, "adamw": 2, "adagrad": 1}.get(training.dense, 0)
    path = "dense gradients of tables" if training.sparse == "dense" else f"fused {training.sparse}"
    return PlannedNetwork(
        name, tuple(tables), parameters, dense, 4 * dense * (2 + state), 4 * numbers * batch, batch, training.epochs,
        None if rows is None else -(-rows // batch), path, training.bf16,
    )  # fmt: skip
