"""One model of one library, trained on given batches, in the environment of that library. `run.py` starts it; it prints one JSON line.

    python side.py fuxictr dlrm shape.json batches.safetensors --seconds 20

Each library trains as its own training step does, with Adam at 1e-3 and its own way with embedding tables. What it takes per step (a
dictionary of columns, a table of floats, ...) is made from the arrays outside the measured time, where the library's loop takes tensors,
and inside it where the library's loop makes it itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

Step = Callable[[int], None]  # trains on the batch of this number


class Shape:
    """The common shape: sizes of the tables, their width, dense columns, layers; and the batches as arrays."""

    def __init__(self, shape: Path, batches: Path) -> None:
        from safetensors.numpy import load_file

        told = json.loads(shape.read_text(encoding="utf-8"))
        self.sizes: list[int] = told["sizes"]
        self.width: int = told["width"]
        self.bottom: list[int] = told["bottom"]
        self.top: list[int] = told["top"]
        self.deep: list[int] = told["deep"]
        self.batch: int = told["batch"]
        arrays = load_file(batches)
        self.dense, self.ids, self.labels = arrays["dense"], arrays["ids"], arrays["labels"]
        self.count = len(self.labels) // self.batch
        self.dense_names = [f"I{place + 1}" for place in range(self.dense.shape[1])]
        self.sparse_names = [f"C{place + 1}" for place in range(len(self.sizes))]

    def rows(self, number: int) -> slice:
        """Where batch `number` lies; they are taken in turn."""
        start = number % self.count * self.batch
        return slice(start, start + self.batch)

    def columns(self, number: int) -> dict[str, Any]:
        """The batch as a dictionary of tensors, one a column."""
        import torch

        rows = self.rows(number)
        dense = {name: torch.from_numpy(self.dense[rows, place].copy()) for place, name in enumerate(self.dense_names)}
        sparse = {name: torch.from_numpy(self.ids[rows, place].astype("int64")) for place, name in enumerate(self.sparse_names)}
        return {**dense, **sparse}

    def label(self, number: int) -> Any:
        """The labels of the batch, float32 [B]."""
        import torch

        return torch.from_numpy(self.labels[self.rows(number), 0].astype("float32"))


def palate(model: str, shape: Shape, bf16: bool = False) -> Step:
    """Ours: the ranker's step, with the collation of each batch."""
    import torch

    from palate.features.rows import Rows
    from palate.rank.deepfm import DeepFM
    from palate.rank.dlrm import DLRM
    from palate.train.optim import Optimizers
    from palate.types import Inputs, Run, SparseInput

    sparse = tuple(SparseInput(name, name, size, "sum") for name, size in zip(shape.sparse_names, shape.sizes, strict=True))
    rows = Rows.of(Inputs(tuple(shape.dense_names), sparse), shape.dense, shape.ids, shape.labels)
    ranker = (
        DLRM(width=shape.width, bottom=tuple(shape.bottom), top=tuple(shape.top))
        if model == "dlrm"
        else DeepFM(width=shape.width, layers=tuple(shape.deep))
    )
    taken: dict[str, Any] = {}

    def take(network: Any, loader: Any, step: Any, training: Any, **rest: Any) -> dict[str, list[float]]:
        taken.update(network=network, step=step)
        return {}

    ranker.fit_rows(rows, run=Run(train=take))
    network = taken["network"].train()
    optimizers = Optimizers(network, ranker.config.train)

    def step(number: int) -> None:
        batch = rows.batch(shape.rows(number))
        optimizers.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = taken["step"](network, batch)["loss"]
        loss.backward()
        optimizers.step()

    return step


