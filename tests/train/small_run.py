"""A small training run: for the tests, and for the processes that they start and kill."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from palate.config import Training
from palate.features.loader import Loader
from palate.nn.embedding import Embeddings
from palate.nn.mlp import MLP
from palate.train import shard as parallel
from palate.train.trainer import Trainer
from palate.types import Batch, Inputs, PalateError, Run, SparseInput

ROWS, FEATURES = 50, 3
INPUTS = Inputs(dense=("x",), sparse=tuple(SparseInput(f"f{n}", f"f{n}", ROWS, "sum") for n in range(FEATURES)))


class World:
    """A planted world: each id has a hidden weight, the label is drawn from the sigmoid of their sum."""

    def __init__(self, rows: int = 640, seed: int = 0) -> None:
        hidden = torch.randn(FEATURES, ROWS, generator=torch.Generator().manual_seed(99)) * 2
        draw = torch.Generator().manual_seed(seed)
        self.rows = rows
        self.ids = torch.randint(1, ROWS, (FEATURES, rows), generator=draw)
        self.dense = torch.rand(rows, 1, generator=draw)
        self.labels = torch.bernoulli(torch.sigmoid(hidden.gather(1, self.ids).sum(0)), generator=draw)

    def batch(self, rows: Any) -> Batch:
        which = torch.as_tensor(rows)
        keys = [feature.name for feature in INPUTS.sparse]
        sparse = KeyedJaggedTensor(keys, self.ids[:, which].reshape(-1), lengths=torch.ones(len(keys) * len(which), dtype=torch.long))
        return Batch(self.dense[which], sparse, self.labels[which][:, None], torch.ones(len(which)))

    def loader(self, batch_size: int = 64, **settings: Any) -> Loader:
        return Loader(self.rows, self.batch, batch_size, **settings)


class Net(nn.Module):
    def __init__(self, training: Training, seed: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embeddings = Embeddings(INPUTS, 4, training)
        self.mlp = MLP(FEATURES * 4 + 1, [8], dropout=dropout, out=1)

    def forward(self, batch: Batch) -> Tensor:
        return self.mlp(torch.cat([self.embeddings(batch.sparse).flatten(1), batch.dense], 1))


def bce(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    return {"loss": nn.functional.binary_cross_entropy_with_logits(model(batch), batch.labels)}


def logloss(model: nn.Module) -> Mapping[str, float]:
    """On rows that are not trained on."""
    world = World(256, seed=1)
    return {"logloss": float(bce(model, world.batch(range(256)))["loss"])}


def settings(sparse: str, **more: Any) -> Training:
    """Adam, row-wise Adagrad, dropout, schedules, early stopping, L2: a resume must bring back the state of each."""
    if sparse == "dense":
        more = {"l2": 1e-4, "clip": 1.0, "schedule": "plateau", **more}
    else:
        more = {"sparse_lr": 0.1, "schedule": "cosine", "warmup": 3, **more}
    return Training(**{"epochs": 6, "lr": 0.01, "sparse": sparse, "monitor": "logloss", "patience": 3, "checkpoint_every": 7, **more})


def train(
    folder: Path | None,
    training: Training,
    *,
    resume: bool = False,
    pause: float = 0.0,
    dropout: float = 0.2,
    stop_at: int | None = None,
    batch_size: int = 64,
    shard: tuple[int, int] = (0, 1),
    **run: Any,
) -> tuple[Net, dict[str, Any]]:
    net = Net(training, dropout=dropout)
    steps = itertools.count(1)

    def step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        time.sleep(pause)
        if next(steps) == stop_at:
            raise StoppedError
        return bce(model, batch)

    loader = World().loader(batch_size, shard=shard)
    circumstances = Run(seed=3, folder=folder, resume=resume, **run)
    return net, Trainer().fit(net, loader, step, training, name="net", run=circumstances, validate=logloss)


class StoppedError(Exception):
    pass


def child(folder: Path, sparse: str, resume: bool, pause: float, quiet: bool = True) -> None:
    """The whole life of a process that trains: what it says goes to `folder/said`, what it learnt to `folder/out.*`."""
    said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 2)
    try:
        net, curves = train(folder, settings(sparse), resume=resume, pause=pause, quiet=quiet)
    except PalateError as error:
        sys.exit(str(error))
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, folder / "out.safetensors")
    (folder / "out.json").write_text(json.dumps(curves))


WORLD_SIZE = 2


def member(
    out: Path,
    sparse: str,
    rank: int,
    port: int,
    *,
    checkpoints: bool = False,
    resume: bool = False,
    stop_at: int | None = None,
    dropout: float = 0.0,
) -> None:
    """One of WORLD_SIZE processes that train together, each with its half of every batch of 64."""
    said = os.open(out / f"said.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 2)
    # What torchrun would set.
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(WORLD_SIZE), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    parallel.join("cpu")
    try:
        net, curves = train(
            out if checkpoints else None,
            settings(sparse),
            resume=resume,
            dropout=dropout,
            stop_at=stop_at,
            batch_size=64 // WORLD_SIZE,
            shard=(rank, WORLD_SIZE),
        )
        save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, out / f"{rank}.safetensors")
        (out / f"{rank}.json").write_text(json.dumps(curves))
    except StoppedError:
        pass
    finally:
        dist.destroy_process_group()
