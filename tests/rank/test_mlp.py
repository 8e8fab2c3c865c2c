"""MLPRanker: the contract as a plain network and as NeuMF, both by hand, parameter counts, and an interaction that LR cannot learn."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from palate.config import Training
from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.features.spec import Categorical, FeatureSet
from palate.metrics import pointwise
from palate.nn.embedding import Embeddings
from palate.rank.lr import LR
from palate.rank.mlp import MLPNetwork, MLPRanker
from palate.rank.neural import NeuralRanker
from palate.testing.ranker_contract import RankerContract, planted_examples, run_for
from palate.types import Batch, ConfigError, Inputs, Ragged, SparseInput

DENSE = Training(sparse="dense")
PATH = {"train": {"sparse": "dense"}}


class TestPlain(RankerContract):
    ranker = MLPRanker
    settings: ClassVar[dict[str, Any]] = {"width": 8, "layers": (16,), "train": {"epochs": 4, "batch_size": 128, "lr": 5e-3}}


class TestNeuMF(RankerContract):
    ranker = MLPRanker
    settings: ClassVar[dict[str, Any]] = {**TestPlain.settings, "product": ("user.taste", "item.kind"), "product_width": 4, "dropout": 0.1}


def one_batch() -> tuple[Inputs, Batch]:
    inputs = Inputs(("a", "b"), (SparseInput("user", "user", 3), SparseInput("item", "item", 3)))
    dense = np.array([[2.0, 0.5], [-1.0, 1.0]], dtype=np.float32)
    return inputs, collate(Encoded(dense, {"user": Ragged.of([[1], [2]]), "item": Ragged.of([[2], [1]])}, inputs))


def set_tables(embeddings: Embeddings) -> None:
    tables = embeddings.tables()
    tables["user"].copy_(torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 5.0]]))
    tables["item"].copy_(torch.tensor([[0.0, 0.0], [-1.0, 4.0], [6.0, 7.0]]))


def test_plain_by_hand() -> None:
    inputs, batch = one_batch()
    network = MLPNetwork(inputs, Embeddings(inputs, 2, DENSE), layers=(2,))
    assert network.tower is not None
    layer = network.tower.hidden[0]
    assert isinstance(layer, torch.nn.Linear)
    with torch.no_grad():
        set_tables(network.embeddings)
        layer.weight.copy_(torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, -1.0, 0.0, 10.0]]))
        layer.bias.copy_(torch.tensor([0.5, 0.0]))
        network.head.weight.copy_(torch.tensor([[2.0, 3.0]]))
        network.head.bias.fill_(0.25)
        logits = network(batch)
    # x of row 1: user (1, 2), item (6, 7), a 2, b .5: relu(1 + 6 + 2 + .5, 2 - 7 + 5) = (9.5, 0).
    # x of row 2: user (3, 5), item (-1, 4), a -1, b 1: relu(3 - 1 - 1 + .5, 5 - 4 + 10) = (1.5, 11).
    torch.testing.assert_close(logits, torch.tensor([[19.25], [3.0 + 33.0 + 0.25]]))


def test_neumf_by_hand() -> None:
    inputs, batch = one_batch()
    product = Embeddings(inputs, 2, DENSE)
    network = MLPNetwork(inputs, Embeddings(inputs, 2, DENSE), layers=(), product=product, columns=[1])
    with torch.no_grad():
        set_tables(product)
        for table in network.embeddings.tables().values():
            table.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        network.head.weight.copy_(torch.tensor([[1.0, 0.1, 100.0, 200.0, 300.0, 400.0, 1000.0]]))
        network.head.bias.zero_()
        logits = network(batch)
    # row 1: (1, 2) * (6, 7) = (6, 14): 7.4; tower: user (1, 0), item (0, 1): 100 + 400; b .5: 500.
    # row 2: (3, 5) * (-1, 4) = (-3, 20): -1; tower: user (0, 1), item (1, 0): 200 + 300; b 1: 1000.
    torch.testing.assert_close(logits, torch.tensor([[7.4 + 500 + 500], [-1.0 + 500 + 1000]]))


def test_gmf_by_hand() -> None:
    inputs, batch = one_batch()
    network = MLPRanker(width=2, only=(), product=("user", "item"), **PATH).build(inputs)
    assert isinstance(network, MLPNetwork)
    assert network.tower is None
    assert network.product is not None
    with torch.no_grad():
        set_tables(network.product)
        network.head.weight.fill_(1.0)
        network.head.bias.zero_()
        torch.testing.assert_close(network(batch), torch.tensor([[20.0], [17.0]]))


def count(network: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_parameter_count_of_the_published_dnn() -> None:
    # Frappe: 10 fields of 5,389 ids in all, width 10, 400-400-400 with batch normalisation: the log of BARS says 417,891.
    rows = [*[100] * 9, 5389 - 900]
    inputs = Inputs((), tuple(SparseInput(f"f{place}", f"f{place}", size) for place, size in enumerate(rows)))
    assert count(MLPRanker(width=10, layers=(400, 400, 400), batch_norm=True, **PATH).build(inputs)) == 417_891


def test_parameter_counts_of_neumf_and_tfrs() -> None:
    inputs = Inputs(("age",), (SparseInput("user", "user", 100), SparseInput("item", "item", 50), SparseInput("hour", "hour", 25)))
    neumf = MLPRanker(product=("user", "item"), only=("user", "item"), width=16, product_width=8, layers=(32, 16, 8), **PATH).build(inputs)
    assert count(neumf) == 150 * (16 + 8) + (32 * 32 + 32) + (32 * 16 + 16) + (16 * 8 + 8) + (8 + 8 + 1)
    tfrs = MLPRanker(only=("user", "item"), width=32, layers=(256, 64), **PATH).build(inputs)
    assert count(tfrs) == 150 * 32 + (64 * 256 + 256) + (256 * 64 + 64) + 65
    with_age = MLPRanker(only=("user", "item", "age"), width=32, layers=(256, 64), **PATH).build(inputs)
    assert count(with_age) == count(tfrs) + 256


def test_only_dense_columns_and_only_sparse_features() -> None:
    for inputs in (Inputs(("a", "b")), Inputs((), (SparseInput("user", "user", 3),))):
        encoded = Encoded(
            np.ones((4, len(inputs.dense)), np.float32), {f.name: Ragged.of([[1], [2], [1], []]) for f in inputs.sparse}, inputs
        )
        assert MLPRanker(**PATH).build(inputs)(collate(encoded)).shape == (4, 1)


def test_what_cannot_be_is_an_error() -> None:
    inputs = Inputs(("a",), (SparseInput("user", "user", 3), SparseInput("item", "item", 3)))
    with pytest.raises(ConfigError, match="nothing to look at"):
        MLPRanker(only=()).build(inputs)
    with pytest.raises(ConfigError, match="no sparse feature 'usr'; there are user, item"):
        MLPRanker(product=("usr", "item")).build(inputs)
    with pytest.raises(ConfigError, match="no sparse feature 'b'"):
        MLPRanker(only=("user", "b")).build(inputs)
    with pytest.raises(ConfigError, match="'user' twice"):
        MLPRanker(product=("user", "user")).build(inputs)


def test_bf16_gives_float32_logits() -> None:
    inputs, batch = one_batch()
    network = MLPRanker(width=4, product=("user", "item"), batch_norm=True).build(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(batch).dtype == torch.float32


def test_it_learns_an_interaction_that_lr_cannot() -> None:
    features = FeatureSet(features=(Categorical(source="user.taste"), Categorical(source="item.kind")))
    examples = planted_examples(features, said=False).examples
    held = examples.validation[:, None] & examples.candidates.present
    train = {"epochs": 12, "batch_size": 128, "lr": 1e-2, "sparse_lr": 0.2}
    rankers: tuple[NeuralRanker, ...] = (
        MLPRanker(name="plain", width=8, layers=(16,), train=train),
        MLPRanker(name="gmf", width=8, only=(), product=("user.taste", "item.kind"), train=train),
        LR(train={"epochs": 12, "batch_size": 128}),
    )
    found = {}
    for ranker in rankers:
        scores = ranker.fit(examples, run_for(ranker)).score(examples.queries, examples.candidates, examples.encoder)
        found[ranker.name] = pointwise.auc(examples.labels[held][:, 0], scores[held][:, 0])
    assert found["plain"] > 0.9
    assert found["gmf"] > 0.9
    assert found["lr"] < 0.65
