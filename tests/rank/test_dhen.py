"""DHEN: the contract, a whole network by hand, each ensemble by hand, shapes and parameter counts by formula, gradients, learning."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import nn

from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.features.spec import Categorical, FeatureSet
from palate.metrics import pointwise
from palate.nn.dot_vectors import DotVectors
from palate.nn.field_convolution import FieldConvolution
from palate.nn.field_cross import FieldCross
from palate.nn.field_linear import FieldLinear
from palate.nn.transformer import TransformerLayer
from palate.rank.dhen import DHEN, DHENLayer, DHENNetwork, Ensemble
from palate.testing.ranker_contract import RankerContract, planted_examples, run_for
from palate.types import Batch, ConfigError, Inputs, Ragged, SparseInput

PATH = {"sparse": "dense"}
ALL = ("dot", "attention", "convolution", "linear", "cross")


class TestConcat(RankerContract):
    ranker = DHEN
    settings: ClassVar[dict[str, Any]] = {
        "width": 8,
        "vectors": 2,
        "layers": 1,
        "hidden": (8,),
        "bottom": (),
        "top": (8,),
        "train": {"epochs": 3, "batch_size": 128, "lr": 1e-2},
    }


class TestWeighted(RankerContract):
    ranker = DHEN
    settings: ClassVar[dict[str, Any]] = {**TestConcat.settings, "ensemble": "weighted", "layers": 2, "modules": ("dot", "linear")}


def some_inputs(fields: int = 4, dense: int = 3) -> Inputs:
    sparse = tuple(SparseInput(f"f{place}", f"f{place}", 7) for place in range(fields))
    return Inputs(tuple(f"x{place}" for place in range(dense)), sparse)


def some_batch(inputs: Inputs, rows: int = 6) -> Batch:
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(rows, len(inputs.dense))).astype(np.float32)
    return collate(Encoded(dense, {f.name: Ragged.of([[int(i)] for i in rng.integers(1, 7, rows)]) for f in inputs.sparse}, inputs))


def test_by_hand() -> None:
    # One layer of "dot" and "cross" over z, user and item; one vector each; sum. D = 2.
    inputs = Inputs(("a",), (SparseInput("user", "user", 3), SparseInput("item", "item", 3)))
    batch = collate(Encoded(np.array([[2.0]], np.float32), {"user": Ragged.of([[1]]), "item": Ragged.of([[2]])}, inputs))
    settings = {"width": 2, "layers": 1, "vectors": 1, "bottom": (), "top": (), "hidden": ()}
    network = DHEN(modules=("dot", "cross"), ensemble="sum", train=PATH, **settings).build(inputs)
    assert isinstance(network, DHENNetwork)
    assert network.bottom is not None
    bottom, layer = network.bottom.hidden[0], network.layers[0]
    assert isinstance(bottom, nn.Linear)
    assert isinstance(layer, DHENLayer)
    dot, cross = layer.interactions
    assert isinstance(dot, DotVectors)
    assert isinstance(cross, FieldCross)
    assert isinstance(layer.shortcut, FieldLinear)
    with torch.no_grad():
        bottom.weight.copy_(torch.tensor([[0.5], [-1.0]]))
        network.embeddings.tables()["user"].copy_(torch.tensor([[0.0, 0.0], [2.0, 3.0], [0.0, 0.0]]))
        network.embeddings.tables()["item"].copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0], [-1.0, 1.0]]))
        dot.vectors.weight.copy_(torch.tensor([[1.0, 0.0, 1.0], [0.0, 2.0, 0.0]]))
        cross.weight.weight.copy_(torch.tensor([[1.0, 1.0]]))
        cross.bias.copy_(torch.tensor([[0.0, 0.5]]))
        layer.shortcut.weight.copy_(torch.tensor([[1.0, 0.0, 2.0]]))
        layer.norm.weight.copy_(torch.tensor([3.0, 4.0]))
        layer.norm.bias.copy_(torch.tensor([0.0, 1.0]))
        network.head.weight.copy_(torch.tensor([[1.0, 10.0]]))
        network.head.bias.fill_(0.25)
        logits = network(batch)
    # z = relu(1, -2) = (1, 0), user (2, 3), item (-1, 1).
    # dot: user.z = 2, item.z = -1, item.user = 1; u = (2 + 1, -2).
    # cross: X^T X = [[1 + 4 + 1, 6 - 1], [6 - 1, 9 + 1]] = [[6, 5], [5, 10]]; u = (11, 15.5).
    # shortcut: z + 2 item = (-1, 2). Sum: (3 + 11 - 1, -2 + 15.5 + 2) = (13, 15.5).
    # norm: mean 14.25, deviation 1.25 -> (-1, 1) -> (-3, 5). Logit: -3 + 50 + .25.
    torch.testing.assert_close(logits, torch.tensor([[47.25]]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("ensemble", "shortcut"), [("concat", nn.Identity), ("sum", FieldLinear), ("weighted", FieldLinear)])
def test_ensembles_by_hand(ensemble: Ensemble, shortcut: type[nn.Module]) -> None:
    # Two linear modules of one vector each over X = (1, 2), (3, 5): u_1 = x_1 + x_2 = (4, 7), u_2 = -x_1 = (-1, -2). No norm.
    first, second = FieldLinear(2, 1), FieldLinear(2, 1)
    layer = DHENLayer([first, second], count=2, width=2, vectors=1, ensemble=ensemble)
    assert isinstance(layer.shortcut, shortcut)
    layer.norm = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 1.0]]))
        second.weight.copy_(torch.tensor([[-1.0, 0.0]]))
        if layer.weights is not None:
            assert layer.weights.tolist() == [1.0, 1.0]
            layer.weights.copy_(torch.tensor([0.5, 10.0]))
        if isinstance(layer.shortcut, FieldLinear):
            layer.shortcut.weight.copy_(torch.tensor([[0.0, 1.0]]))
    want = {
        "concat": [[4.0 + 1, 7.0 + 2], [-1.0 + 3, -2.0 + 5]],
        "sum": [[4.0 - 1 + 3, 7.0 - 2 + 5]],
        "weighted": [[2.0 - 10 + 3, 3.5 - 20 + 5]],
    }
    assert layer(torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])).tolist() == [want[ensemble]]


def test_modules_are_what_their_names_say() -> None:
    # The five modules themselves are checked by hand in tests/nn. Here: which one a name means, and that each ends in l vectors.
    ranker = DHEN(width=8, vectors=3, channels=2, kernel=5, heads=4)
    kinds = {"dot": DotVectors, "attention": TransformerLayer, "convolution": FieldConvolution, "linear": FieldLinear, "cross": FieldCross}
    for name, kind in kinds.items():
        module = ranker.interaction(name, 6)  # type: ignore[arg-type]
        assert isinstance(module[0] if isinstance(module, nn.Sequential) else module, kind)
        assert module(torch.randn(2, 6, 8)).shape == (2, 3, 8)


def counted(
    fields: int, dense: int, layers: int, ensemble: str, width: int = 8, vectors: int = 3, hidden: int = 16, channels: int = 2
) -> int:
    """The number of parameters of a DHEN of all five modules, kernel 3, bottom and top of one layer of 16, by formula."""
    m, total = fields + (dense > 0), fields * 7 * width
    total += (dense * 16 + 16) + (16 * width + width) if dense else 0
    for _ in range(layers):
        pairs = m * (m - 1) // 2
        total += (pairs * hidden + hidden) + hidden * vectors * width  # dot
        total += 12 * width**2 + 13 * width + vectors * m  # attention
        total += channels * 9 + vectors * channels * m  # convolution
        total += vectors * m  # linear
        total += 2 * vectors * width  # cross
        out = 5 * vectors if ensemble == "concat" else vectors
        total += 5 if ensemble == "weighted" else 0
        total += out * m if out != m else 0  # shortcut
        total += 2 * width  # norm
        m = out
    return total + (m * width * 16 + 16) + 16 + 1


@pytest.mark.parametrize("ensemble", ["concat", "sum", "weighted"])
@pytest.mark.parametrize("layers", [1, 2, 4, 8])
def test_shapes_and_parameter_counts(layers: int, ensemble: Literal["concat", "sum", "weighted"]) -> None:
    for fields, dense in ((4, 3), (5, 0), (1, 2)):
        inputs = some_inputs(fields, dense)
        ranker = DHEN(
            layers=layers, ensemble=ensemble, modules=ALL, width=8, vectors=3, hidden=(16,), channels=2, bottom=(16,), top=(16,), train=PATH
        )
        network = ranker.build(inputs)
        assert isinstance(network, DHENNetwork)
        assert sum(weight.numel() for weight in network.parameters()) == counted(fields, dense, layers, ensemble)
        x = torch.randn(6, fields + (dense > 0), 8)
        for layer in network.layers:
            x = layer(x)
            assert x.shape == (6, 15 if ensemble == "concat" else 3, 8)
        batch = some_batch(inputs)
        assert network.represent(batch).shape == (6, network.head.in_features) == (6, 16)
        assert network(batch).shape == (6, 1)


@pytest.mark.parametrize("ensemble", ["concat", "sum", "weighted"])
def test_a_gradient_reaches_every_parameter(ensemble: Literal["concat", "sum", "weighted"]) -> None:
    inputs = some_inputs()
    network = DHEN(layers=4, ensemble=ensemble, modules=ALL, width=8, train=PATH).build(inputs)
    network(some_batch(inputs, rows=32)).square().sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert float(weight.grad.abs().max()) > 1e-5, name


def test_modules_of_their_own_for_each_layer() -> None:
    network = DHEN(layers=2, modules=(("dot", "linear"), ("attention",)), vectors=3, train=PATH).build(some_inputs())
    assert isinstance(network, DHENNetwork)
    first, second = network.layers
    assert isinstance(first, DHENLayer)
    assert isinstance(second, DHENLayer)
    assert [type(module) for module in first.interactions] == [DotVectors, FieldLinear]
    assert isinstance(first.shortcut, FieldLinear)  # 5 vectors become 2 x 3
    assert [type(module) for module in second.interactions] == [nn.Sequential]
    assert second.shortcut.weight.shape == (3, 6)


def test_a_list_is_for_every_layer_and_survives_a_round_trip() -> None:
    config = DHEN(modules=["dot", "linear"], layers=3).config
    assert config.modules == (("dot", "linear"),)
    assert DHEN(**config.model_dump(mode="json")).config == config


def test_what_cannot_be_is_an_error() -> None:
    with pytest.raises(ConfigError, match="expected one list, or 3 for as many layers, got 2"):
        DHEN(layers=3, modules=(("dot",), ("linear",)))
    with pytest.raises(ConfigError, match="at least one"):
        DHEN(modules=())
    with pytest.raises(ConfigError, match=r"dhen\.modules.*'dots'"):
        DHEN(modules=("dots",))
    with pytest.raises(ConfigError, match="nothing to look at"):
        DHEN().build(Inputs())
    with pytest.raises(ConfigError, match='"dot" needs two vectors to multiply, got 1'):
        DHEN(modules=("dot",)).build(some_inputs(1, 0))
    with pytest.raises(ConfigError, match="do not divide"):
        DHEN(heads=3).build(some_inputs())


def test_bf16_gives_float32_logits_near_those_of_float32() -> None:
    inputs = some_inputs()
    network, batch = DHEN(modules=ALL).build(inputs), some_batch(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = network(batch)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, network(batch), rtol=0.1, atol=0.1)


def test_it_learns_an_interaction_that_lr_cannot() -> None:
    # LR on the same features stays below .65: test_dlrm.
    features = FeatureSet(features=(Categorical(source="user.taste"), Categorical(source="item.kind")))
    examples = planted_examples(features, said=False).examples
    held = examples.validation[:, None] & examples.candidates.present
    ranker = DHEN(width=8, layers=2, vectors=2, top=(16,), train={"epochs": 6, "batch_size": 128, "lr": 1e-2, "sparse_lr": 0.2})
    scores = ranker.fit(examples, run_for(ranker)).score(examples.queries, examples.candidates, examples.encoder)
    assert pointwise.auc(examples.labels[held][:, 0], scores[held][:, 0]) > 0.9
