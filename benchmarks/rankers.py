"""Training rate of every ranker at one shape, to weigh accuracy against cost. Prints a table, then one JSON line.

    python benchmarks/rankers.py                              # Criteo-like: 13 dense columns, 26 tables, width 16, batch 4,096
    python benchmarks/rankers.py --models fm,dlrm --seconds 5

Every class in palate/rank that trains a network takes the same planted clicks (palate/data/sources/clicks.py), made once in memory, and
one step is all of it: forward, loss, backward, update of the tables and of the rest. Networks have three hidden layers of 400 wherever
they have hidden layers, and the settings of SETTINGS for what is theirs alone. The measured steps of a model in fp32 and bf16 take turns,
so that a busy moment of the machine hits both; the rate is that of the median step. MFLOPs are those of the forward pass a row, counted
by torch (multiply and add are two); tables are not in them, nor in `dense`, the parameters outside the tables.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import palate
import palate.rank
from palate.data.sources.clicks import planted_clicks
from palate.features.rows import Rows
from palate.nn.embedding import Embeddings
from palate.rank.neural import NeuralRanker
from palate.train.optim import Optimizers
from palate.types import Batch, Run

LAYERS = (400, 400, 400)
# Where a ranker's own settings are not named `layers`, or there are other parts to size.
SETTINGS: dict[str, dict[str, Any]] = {
    "DLRM": {"bottom": LAYERS, "top": LAYERS},
    "DHEN": {"bottom": (400,), "top": LAYERS, "layers": 2, "vectors": 16},
    "FinalMLP": {"mlp1": LAYERS, "mlp2": LAYERS, "fs_hidden": (400,)},
    "LR": {"width": 1},
    "MultiTask": {"body_settings": {"bottom": LAYERS, "top": LAYERS}},
    "Wukong": {"bottom": (400,), "top": LAYERS, "layers": 2, "products": 16, "mixtures": 16},
    "XDeepFM": {"cin": (64, 64)},
}
BATCHES = 8  # different ones, taken in turn


class Stepper:
    """A ranker's network as `fit_rows` would train it; a call is one step."""

    def __init__(self, ranker: NeuralRanker, rows: Rows, bf16: bool, device: str) -> None:
        self.bf16, self.device = bf16, device
        ranker.fit_rows(rows, run=Run(train=self._take))
        self.network.to(device).train()
        self.optimizers = Optimizers(self.network, ranker.config.train)

    def _take(self, model: nn.Module, loader: Any, step: Any, training: Any, **rest: Any) -> dict[str, list[float]]:
        """Stands where the trainer would, and keeps what it would be given (the last time: the network after its pre-training)."""
        self.network, self.step = model, step
        return {}

    def __call__(self, batch: Batch) -> None:
        self.optimizers.zero_grad()
        with torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.bf16):
            loss = self.step(self.network, batch)["loss"]
        loss.backward()
        self.optimizers.step()
        if self.device != "cpu":
            torch.cuda.synchronize()


def rankers() -> list[type[NeuralRanker]]:
    """Every class in palate/rank that trains a network."""
    found = []
    for path in sorted(Path(palate.rank.__path__[0]).glob("*.py")):
        module = importlib.import_module(f"palate.rank.{path.stem}")
        own = [value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__]
        found += [value for value in own if issubclass(value, NeuralRanker) and not inspect.isabstract(value)]
    return found


def settings_of(ranker: type[NeuralRanker], width: int) -> dict[str, Any]:
    """The common shape, and what is this ranker's alone."""
    own = SETTINGS.get(ranker.__name__, {})
    common: dict[str, Any] = {"width": width}
    # A `layers` that is a number counts something else.
    if "layers" in ranker.Config.model_fields and isinstance(ranker.Config.model_fields["layers"].default, tuple):
        common["layers"] = LAYERS
    return {**common, **own}


def measure(make: Callable[[], NeuralRanker], rows: Rows, batches: list[Batch], seconds: float, device: str) -> dict[str, Any]:
    """The figures of one ranker. Half of the seconds are for fp32, half for bf16."""
    steps = {"fp32": Stepper(make(), rows, False, device), "bf16": Stepper(make(), rows, True, device)}
    network = steps["fp32"].network
    tables = {id(weight): weight for module in network.modules() if isinstance(module, Embeddings) for weight in module.tables().values()}
    outside = {id(weight): weight for weight in network.parameters() if id(weight) not in tables}
    some = batches[0]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(some)
    took: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for batch in batches[:2]:
            step(batch)
    start, turn = time.perf_counter(), 0
    while turn < 3 or time.perf_counter() - start < seconds:
        for name, step in steps.items():
            before = time.perf_counter()
            step(batches[turn % len(batches)])
            took[name].append(time.perf_counter() - before)
        turn += 1
    return {
        "parameters": sum(weight.numel() for weight in (*tables.values(), *outside.values())),
        "dense": sum(weight.numel() for weight in outside.values()),
        "mflops": counter.get_total_flops() / len(some) / 1e6,
        "steps": turn,
        **{name: len(some) / statistics.median(times) for name, times in took.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", help="only these, by file name, commas between")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--ids", type=int, default=20_000, help="rows of each of the 26 tables")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each model")
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    clicks = planted_clicks(arguments.batch * BATCHES, fields=(arguments.ids - 1,) * 26, dense=13)
    rows = Rows.of(clicks.inputs, clicks.dense, clicks.ids, clicks.labels)
    batches = [batch.to(arguments.device) for batch in rows.batches(arguments.batch)]
    wanted = arguments.models.split(",") if arguments.models else None
    found: dict[str, dict[str, Any]] = {}
    for cls in rankers():
        short = cls.__module__.rpartition(".")[2]
        if wanted is None or short in wanted:
            make = partial(cls, **settings_of(cls, arguments.width))
            found[cls.__name__] = measure(make, rows, batches, arguments.seconds, arguments.device)
            print(f"{cls.__name__}: {found[cls.__name__]['fp32']:,.0f} rows/s", file=sys.stderr, flush=True)
    if not found:
        sys.exit(f"no model of {arguments.models!r}; there are {', '.join(cls.__module__.rpartition('.')[2] for cls in rankers())}")
    fastest = max(each["fp32"] for each in found.values())
    headings = ("parameters", "outside tables", "MFLOPs/row", "fp32 rows/s", "bf16 rows/s", "of fastest")
    print(f"{'model':<12}" + "".join(f"{heading:>15}" for heading in headings))
    for name, each in sorted(found.items(), key=lambda pair: -pair[1]["fp32"]):
        each["relative"] = each["fp32"] / fastest
        counts = f"{each['parameters']:>15,}{each['dense']:>15,}{each['mflops']:>15.3f}"
        print(f"{name:<12}{counts}{each['fp32']:>15,.0f}{each['bf16']:>15,.0f}{each['relative']:>15.2f}")
    device = torch.cuda.get_device_name(arguments.device) if arguments.device != "cpu" else platform.processor() or platform.machine()
    print(
        json.dumps(
            {
                "benchmark": "rankers",
                "shape": {"dense": 13, "tables": 26, "ids": arguments.ids, "width": arguments.width, "batch": arguments.batch},
                "models": {name: {key: round(value, 4) for key, value in each.items()} for name, each in found.items()},
                "device": device,
                "threads": torch.get_num_threads(),
                "palate": palate.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            }
        )
    )


if __name__ == "__main__":
    main()
