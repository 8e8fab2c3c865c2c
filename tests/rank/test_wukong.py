"""Wukong: the contract, a whole network by hand, shapes and parameter counts by formula, gradients, an interaction to learn."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.features.spec import Categorical, FeatureSet
from palate.metrics import pointwise
from palate.nn.field_linear import FieldLinear
from palate.rank.wukong import Wukong, WukongLayer, WukongNetwork
from palate.testing.ranker_contract import RankerContract, planted_examples, run_for
from palate.types import Batch, ConfigError, Inputs, Ragged, SparseInput

PATH = {"sparse": "dense"}


class TestWukong(RankerContract):
    ranker = Wukong
    settings: ClassVar[dict[str, Any]] = {
        "width": 8,
        "products": 4,
        "mixtures": 4,
        "rank": 4,
        "hidden": (16,),
        "bottom": (),
        "top": (16,),
        "train": {"epochs": 4, "batch_size": 128, "lr": 1e-2},
    }


def some_inputs(fields: int = 4, dense: int = 3) -> Inputs:
    sparse = tuple(SparseInput(f"f{place}", f"f{place}", 7) for place in range(fields))
    return Inputs(tuple(f"x{place}" for place in range(dense)), sparse)


def some_batch(inputs: Inputs, rows: int = 6) -> Batch:
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(rows, len(inputs.dense))).astype(np.float32)
    return collate(Encoded(dense, {f.name: Ragged.of([[int(i)] for i in rng.integers(1, 7, rows)]) for f in inputs.sparse}, inputs))


def test_by_hand() -> None:
    # One layer over z, user and item, D = 2: one vector of products (k = 1), one mixture.
    inputs = Inputs(("a",), (SparseInput("user", "user", 3), SparseInput("item", "item", 3)))
    batch = collate(Encoded(np.array([[2.0]], np.float32), {"user": Ragged.of([[1]]), "item": Ragged.of([[2]])}, inputs))
    network = Wukong(width=2, layers=1, products=1, mixtures=1, rank=1, hidden=(), bottom=(), top=(), train=PATH).build(inputs)
    assert isinstance(network, WukongNetwork)
    assert network.bottom is not None
    bottom, layer = network.bottom.hidden[0], network.layers[0]
    assert isinstance(bottom, nn.Linear)
    assert isinstance(layer, WukongLayer)
    assert isinstance(layer.shortcut, FieldLinear)
    block = layer.products
    with torch.no_grad():
        bottom.weight.copy_(torch.tensor([[0.5], [-1.0]]))
        network.embeddings.tables()["user"].copy_(torch.tensor([[0.0, 0.0], [2.0, 3.0], [0.0, 0.0]]))
        network.embeddings.tables()["item"].copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0], [-1.0, 1.0]]))
        block.mixtures.weight.copy_(torch.tensor([[1.0, 0.0, 1.0]]))
        block.norm.weight.copy_(torch.tensor([1.0, 2.0, 0.0]))
        block.norm.bias.copy_(torch.tensor([0.0, 0.0, 5.0]))
        block.vectors.weight.copy_(torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]))
        layer.mixtures.weight.copy_(torch.tensor([[0.0, 1.0, -1.0]]))
        layer.shortcut.weight.copy_(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 3.0]]))
        network.head.weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
        network.head.bias.fill_(0.25)
        logits = network(batch)
    # z = relu(1, -2) = (1, 0), user (2, 3), item (-1, 1). Y mixes z + item = (0, 1); products with z, user, item: (0, 3, 1).
    # norm: mean 4/3, variance (16 + 25 + 1) / 27 = 14/9: (-4/3, 5/3, -1/3) / sqrt(14/9) = (-4, 5, -1) / sqrt(14);
    # scaled and shifted: (-4, 10, 0) / sqrt(14) + (0, 0, 5).
    # FMB: (5, 6 / sqrt(14)). LCB: user - item = (3, 2). Shortcut: z + user = (3, 3), 3 item = (-3, 3).
    # Sums: (8, 3 + 1.6), (0, 5). A norm of two numbers is (1, -1) or (-1, 1). Logit: 1 - 10 - 100 + 1000 + .25.
    torch.testing.assert_close(logits, torch.tensor([[891.25]]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_shapes_and_parameter_counts(layers: int) -> None:
    width, products, mixtures, rank = 4, 3, 2, 2
    for fields, dense in ((4, 3), (5, 0), (1, 2)):
        inputs, m = some_inputs(fields, dense), fields + (dense > 0)
        network = Wukong(
            width=width, layers=layers, products=products, mixtures=mixtures, rank=rank, hidden=(7,), bottom=(6,), top=(9,), train=PATH
        ).build(inputs)
        want = fields * 7 * width + ((dense * 6 + 6) + (6 * width + width) if dense else 0)
        for _ in range(layers):
            want += m * rank + 2 * m * rank + (m * rank * 7 + 7) + (7 * products * width + products * width)
            want += mixtures * m + (5 * m if m != 5 else 0) + 2 * width
            m = 5
        want += (5 * width * 9 + 9) + 9 + 1
        assert sum(weight.numel() for weight in network.parameters()) == want
        assert network(some_batch(inputs)).shape == (6, 1)


def test_a_gradient_reaches_every_parameter() -> None:
    inputs = some_inputs()
    network = Wukong(layers=3, train=PATH).build(inputs)
    network(some_batch(inputs, rows=32)).square().sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert float(weight.grad.abs().max()) > 1e-5, name


def test_nothing_to_look_at_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nothing to look at"):
        Wukong().build(Inputs())


def test_bf16_gives_float32_logits_near_those_of_float32() -> None:
    inputs = some_inputs()
    network, batch = Wukong().build(inputs), some_batch(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = network(batch)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, network(batch), rtol=0.1, atol=0.1)


def test_it_learns_an_interaction_that_lr_cannot() -> None:
    # LR on the same features stays below .65: test_dlrm.
    features = FeatureSet(features=(Categorical(source="user.taste"), Categorical(source="item.kind")))
    examples = planted_examples(features, said=False).examples
    held = examples.validation[:, None] & examples.candidates.present
    settings = {"products": 4, "mixtures": 4, "rank": 4, "hidden": (16,), "top": (16,)}
    ranker = Wukong(width=8, train={"epochs": 8, "batch_size": 128, "lr": 1e-2, "sparse_lr": 0.2}, **settings)
    scores = ranker.fit(examples, run_for(ranker)).score(examples.queries, examples.candidates, examples.encoder)
    assert pointwise.auc(examples.labels[held][:, 0], scores[held][:, 0]) > 0.9