def fuxictr(model: str, shape: Shape) -> Step:
    """FuxiCTR's BaseModel with its layers (its wheel holds these, not its models of these names), its train_step."""
    import torch
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.layers import FactorizationMachine, FeatureEmbedding, InnerProductInteraction, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    features = FeatureMap("generated", ".")
    for name in shape.dense_names:
        features.features[name] = {"type": "numeric", "source": ""}
    for name, size in zip(shape.sparse_names, shape.sizes, strict=True):
        features.features[name] = {"type": "categorical", "source": "", "vocab_size": size}
    if model == "dlrm":  # the dense columns go to the bottom network, not to embeddings
        for name in shape.dense_names:
            features.features[name]["type"] = "meta"
    features.labels = ["label"]
    features.num_fields = features.get_num_fields()
    features.set_column_index()

    class DLRM(BaseModel):  # type: ignore[misc, valid-type, unused-ignore]
        def __init__(self) -> None:
            super().__init__(features, verbose=0, model_root=".", metrics=["AUC"])
            fields = len(shape.sizes) + 1
            self.embedding = FeatureEmbedding(features, shape.width)
            self.bottom = MLP_Block(len(shape.dense_names), [*shape.bottom, shape.width])
            self.dot = InnerProductInteraction(fields, output="inner_product")
            self.head = MLP_Block(shape.width + fields * (fields - 1) // 2, shape.top, output_dim=1)
            self.compile("adam", "binary_crossentropy", 1e-3)
            self.reset_parameters()

        def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
            dense = self.bottom(torch.stack([inputs[name] for name in shape.dense_names], dim=1))
            vectors = torch.cat([dense.unsqueeze(1), self.embedding({name: inputs[name] for name in shape.sparse_names})], dim=1)
            return {"y_pred": self.output_activation(self.head(torch.cat([dense, self.dot(vectors)], dim=1)))}

    class DeepFM(BaseModel):  # type: ignore[misc, valid-type, unused-ignore]
        def __init__(self) -> None:
            super().__init__(features, verbose=0, model_root=".", metrics=["AUC"])
            self.embedding = FeatureEmbedding(features, shape.width)
            self.fm = FactorizationMachine(features)
            self.deep = MLP_Block(features.num_fields * shape.width, shape.deep, output_dim=1)
            self.compile("adam", "binary_crossentropy", 1e-3)
            self.reset_parameters()

        def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
            columns = self.get_inputs(inputs)
            vectors = self.embedding(columns)
            return {"y_pred": self.output_activation(self.fm(columns, vectors) + self.deep(vectors.flatten(1)))}

    network = DLRM() if model == "dlrm" else DeepFM()
    network._max_gradient_norm = 10.0  # what its fit sets
    network.train()
    batches = [{**shape.columns(number), "label": shape.label(number)} for number in range(shape.count)]
    return lambda number: network.train_step(batches[number % shape.count]) and None


def torch_rechub(model: str, shape: Shape) -> Step:
    """torch-rechub's DeepFM and the epoch loop of its CTRTrainer, given one batch at a time."""
    import contextlib
    import io

    if model != "deepfm":
        raise NotImplementedError("it has no DLRM")
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.ranking import DeepFM
    from torch_rechub.trainers import CTRTrainer

    dense = [DenseFeature(name) for name in shape.dense_names]
    sparse = [SparseFeature(name, size, shape.width) for name, size in zip(shape.sparse_names, shape.sizes, strict=True)]
    network = DeepFM([*dense, *sparse], sparse, {"dims": shape.deep, "dropout": 0.0, "activation": "relu"})
    trainer = CTRTrainer(network, optimizer_params={"lr": 1e-3}, n_epoch=1)
    batches = [(shape.columns(number), shape.label(number)) for number in range(shape.count)]

    def step(number: int) -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            trainer.train_one_epoch([batches[number % shape.count]])

    return step


def deepctr_torch(model: str, shape: Shape) -> Step:
    """DeepCTR-Torch's DeepFM (its fit, given one batch as an epoch)."""
    if model != "deepfm":
        raise NotImplementedError("it has no DLRM")
    import contextlib
    import io

    import numpy as np
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models import DeepFM

    columns = [SparseFeat(name, size, shape.width) for name, size in zip(shape.sparse_names, shape.sizes, strict=True)]
    columns += [DenseFeat(name, 1) for name in shape.dense_names]
    network = DeepFM(columns, columns, dnn_hidden_units=tuple(shape.deep))
    network.compile("adam", "binary_crossentropy")
    batches = []
    for number in range(shape.count):
        rows = shape.rows(number)
        arrays: list[Any] = [shape.ids[rows, place].astype(np.float64) for place in range(len(shape.sizes))]
        arrays += [shape.dense[rows, place].astype(np.float64) for place in range(len(shape.dense_names))]
        batches.append((dict(zip([*shape.sparse_names, *shape.dense_names], arrays, strict=True)), shape.labels[rows].astype(np.float64)))

    def step(number: int) -> None:
        x, y = batches[number % shape.count]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            network.fit(x, y, batch_size=shape.batch, epochs=1, verbose=0, shuffle=False)

    return step


SIDES: dict[str, Callable[[str, Shape], Step]] = {
    "palate": palate,
    "palate-bf16": lambda model, shape: palate(model, shape, bf16=True),
    "fuxictr": fuxictr,
    "torch-rechub": torch_rechub,
    "deepctr-torch": deepctr_torch,
}


def timed(step: Step, seconds: float, least: int) -> Iterator[float]:
    """Seconds of each step, after one that is not counted."""
    step(0)
    number, start = 1, time.perf_counter()
    while number <= least or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        step(number)
        yield time.perf_counter() - before
        number += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=list(SIDES))
    parser.add_argument("model", choices=["dlrm", "deepfm"])
    parser.add_argument("shape", type=Path)
    parser.add_argument("batches", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--least", type=int, default=3, help="steps to measure at least")
    arguments = parser.parse_args()
    try:
        shape = Shape(arguments.shape, arguments.batches)
        took = list(timed(SIDES[arguments.library](arguments.model, shape), arguments.seconds, arguments.least))
        found: dict[str, Any] = {"rows_per_second": shape.batch / statistics.median(took), "steps": len(took)}
    except Exception as error:  # a peer may fail in any way; the table says how
        found = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:200]}
    print(json.dumps(found), file=sys.stdout)


if __name__ == "__main__":
    main()
