"""Training speed of the two towers at 1 million users and 1 million items: fused tables, in-batch negatives with log-Q. One JSON line last.

    python benchmarks/two_tower.py                        # some 2 GB for the tables, 2 million events
    python benchmarks/two_tower.py --users 2000 --items 2000 --events 20000 --steps 5 --rounds 1

Measured in turn, in rounds; each figure is the median over rounds, and so is each ratio:

    dense    the towers and the loss (all B x B scores) with constant vectors in the place of the lookups: forward, backward, Adam
    loop     all of `Trainer.fit`: histories of the events, encoding, lookups, both towers, the loss, and every update

Items are drawn with popularity 1 / rank. Memory is that of the process after each round: flat, however many batches were seen. A loop that
reaches four fifths of the dense rate hides its data and its tables well. Figures mean something on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from palate.reproduce.pairs import log_of
from palate.retrieve.two_tower import TwoTower
from palate.train.trainer import Trainer
from palate.types import Batch, Log, Run


class Measured(Exception):  # noqa: N818 - not an error: the figures are there, the rest of `fit` is not wanted
    """Carries the figures out of `TwoTower.fit`."""


class Constant(nn.Module):
    """Vectors that nobody looked up, of the shape that `like` gives."""

    vectors: Tensor

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.randn_like(like) * 0.1)

    def forward(self, sparse: Any) -> Tensor:
        return self.vectors


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


def world(users: int, items: int, events: int, seed: int) -> Log:
    """Users drawn alike, items by popularity 1 / rank, strewn over their codes."""
    rng = np.random.default_rng(seed)
    rank = (items ** rng.random(events)).astype(np.int64) - 1
    return log_of(rng.integers(0, users, events), rank * 2654435761 % items, users, items, name="generated", checksum="")


class Engine:
    """Stands where `TwoTower.fit` expects its training engine, measures, and stops there."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    def __call__(self, model: nn.Module, loader: Any, step: Callable[..., Any], training: Any, **named: Any) -> dict[str, list[float]]:
        size, steps = self.options.batch, self.options.steps
        stream = (batch for _ in itertools.count() for batch in loader if len(batch) == size)
        held = list(itertools.islice(stream, 8))
        table, found = model.embeddings, model.embeddings(held[0].sparse).detach()
        parameters = [weight for name, weight in model.named_parameters() if not name.startswith("embeddings")]
        adam = torch.optim.Adam(parameters, lr=training.lr)

        def dense() -> None:
            model.embeddings = Constant(found)
            try:
                for batch in itertools.islice(itertools.cycle(held), steps):
                    adam.zero_grad()
                    loss = step(model, batch)["loss"]
                    loss.backward()
                    adam.step()
                    float(loss.detach())
            finally:
                model.embeddings = table

        def loop() -> None:
            Trainer().fit(model, Steps(stream, steps), step, training, name="two_tower", run=Run())

        rates: dict[str, list[float]] = {"dense": [], "loop": []}
        memory = []
        for round_ in range(self.options.rounds + 1):
            for name, act in (("dense", dense), ("loop", loop)):
                began = time.perf_counter()
                act()
                if round_:  # the first one warms up
                    rates[name].append(steps * size / (time.perf_counter() - began))
            memory.append(psutil.Process().memory_info().rss / 2**20)
        sizes = {"parameters": sum(weight.numel() for weight in model.parameters()), "dense": sum(w.numel() for w in parameters)}
        raise Measured({"rates": rates, "memory_mb": memory, "sizes": sizes})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", default="256,128", help="hidden layers of both towers")
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--bf16", action="store_true", help="the towers in bfloat16 autocast")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50, help="a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    layers = tuple(int(size) for size in options.layers.split(",") if size)
    train = {"epochs": 1, "batch_size": options.batch, "sparse": "rowwise_adagrad", "bf16": options.bf16}
    settings = {"width": options.width, "query_layers": layers, "item_layers": layers, "history": options.history}
    tower = TwoTower(**settings, negatives="in_batch_log_q", train=train)
    log = world(options.users, options.items, options.events, options.seed)
    began = time.perf_counter()
    try:
        tower.fit(log, Run(seed=options.seed, train=Engine(options)))
    except Measured as measured:
        found = measured.args[0]
    seconds = time.perf_counter() - began
    rates, memory = found["rates"], found["memory_mb"]
    share = statistics.median(loop / dense for loop, dense in zip(rates["loop"], rates["dense"], strict=True))
    print(f"{options.users:,} users, {options.items:,} items, {options.events:,} events, width {options.width}, batch {options.batch:,}\n")
    for name, each in rates.items():
        print(f"{name:<8}{statistics.median(each):>12,.0f} samples/s   (least {min(each):,.0f}, most {max(each):,.0f})")
    print(f"loop / dense: {share:.2f}")
    print(f"memory: {memory[1]:,.0f} MB after the first round, {memory[-1]:,.0f} MB after the last")
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": options.threads}
    size = {key: getattr(options, key) for key in ("users", "items", "events", "batch", "width", "layers", "history", "bf16")}
    figures = {"samples_per_s": {name: round(statistics.median(each)) for name, each in rates.items()}, "loop / dense": round(share, 3)}
    kept = {**figures, "memory_mb": [round(each) for each in memory], **found["sizes"], "seconds": round(seconds, 1)}
    print(json.dumps({"benchmark": "two_tower", **size, **kept, "torch": torch.__version__, **machine}))


if __name__ == "__main__":
    main()
