"""FinalMLP: the contract with and without contexts, the formula by hand, the published parameter count, an interaction to learn."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.features.spec import Categorical, FeatureSet
from palate.metrics import pointwise
from palate.rank.final_mlp import FinalMLP, FinalMLPNetwork
from palate.testing.ranker_contract import RankerContract, planted_examples, run_for
from palate.types import Batch, ConfigError, Inputs, Ragged, SparseInput

PATH = {"sparse": "dense"}


class TestLearntContexts(RankerContract):
    ranker = FinalMLP
    settings: ClassVar[dict[str, Any]] = {
        "width": 8,
        "mlp1": (16,),
        "mlp2": (8,),
        "fs_hidden": (8,),
        "train": {"epochs": 4, "batch_size": 128, "lr": 5e-3},
    }


class TestContexts(RankerContract):
    ranker = FinalMLP
    settings: ClassVar[dict[str, Any]] = {
        **TestLearntContexts.settings,
        "fs1_context": ("user.taste",),
        "fs2_context": ("item.kind", "item"),
        "batch_norm": True,
        "dropout1": 0.1,
    }


def one_batch() -> tuple[Inputs, Batch]:
    inputs = Inputs(("a",), (SparseInput("user", "user", 3), SparseInput("item", "item", 3)))
    dense = np.array([[2.0], [-1.0]], dtype=np.float32)
    return inputs, collate(Encoded(dense, {"user": Ragged.of([[1], [2]]), "item": Ragged.of([[2], [1]])}, inputs))


def test_by_hand() -> None:
    inputs, batch = one_batch()
    ranker = FinalMLP(width=1, mlp1=(2,), mlp2=(2,), fs_hidden=(), fs1_context=("user",), heads=2, train=PATH)
    network = ranker.build(inputs)
    assert isinstance(network, FinalMLPNetwork)
    assert network.fields.vectors is not None
    first, second = network.first, network.second
    assert first.contexts is not None
    assert first.gate is not None
    assert second.gate is not None
    with torch.no_grad():
        network.fields.embeddings.tables()["user"].copy_(torch.tensor([[0.0], [1.0], [3.0]]))
        network.fields.embeddings.tables()["item"].copy_(torch.tensor([[0.0], [-1.0], [6.0]]))
        network.fields.vectors.copy_(torch.tensor([[0.5]]))
        first.contexts.tables()["user"].copy_(torch.tensor([[0.0], [0.0], [100.0]]))
        first.gate.out.weight.copy_(torch.tensor([[1.0], [-1.0], [0.0]]))
        for stream, weight in ((first, [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]), (second, [[1.0, 0.0, 0.0], [0.0, -1.0, 4.0]])):
            layer = stream.mlp.hidden[0]
            assert isinstance(layer, torch.nn.Linear)
            layer.weight.copy_(torch.tensor(weight))
        network.head.x.weight.copy_(torch.tensor([[1.0, 2.0]]))
        network.head.y.weight.copy_(torch.tensor([[3.0, 4.0]]))
        network.head.products.copy_(torch.tensor([[10.0], [100.0]]))
        network.head.x.bias.fill_(0.5)
        logits = network(batch)
        representation = network.represent(batch)
    # row 1: e = (1, 6, 1); its user's context is 0, so the gate is 2 sigmoid(0) = 1 everywhere:
    #   x = relu(1 + 1, 6) = (2, 6);  y = relu(1, -6 + 4) = (1, 0);  logit 2 + 12 + 3 + 0 + .5 + 10 (2 1) + 100 (6 0) = 37.5
    # row 2: e = (3, -1, -.5), context 100, gate (2, 0, 1), so (6, 0, -.5):
    #   x = relu(5.5, 0);  y = relu(3, 1 - 2) = (3, 0);  logit 5.5 + 9 + .5 + 10 (5.5 3) = 180
    torch.testing.assert_close(representation, torch.tensor([[2.0, 6.0, 1.0, 0.0], [5.5, 0.0, 3.0, 0.0]]))
    torch.testing.assert_close(logits, torch.tensor([[37.5], [180.0]]))


def count(network: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_parameter_count_of_the_published_model() -> None:
    # Frappe with a PAD and an OOV row in each of its 10 tables: 5,399 rows, of which user 959 and item 4,081. The log of BARS: 253,392.
    rows = {"user": 959, "item": 4081, **{f"f{place}": 44 for place in range(7)}, "last": 5399 - 959 - 4081 - 7 * 44}
    inputs = Inputs((), tuple(SparseInput(name, name, size) for name, size in rows.items()))
    network = FinalMLP(
        width=10,
        mlp1=(400,),
        mlp2=(100,),
        batch_norm=True,
        fs1_context=("user",),
        fs2_context=("item",),
        fs_hidden=(400,),
        heads=5,
        train=PATH,
    ).build(inputs)
    gates = 2 * ((10 * 400 + 400) + (400 * 100 + 100))
    streams = (100 * 400 + 400 + 2 * 400) + (100 * 100 + 100 + 2 * 100)
    assert count(network) == 53_990 + streams + gates + 401 + 101 + 8_000 + 9_590 + 40_810 == 253_392


def test_without_gates_and_with_several_tasks() -> None:
    inputs = Inputs(("a",), (SparseInput("user", "user", 3), SparseInput("item", "item", 3)), ("click", "buy"))
    network = FinalMLP(width=4, mlp1=(8,), mlp2=(4,), use_fs=False, heads=2, train=PATH).build(inputs)
    assert count(network) == 7 * 4 + (12 * 8 + 8) + (12 * 4 + 4) + (8 * 2 + 2) + (4 * 2 + 2) + 8 * 4 // 2 * 2
    assert network(one_batch()[1]).shape == (2, 2)


def test_only_dense_columns_and_only_sparse_features() -> None:
    for inputs in (Inputs(("a", "b")), Inputs((), (SparseInput("user", "user", 3),))):
        encoded = Encoded(
            np.ones((4, len(inputs.dense)), np.float32), {f.name: Ragged.of([[1], [2], [1], []]) for f in inputs.sparse}, inputs
        )
        assert FinalMLP(train=PATH).build(inputs)(collate(encoded)).shape == (4, 1)


def test_what_cannot_be_is_an_error() -> None:
    inputs = Inputs(("a",), (SparseInput("user", "user", 3),))
    with pytest.raises(ConfigError, match="nothing to look at"):
        FinalMLP().build(Inputs())
    with pytest.raises(ConfigError, match="no sparse feature 'a'; there are user"):
        FinalMLP(fs1_context=("a",)).build(inputs)
    with pytest.raises(ConfigError, match="do not divide"):
        FinalMLP(heads=3).build(inputs)


def test_bf16_gives_float32_logits() -> None:
    inputs, batch = one_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert FinalMLP(fs1_context=("user",)).build(inputs)(batch).dtype == torch.float32


def test_it_learns_an_interaction_that_lr_cannot() -> None:
    # LR on the same features stays below .65: test_dlrm.
    features = FeatureSet(features=(Categorical(source="user.taste"), Categorical(source="item.kind")))
    examples = planted_examples(features, said=False).examples
    held = examples.validation[:, None] & examples.candidates.present
    settings = {"fs1_context": ("user.taste",), "fs2_context": ("item.kind",)}
    train = {"epochs": 10, "batch_size": 128, "lr": 1e-2, "sparse_lr": 0.2}
    ranker = FinalMLP(width=8, mlp1=(16,), mlp2=(8,), fs_hidden=(8,), train=train, **settings)
    scores = ranker.fit(examples, run_for(ranker)).score(examples.queries, examples.candidates, examples.encoder)
    assert pointwise.auc(examples.labels[held][:, 0], scores[held][:, 0]) > 0.9
