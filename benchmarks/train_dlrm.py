"""Training speed of DLRM at the shape of the Criteo-Kaggle data, from shards on disk. Prints a table and one JSON line.

python benchmarks/train_dlrm.py --folder /tmp/rows            (2.2 GB of memory for the tables, 0.2 GB on disk)
python benchmarks/train_dlrm.py --quality --seeds 3           (what bfloat16 costs in AUC, on planted clicks)

26 tables with the cardinalities of Criteo-Kaggle (33.76 million rows) x 16, 13 dense columns, bottom 512-256-64-16, top 512-256-1, dot
products, batches of 2,048; ids are skewed as 1 / rank and strewn over their tables.
Measured in turn, in rounds; each figure is the median over rounds, and so is each ratio:

    dense     the network with constant vectors in the place of the lookups: forward, backward, SGD; batches in memory
    loop      all of `Trainer.fit`: reading and shuffling shards, lookups, forward, backward, updates of tables and network, reporting
    dlrm      the step of facebookresearch/dlrm, as Naumov et al. 2019 describe it, in plain torch: 26 nn.EmbeddingBag with sparse
              gradients, MLPs in float32, bmm and the lower triangle, binary cross-entropy, SGD over everything; batches in memory

The tables of `loop` and of `dlrm` are the same memory. Figures mean something on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before torch loads, as the command line does it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from palate.config import Training
from palate.data import shards
from palate.features.rows import Rows
from palate.losses import binary_cross_entropy
from palate.nn.embedding import Embeddings
from palate.rank.dlrm import DLRM, DLRMNetwork
from palate.train.trainer import Trainer
from palate.types import Batch, Inputs, Run, SparseInput

CARDINALITIES = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194,
    27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip
BOTTOM, TOP, WIDTH, DENSE = (512, 256, 64), (512, 256), 16, 13
SHARD = 1 << 18


def inputs_of(scale: float) -> Inputs:
    """The features; `scale` shrinks the tables, for a try."""
    sizes = [max(3, round(size * scale)) for size in CARDINALITIES]
    sparse = tuple(SparseInput(f"C{place + 1}", f"C{place + 1}", size, "sum") for place, size in enumerate(sizes))
    return Inputs(tuple(f"I{place + 1}" for place in range(DENSE)), sparse)


def write_rows(folder: Path, inputs: Inputs, rows: int, seed: int = 0) -> None:
    """Shards of random rows, unless the folder holds these very ones."""
    about = {"made by": "benchmarks/train_dlrm.py", "rows": rows, "seed": seed}
    if (folder / shards.MANIFEST).exists():
        manifest = shards.read_manifest(folder)
        if manifest.about == about and manifest.inputs == inputs:
            return
        raise SystemExit(f"{folder}: holds other rows; give another --folder, or delete it")
    written = []
    for number, start in enumerate(range(0, rows, SHARD)):
        draw, size = np.random.default_rng((seed, number)), min(SHARD, rows - start)
        columns = []
        for feature in inputs.sparse:
            rank = ((feature.rows - 1) ** draw.random(size)).astype(np.int64) - 1
            columns.append(1 + rank * 2654435761 % (feature.rows - 1))
        dense = np.log1p(draw.exponential(5.0, (size, DENSE))).astype(np.float32)
        labels = (draw.random((size, 1)) < 0.25).astype(np.uint8)
        shard = shards.Shard(f"train/{number:05}.safetensors", size)
        shards.write_shard(folder / shard.path, dense, np.stack(columns, 1).astype(np.int32), labels)
        written.append(shard)
    shards.write_manifest(folder, shards.Manifest(inputs, {"train": tuple(written)}, about))


class Constant(nn.Module):
    """Vectors that nobody looked up."""

    vectors: Tensor

    def __init__(self, features: int, batch: int) -> None:
        super().__init__()
        self.width = WIDTH
        self.register_buffer("vectors", torch.randn(batch, features, WIDTH) * 0.05)

    def forward(self, sparse: Any) -> Tensor:
        return self.vectors


class Plain(nn.Module):
    """facebookresearch/dlrm, from its paper. tables: what the EmbeddingBags hold."""

    def __init__(self, tables: list[Tensor]) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag.from_pretrained(table, freeze=False, mode="sum", sparse=True) for table in tables)
        vectors = len(tables) + 1
        self.bottom = self._layers((DENSE, *BOTTOM, WIDTH))
        self.top = self._layers((WIDTH + vectors * (vectors - 1) // 2, *TOP, 1))[:-1]
        self.places = torch.tril_indices(vectors, vectors, offset=-1)

    @staticmethod
    def _layers(sizes: tuple[int, ...]) -> nn.Sequential:
        pairs = itertools.pairwise(sizes)
        return nn.Sequential(*(layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())))

    def forward(self, dense: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
        z = self.bottom(dense)
        found = [bag(own, offsets) for bag, own in zip(self.bags, ids, strict=True)]
        x = torch.cat([z, *found], dim=1).view(len(dense), -1, WIDTH)
        products = torch.bmm(x, x.transpose(1, 2))[:, self.places[0], self.places[1]]
        logits: Tensor = self.top(torch.cat([z, products], dim=1))
        return logits


class Steps:
    """The next `count` batches of an endless stream, as a loader of one epoch."""

    def __init__(self, stream: Iterator[Batch], count: int) -> None:
        self.stream, self.count = stream, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        return itertools.islice(self.stream, self.count)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": 0, "batch": 0}

    def load_state_dict(self, state: Any) -> None: ...


def step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    return {"loss": binary_cross_entropy(model(batch), batch.labels, batch.weights)}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Samples a second of each way, a list a way: one value a round."""
    inputs = inputs_of(options.scale)
    write_rows(options.folder, inputs, options.rows)
    rows, size = Rows.open(options.folder), options.batch
    held = list(itertools.islice(rows.loader(size, seed=1), 16))
    training = Training(epochs=1, batch_size=size, sparse=options.sparse, dense="sgd", lr=0.01, sparse_lr=0.01)
    model = DLRMNetwork(inputs, Embeddings(inputs, WIDTH, training), BOTTOM, TOP)
    alone = DLRMNetwork(inputs, copy.copy(model.embeddings), BOTTOM, TOP)
    alone.embeddings = Constant(len(inputs.sparse), size)  # type: ignore[assignment]
    plain = Plain(list(model.embeddings.tables().values()))
    plain_sgd, alone_sgd = torch.optim.SGD(plain.parameters(), lr=0.01), torch.optim.SGD(alone.parameters(), lr=0.01)
    loader = rows.loader(size, seed=2)
    # A last batch may be short; the rate would be of other batches.
    stream = (batch for _ in itertools.count() for batch in loader if len(batch) == size)
    offsets = torch.arange(size)

    def dense_alone(bf16: bool) -> None:
        for batch in itertools.islice(itertools.cycle(held), options.steps):
            alone_sgd.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                loss = step(alone, batch)["loss"]
            loss.backward()  # type: ignore[no-untyped-call]
            alone_sgd.step()
            float(loss.detach())

    def loop(bf16: bool) -> None:
        settings = training.model_copy(update={"bf16": bf16})
        Trainer().fit(model, Steps(stream, options.steps), step, settings, name="dlrm", run=Run())

    def dlrm() -> None:
        for batch in itertools.islice(itertools.cycle(held), options.steps):
            plain_sgd.zero_grad()
            logits = plain(batch.dense, batch.sparse.values().view(-1, size), offsets)
            loss = nn.functional.binary_cross_entropy(torch.sigmoid(logits), batch.labels)
            loss.backward()  # type: ignore[no-untyped-call]
            plain_sgd.step()
            float(loss.detach())

    ways: dict[str, Callable[[], None]] = {
        "dense fp32": lambda: dense_alone(False), "loop fp32": lambda: loop(False), "dlrm": dlrm,
        "dense bf16": lambda: dense_alone(True), "loop bf16": lambda: loop(True),
    }  # fmt: skip
    rates: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(options.rounds + 1):
        for name, act in ways.items():
            start, before = time.perf_counter(), time.process_time()
            act()
            if round_:  # the first one warms up
                rates[name].append(options.steps * size / (time.perf_counter() - start))
                processor[name].append(1000 * (time.process_time() - before) / options.steps)
    parameters = sum(weight.numel() for weight in model.parameters())
    return {"parameters": parameters, "table_rows": sum(f.rows for f in inputs.sparse), "rates": rates, "processor_ms_a_step": processor}


