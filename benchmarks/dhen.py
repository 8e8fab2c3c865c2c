"""How deep should DHEN be? The depth ladder 1, 2, 4, 8 against DLRM (dot) and DCN-v2 on the same rows: quality and cost.

    python benchmarks/dhen.py --data planted --rows 400000
    python benchmarks/dhen.py --data frappe                          # Frappe_x1 from PALATE_DATA, or downloaded

`planted` is a click world with pairs, triples and products of numbers with ids (`palate.data.sources.clicks`), where the figures of the
true probabilities stand in the first line; `frappe` is the published table's data and protocol. All models have the same embeddings, top
network and training; one row a model, means over the seeds:

    AUC, logloss, NE   on the test rows. NE: logloss over the entropy of the base rate (He et al. 2014); smaller is better
    parameters         tables included
    samples/s          forward, loss and backward of one batch, the best of several, one process; no optimiser step, no loading
    MFLOP/example      of the forward pass by torch.utils.flop_counter: matrix products, a multiplication and an addition counted as two

Prints a line as each model is done, the table, and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from palate.config import build
from palate.data.sources.clicks import PlantedClicks, click_world
from palate.features.rows import Rows
from palate.losses import binary_cross_entropy
from palate.metrics import pointwise
from palate.rank.neural import NeuralRanker
from palate.reproduce import clicks, frappe_x1
from palate.train.trainer import Trainer
from palate.types import Floats, Run
from palate.versions import versions

DEPTHS = (1, 2, 4, 8)
METRICS = ("auc", "logloss", "ne")


@dataclass(frozen=True)
class Data:
    """The three splits, the settings that all models share on them, and what the true probabilities score, where they are known."""

    train: Rows
    valid: Rows
    test: Rows
    shared: Mapping[str, Any]
    best: Mapping[str, float] | None = None


def planted(args: argparse.Namespace) -> Data:
    """Three streams of one world; a quarter of the training rows each for validation and test."""
    world = click_world(seed=7, order="triples", fields=(args.ids,) * 12, dense=4, rank=3, interaction=2.0)
    parts = [world.draw(0, rows, stream) for stream, rows in enumerate((args.rows, args.rows // 4, args.rows // 4))]
    train = {"epochs": args.epochs or 12, "batch_size": args.batch or 1024, "sparse": "dense", "lr": 1e-3, "schedule": "plateau"}
    train |= {"factor": 0.3, "patience": 3, "monitor": "logloss"}
    labels, truth = parts[2].labels, parts[2].probabilities
    best = judged(labels, truth)
    first, second, third = (rows_of(part) for part in parts)
    return Data(first, second, third, {"width": 16, "top": (128, 64), "train": train}, best)


def rows_of(part: PlantedClicks) -> Rows:
    """A stream as a table."""
    return Rows.of(part.inputs, part.dense, part.ids, part.labels)


def frappe(args: argparse.Namespace) -> Data:
    """Frappe_x1 with the recipe of its published table: width 10, 400-400-400 with batch normalisation, L2 over whole tables."""
    table = frappe_x1.TABLE
    found = clicks.read(clicks.find(table, None), md5=table.md5)
    given = {"epochs": args.epochs, "batch_size": args.batch}
    shared = frappe_x1.settings(0.1, top=frappe_x1.DEEP, dropout=0.2, batch_norm=True, train={k: v for k, v in given.items() if v})
    return Data(found.train, found.valid, found.test, shared)


def models(args: argparse.Namespace, shared: Mapping[str, Any]) -> dict[str, NeuralRanker]:
    """The rankers by name. DCN-v2's network beside the cross layers is the others' top."""
    own = {key: value for key, value in shared.items() if key != "top"}
    ensemble = {"modules": args.modules.split(","), "vectors": args.vectors, "ensemble": args.ensemble}
    made: dict[str, Any] = {
        "DLRM (dot)": build("dlrm", "rank", {**shared, "interaction": "dot"}),
        "DCN-v2": build("dcn_v2", "rank", {**own, "layers": shared["top"], "cross": 3}),
    }
    made |= {f"DHEN {depth}": build("dhen", "rank", {**shared, **ensemble, "layers": depth}) for depth in args.depths}
    return {name: ranker for name, ranker in made.items() if args.models is None or any(name.startswith(one) for one in args.models)}


def cost(ranker: NeuralRanker, rows: Rows, repeats: int) -> dict[str, float]:
    """Parameters, samples/s of forward and backward, and MFLOP an example, of the untrained network."""
    network = ranker.build(rows.inputs)
    batch = rows.batch(slice(0, min(ranker.config.train.batch_size, len(rows))))
    with FlopCounterMode(display=False) as counter:
        network(batch)
    quickest = float("inf")
    for _ in range(repeats + 1):  # the first is for warming up
        network.zero_grad()
        start = time.perf_counter()
        binary_cross_entropy(network(batch), batch.labels, batch.weights).backward()  # type: ignore[no-untyped-call]
        quickest = min(quickest, time.perf_counter() - start)
    parameters = sum(weight.numel() for weight in network.parameters())
    return {"parameters": parameters, "samples_per_second": len(batch) / quickest, "mflop": counter.get_total_flops() / len(batch) / 1e6}


def judged(labels: Floats, said: Floats) -> dict[str, float]:
    """The metrics of probabilities [R]."""
    return {
        "auc": pointwise.auc(labels, said),
        "logloss": pointwise.logloss(labels, said),
        "ne": pointwise.normalised_entropy(labels, said),
    }


def quality(ranker: NeuralRanker, data: Data, seed: int) -> dict[str, float]:
    """Trains, stops by the validation rows, and judges on the test rows."""
    start = time.perf_counter()
    ranker.fit_rows(data.train, data.valid, Run(seed=seed, train=Trainer().fit))
    seconds = time.perf_counter() - start
    labels, said = data.test.labels[:, 0], ranker.predict(data.test)[:, 0]
    found = {
        "auc": pointwise.auc(labels, said),
        "logloss": pointwise.logloss(labels, said),
        "ne": pointwise.normalised_entropy(labels, said),
    }
    return found | {"seconds": seconds, "epochs": len(next(iter(ranker.curves.values())))}


def table(rows: list[dict[str, Any]], best: Mapping[str, float] | None) -> str:
    """The rows as Markdown."""
    lines = ["| model | AUC | logloss | NE | parameters | samples/s | MFLOP/example |", "| --- |" + " ---: |" * 6]
    if best is not None:
        lines.append(f"| the truth | {best['auc']:.4f} | {best['logloss']:.4f} | {best['ne']:.4f} | | | |")
    for row in rows:
        figures = " | ".join(f"{mean:.4f} ± {spread:.4f}" for mean, spread in (row[metric] for metric in METRICS))
        lines.append(f"| {row['model']} | {figures} | {row['parameters']:,} | {row['samples_per_second']:,.0f} | {row['mflop']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("planted", "frappe"), default="planted")
    parser.add_argument("--rows", type=int, default=400_000, help="planted: training rows")
    parser.add_argument("--ids", type=int, default=30, help="planted: ids a field")
    parser.add_argument("--epochs", type=int, help="at most (default: 12 planted, 100 frappe)")
    parser.add_argument("--batch", type=int, help="rows a step (default: 1024 planted, 4096 frappe)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    parser.add_argument("--modules", default="dot,attention,convolution,linear,cross", help="DHEN's interactions, in every layer")
    parser.add_argument("--vectors", type=int, default=4, help="vectors that each interaction makes")
    parser.add_argument("--ensemble", choices=("concat", "sum", "weighted"), default="concat")
    parser.add_argument("--models", nargs="+", help='only those whose names begin so, such as DLRM DCN-v2 "DHEN 2"')
    parser.add_argument("--repeats", type=int, default=10, help="of the timed step")
    args = parser.parse_args()
    data = {"planted": planted, "frappe": frappe}[args.data](args)
    rows: list[dict[str, Any]] = []
    for name, ranker in models(args, data.shared).items():
        row: dict[str, Any] = {"model": name, **cost(ranker, data.train, args.repeats)}
        runs = [quality(ranker, data, seed) for seed in range(args.seeds)]
        row |= {metric: [float(np.mean([r[metric] for r in runs])), float(np.std([r[metric] for r in runs]))] for metric in METRICS}
        row |= {metric: float(np.mean([run[metric] for run in runs])) for metric in ("seconds", "epochs")}
        rows.append(row)
        print(f"{name}: AUC {row['auc'][0]:.4f}, NE {row['ne'][0]:.4f}, {row['seconds']:.0f} s a run", file=sys.stderr, flush=True)
    print(table(rows, data.best))
    where = {"versions": versions(), "machine": platform.machine(), "threads": torch.get_num_threads()}
    settings = {"data": args.data, "rows": len(data.train), "seeds": args.seeds, "modules": args.modules, "vectors": args.vectors}
    settings |= {"ensemble": args.ensemble, "batch": data.shared["train"]["batch_size"]}
    print(json.dumps({"benchmark": "dhen", **settings, "best": data.best, "models": rows, "environment": where}))


if __name__ == "__main__":
    main()
