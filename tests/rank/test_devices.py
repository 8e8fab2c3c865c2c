"""Every ranker's network is built and run on the `meta` device: shapes without memory, and no tensor left on another device."""

from __future__ import annotations

import importlib
import inspect
from importlib.resources import files

import pytest
import torch

from palate.features.collate import collate_rows
from palate.rank.neural import NeuralRanker
from palate.types import Batch, Inputs, SparseInput


def rankers() -> list[type[NeuralRanker]]:
    """Every network of the room."""
    names = sorted(entry.name[:-3] for entry in files("palate.rank").iterdir() if entry.name.endswith(".py"))
    modules = [importlib.import_module(f"palate.rank.{name}") for name in names if name != "__init__"]
    found = [
        cls
        for module in modules
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, NeuralRanker) and cls.__module__ == module.__name__ and not inspect.isabstract(cls)
    ]
    assert len(found) > 15
    return found


INPUTS = Inputs(("x", "y"), tuple(SparseInput(name, name, 9) for name in "abcd"))


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(6, 2, generator=generator).numpy()
    ids = torch.randint(1, 9, (6, 4), generator=generator).numpy()
    return collate_rows(INPUTS, dense, ids, torch.zeros(6, 1).numpy())


@pytest.mark.parametrize("sparse", ["dense", "rowwise_adagrad"])
@pytest.mark.parametrize("ranker", rankers(), ids=lambda cls: cls.__name__)
def test_on_meta(ranker: type[NeuralRanker], sparse: str) -> None:
    with torch.device("meta"):
        network = ranker(train={"sparse": sparse}).build(INPUTS)
    assert {weight.device.type for weight in network.parameters()} == {"meta"}
    logits = network(batch().to("meta"))
    assert logits.device.type == "meta"
    assert logits.shape == (6, 1)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("ranker", rankers(), ids=lambda cls: cls.__name__)
def test_under_autocast_logits_are_float32(ranker: type[NeuralRanker]) -> None:
    network = ranker(train={"sparse": "dense"}).build(INPUTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(batch())
    assert logits.dtype == torch.float32
    assert bool(logits.isfinite().all())