def quality(options: argparse.Namespace) -> dict[str, Any]:
    """AUC and logloss of DLRM on planted clicks, in float32 and bfloat16, a value a seed."""
    from palate.data.sources.clicks import planted_clicks
    from palate.metrics.pointwise import auc, logloss

    found: dict[str, dict[str, list[float]]] = {kind: {"auc": [], "logloss": []} for kind in ("fp32", "bf16", "best")}
    for seed in range(options.seeds):
        clicks = planted_clicks(options.rows, seed=seed)
        part = len(clicks) * 4 // 5
        train, test = (Rows.of(clicks.inputs, some.dense, some.ids, some.labels) for some in (clicks[:part], clicks[part:]))
        labels = test.labels[:, 0]
        for kind in ("fp32", "bf16"):
            settings = {"epochs": 3, "batch_size": options.batch, "bf16": kind == "bf16"}
            ranker = DLRM(width=WIDTH, bottom=BOTTOM, top=TOP, train=settings).fit_rows(train, run=Run(seed=seed, train=Trainer().fit))
            said = ranker.predict(test)[:, 0]
            found[kind]["auc"].append(auc(labels, said))
            found[kind]["logloss"].append(logloss(labels, said))
        found["best"]["auc"].append(auc(labels, clicks[part:].probabilities))
        found["best"]["logloss"].append(logloss(labels, clicks[part:].probabilities))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the shards are written, once")
    parser.add_argument("--rows", type=int, default=1 << 20)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sparse", default="sgd", choices=["sgd", "adagrad", "rowwise_adagrad"])
    parser.add_argument("--scale", type=float, default=1.0, help="of the tables")
    parser.add_argument("--quality", action="store_true", help="compare AUC in float32 and bfloat16 instead")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    facts = {"threads": options.threads, "batch": options.batch, "torch": torch.__version__, "processor": processor_name()}
    console = Console(width=100)
    if options.quality:
        found = quality(options)
        table = Table("", "AUC", "logloss")
        for kind, values in found.items():
            table.add_row(kind, *(f"{statistics.mean(v):.5f} +- {statistics.pstdev(v):.5f}" for v in values.values()))
        console.print(table)
        print(json.dumps({"quality": found, "rows": options.rows, **facts}))
        return
    if options.folder is None:
        parser.error("say where the shards shall be: --folder DIR")
    result = measure(options)
    median = {name: statistics.median(rates) for name, rates in result["rates"].items()}

    def ratio(mine: str, theirs: str) -> float:
        """The median over rounds: what disturbs a machine for a while disturbs both."""
        return statistics.median(a / b for a, b in zip(result["rates"][mine], result["rates"][theirs], strict=True))

    ratios = {
        "loop / dense, fp32": ratio("loop fp32", "dense fp32"),
        "loop / dense, bf16": ratio("loop bf16", "dense bf16"),
        "loop fp32 / dlrm": ratio("loop fp32", "dlrm"),
        "loop bf16 / dlrm": ratio("loop bf16", "dlrm"),
    }
    table = Table("", "samples/s", "least", "most", "processor ms a step")
    for name, rates in result["rates"].items():
        used = statistics.median(result["processor_ms_a_step"][name])
        table.add_row(name, f"{median[name]:,.0f}", f"{min(rates):,.0f}", f"{max(rates):,.0f}", f"{used:.1f}")
    console.print(table)
    for name, ratio in ratios.items():
        console.print(f"{name}: {ratio:.2f}")
    rounded = {name: round(ratio, 3) for name, ratio in ratios.items()}
    print(json.dumps({"samples_per_s": {n: round(v) for n, v in median.items()}, "ratios": rounded, "sparse": options.sparse,
                      "parameters": result["parameters"], "rows_on_disk": options.rows, "rounds": options.rounds, **facts}))  # fmt: skip


def processor_name() -> str:
    """As the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
