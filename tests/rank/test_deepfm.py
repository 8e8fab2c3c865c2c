"""DeepFM: the contract, the formula with weights set by hand and against its parts one by one, the published parameter count."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.features.spec import Categorical, FeatureSet
from palate.metrics import pointwise
from palate.rank.deepfm import DeepFM, DeepFMNetwork
from palate.rank.lr import LR
from palate.rank.neural import NeuralRanker
from palate.testing.ranker_contract import RankerContract, planted_examples, run_for
from palate.types import Batch, ConfigError, Inputs, Ragged, SparseInput


class TestFused(RankerContract):
    ranker = DeepFM
    settings: ClassVar[dict[str, Any]] = {
        "width": 8,
        "layers": (16,),
        "train": {"epochs": 3, "batch_size": 256, "lr": 1e-2, "sparse_lr": 0.2},
    }


class TestDense(RankerContract):
    ranker = DeepFM
    settings: ClassVar[dict[str, Any]] = {
        "width": 5,
        "layers": (16,),
        "batch_norm": True,
        "dropout": 0.1,
        "train": {"epochs": 3, "batch_size": 256, "lr": 3e-2, "sparse": "dense"},
    }


def network(inputs: Inputs, width: int, layers: tuple[int, ...] = (), sparse: str = "dense", **settings: Any) -> DeepFMNetwork:
    built = DeepFM(width=width, layers=layers, train={"sparse": sparse}, **settings).build(inputs)
    assert isinstance(built, DeepFMNetwork)
    return built


def two_rows(tasks: tuple[str, ...] = ("label",)) -> tuple[Inputs, Batch]:
    inputs = Inputs(("a",), (SparseInput("user", "user", 3), SparseInput("item", "item", 3)), tasks)
    encoded = Encoded(np.array([[2.0], [-1.0]], dtype=np.float32), {"user": Ragged.of([[1], [2]]), "item": Ragged.of([[2], [1]])}, inputs)
    return inputs, collate(encoded)


@pytest.mark.parametrize(("sparse", "width"), [("dense", 2), ("rowwise_adagrad", 4)])
def test_two_rows_by_hand(sparse: str, width: int) -> None:
    inputs, batch = two_rows()
    deepfm = network(inputs, width, (2,), sparse)
    assert deepfm.fm.fields.vectors is not None
    first, factors = deepfm.fm.first.embeddings.tables(), deepfm.fm.fields.embeddings.tables()
    hidden = deepfm.deep.hidden[0]
    assert isinstance(hidden, torch.nn.Linear)
    with torch.no_grad():
        first["user"][:, 0] = torch.tensor([0.0, 3.0, -2.0])
        first["item"][:, 0] = torch.tensor([0.0, 0.5, 0.25])
        deepfm.fm.first.dense.weight.fill_(0.5)
        for table in (*factors.values(), deepfm.fm.fields.vectors):
            table.zero_()
        factors["user"][1:, :2] = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
        factors["item"][1:, :2] = torch.tensor([[-1.0, 4.0], [6.0, 7.0]])
        deepfm.fm.fields.vectors[0, :2] = torch.tensor([0.25, -1.0])
        hidden.weight.zero_()
        hidden.weight[0, 0], hidden.weight[0, width + 1], hidden.weight[1, 2 * width] = 1.0, 0.1, -1.0
        hidden.bias.copy_(torch.tensor([0.0, 0.125]))
        deepfm.head.weight.copy_(torch.tensor([[2.0, -4.0]]))
        deepfm.head.bias.fill_(0.01)
        logits = deepfm(batch)
    # row 1: user (1, 2), item (6, 7), a (.5, -2). First 3 + .25 + 1. Pairs 6 + 14, .5 - 4, 3 - 14. Hidden: relu(1 + .7, .125 - .5).
    # row 2: user (3, 5), item (-1, 4), a (-.25, 1). First -2 + .5 - .5. Pairs -3 + 20, -.75 + 5, .25 + 4. Hidden: relu(3 + .4, .375).
    torch.testing.assert_close(logits, torch.tensor([[4.25 + 20 - 3.5 - 11 + 3.4 + 0.01], [-2 + 17 + 4.25 + 4.25 + 6.8 - 1.5 + 0.01]]))


@pytest.mark.parametrize("seed", range(6))
def test_oracle_parts_one_by_one(seed: int) -> None:
    # Weights at random; the parts are added up from the tables themselves, in float64, pair by pair and unit by unit.
    rng = np.random.default_rng(seed)
    tasks, width, rows = int(rng.integers(1, 3)), int(rng.integers(1, 5)), 5
    sparse = tuple(SparseInput(f"f{place}", f"f{place}", 9) for place in range(int(rng.integers(0, 5))))
    inputs = Inputs(tuple("abc")[: int(rng.integers(1, 4))], sparse, tuple("xy")[:tasks])
    ids = {f.name: rng.integers(1, 9, rows) for f in sparse}
    dense = rng.normal(size=(rows, len(inputs.dense))).astype(np.float32)
    batch = collate(Encoded(dense, {name: Ragged.of([[int(i)] for i in column]) for name, column in ids.items()}, inputs))
    deepfm = network(inputs, width, (3,))
    with torch.no_grad():
        for weight in deepfm.parameters():
            weight.normal_()
        logits = deepfm(batch).numpy()
    weights = {name: weight.detach().double().numpy() for name, weight in deepfm.named_parameters()}
    first = {name: table.detach().double().numpy() for name, table in deepfm.fm.first.embeddings.tables().items()}
    factors = {name: table.detach().double().numpy() for name, table in deepfm.fm.fields.embeddings.tables().items()}
    for row in range(rows):
        vectors = [factors[f.name][ids[f.name][row]] for f in sparse]
        vectors += [x * weights["fm.fields.vectors"][place] for place, x in enumerate(dense[row].astype(np.float64))]
        hidden = [
            max(0.0, float(weights["deep.hidden.0.weight"][unit] @ np.concatenate(vectors) + weights["deep.hidden.0.bias"][unit]))
            for unit in range(3)
        ]
        for task in range(tasks):
            expected = weights["head.bias"][task] + sum(weights["head.weight"][task][unit] * hidden[unit] for unit in range(3))
            expected += sum(first[f.name][ids[f.name][row], task] for f in sparse)
            expected += sum(weights["fm.first.dense.weight"][task, place] * x for place, x in enumerate(dense[row]))
            own = [vector[task * width : (task + 1) * width] for vector in vectors]
            expected += sum(float(own[i] @ own[j]) for i in range(len(own)) for j in range(i))
            assert logits[row, task] == pytest.approx(float(expected), rel=1e-4, abs=1e-4)


def test_bf16_gives_float32_logits() -> None:
    inputs, batch = two_rows(("click", "buy"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(inputs, 4, (8,), batch_norm=True)(batch).dtype == torch.float32


def test_the_representation_is_what_the_head_reads() -> None:
    inputs, batch = two_rows()
    deepfm = network(inputs, 4, (8,))
    assert deepfm.represent(batch).shape == (2, deepfm.head.in_features)


def test_parameter_count_of_the_published_model() -> None:
    # Frappe: 10 categorical fields of 5,389 ids in all, width 10, 400-400-400 with batch normalisation: the BARS log says 423,280.
    rows = [*[100] * 9, 5389 - 900]
    inputs = Inputs((), tuple(SparseInput(f"f{place}", f"f{place}", size) for place, size in enumerate(rows)))
    built = network(inputs, 10, (400, 400, 400), batch_norm=True)
    assert sum(weight.numel() for weight in built.parameters()) == 423_280


def test_nothing_to_look_at_is_an_error() -> None:
    with pytest.raises(ConfigError, match="deepfm: the network has nothing to look at"):
        DeepFM().build(Inputs())


def test_it_learns_an_interaction_that_lr_cannot() -> None:
    # Only the user's taste and the item's kind: which item is wanted depends on the two together, and on neither alone.
    features = FeatureSet(features=(Categorical(source="user.taste"), Categorical(source="item.kind")))
    examples = planted_examples(features, said=False).examples
    held = examples.validation[:, None] & examples.candidates.present
    found = {}
    rankers: tuple[NeuralRanker, ...] = (
        DeepFM(width=8, layers=(16,), train={"epochs": 5, "batch_size": 256, "lr": 1e-2, "sparse_lr": 0.4}),
        LR(train={"epochs": 5, "batch_size": 256}),
    )
    for ranker in rankers:
        scores = ranker.fit(examples, run_for(ranker)).score(examples.queries, examples.candidates, examples.encoder)
        found[ranker.name] = pointwise.auc(examples.labels[held][:, 0], scores[held][:, 0])
    assert found["deepfm"] > 0.9
    assert found["lr"] < 0.65
