"""Wide & Deep: the contract, both wide parts with weights set by hand, features of one part only, the published parameter count."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.features.spec import Categorical, Crossed, FeatureSet
from palate.metrics import pointwise
from palate.nn.first_order import FirstOrder
from palate.rank.fm import FMNetwork
from palate.rank.lr import LR
from palate.rank.neural import NeuralRanker
from palate.rank.wide_deep import WideDeep, WideDeepNetwork
from palate.testing.ranker_contract import RankerContract, planted_examples, run_for
from palate.types import Batch, ConfigError, Inputs, Ragged, SparseInput


class TestLinear(RankerContract):
    ranker = WideDeep
    settings: ClassVar[dict[str, Any]] = {
        "width": 8,
        "layers": (16,),
        "train": {"epochs": 3, "batch_size": 256, "lr": 1e-2, "sparse_lr": 0.3},
    }


class TestFM(RankerContract):
    ranker = WideDeep
    settings: ClassVar[dict[str, Any]] = {
        "width": 5,
        "layers": (16,),
        "wide_part": "fm",
        "wide": ("user.taste", "item.kind"),
        "batch_norm": True,
        "dropout": 0.1,
        "train": {"epochs": 3, "batch_size": 256, "lr": 3e-2, "sparse": "dense"},
    }


def network(inputs: Inputs, width: int, layers: tuple[int, ...] = (), sparse: str = "dense", **settings: Any) -> WideDeepNetwork:
    built = WideDeep(width=width, layers=layers, train={"sparse": sparse}, **settings).build(inputs)
    assert isinstance(built, WideDeepNetwork)
    return built


def two_rows(tasks: tuple[str, ...] = ("label",)) -> tuple[Inputs, Batch]:
    inputs = Inputs(("a", "b"), (SparseInput("user", "user", 3), SparseInput("item", "item", 3), SparseInput("cross", "cross", 3)), tasks)
    dense = np.array([[2.0, 0.5], [-1.0, 0.25]], dtype=np.float32)
    sparse = {"user": Ragged.of([[1], [2]]), "item": Ragged.of([[2], [1]]), "cross": Ragged.of([[1], []])}
    return inputs, collate(Encoded(dense, sparse, inputs))


@pytest.mark.parametrize(("sparse", "width"), [("dense", 2), ("rowwise_adagrad", 4)])
def test_two_rows_by_hand(sparse: str, width: int) -> None:
    inputs, batch = two_rows()
    model = network(inputs, width, (2,), sparse, wide=("cross", "b", "item"), deep=("user", "a", "item"))
    hidden, linear = model.mlp.hidden[0], model.linear
    assert isinstance(hidden, torch.nn.Linear)
    assert isinstance(linear, FirstOrder)
    with torch.no_grad():
        wide, deep = linear.embeddings.tables(), model.embeddings.tables()
        assert (set(wide), set(deep)) == ({"cross", "item"}, {"user", "item"})
        wide["cross"][1, 0], wide["item"][1, 0], wide["item"][2, 0] = 7.0, 0.5, 0.25
        linear.dense.weight.fill_(4.0)
        for table in deep.values():
            table.zero_()
        deep["user"][1:, :2] = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
        deep["item"][1:, :2] = torch.tensor([[-1.0, 4.0], [6.0, 7.0]])
        hidden.weight.zero_()
        hidden.weight[0, 1], hidden.weight[0, width], hidden.weight[1, 2 * width] = 1.0, 0.1, -1.0
        hidden.bias.copy_(torch.tensor([0.0, 0.125]))
        model.head.weight.copy_(torch.tensor([[2.0, -4.0]]))
        model.head.bias.fill_(0.01)
        logits = model(batch)
    # row 1: wide 7 + .25 + 4 * .5. Deep: relu(2 + .6) = 2.6, relu(.125 - 2) = 0.
    # row 2: wide .5 + 4 * .25, no cross. Deep: relu(5 - .1) = 4.9, relu(.125 + 1) = 1.125.
    torch.testing.assert_close(logits, torch.tensor([[9.25 + 5.2 + 0.01], [1.5 + 9.8 - 4.5 + 0.01]]))


def test_fm_with_tables_of_its_own_by_hand() -> None:
    inputs, batch = two_rows()
    model = network(inputs, 2, (), wide_part="fm", wide=("user", "item"), deep=("user",))
    assert isinstance(model.linear, FMNetwork)
    with torch.no_grad():
        factors, first = model.linear.fields.embeddings.tables(), model.linear.first.embeddings.tables()
        factors["user"][1:] = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
        factors["item"][1:] = torch.tensor([[-1.0, 4.0], [6.0, 7.0]])
        first["user"][1:] = torch.tensor([[0.5], [0.25]])
        model.embeddings.tables()["user"][1:] = torch.tensor([[10.0, 20.0], [30.0, 50.0]])
        model.head.weight.copy_(torch.tensor([[1.0, 0.1]]))
        model.head.bias.fill_(0.01)
        logits = model(batch)
    # .5 + (1, 2).(6, 7) + 10 + 2 + .01;   .25 + (3, 5).(-1, 4) + 30 + 5 + .01
    torch.testing.assert_close(logits, torch.tensor([[0.5 + 20 + 12 + 0.01], [0.25 + 17 + 35 + 0.01]]))


@pytest.mark.parametrize("seed", range(6))
def test_oracle_parts_one_by_one(seed: int) -> None:
    # Weights and features of each part at random; the parts are added up from the tables themselves, in float64.
    rng = np.random.default_rng(seed)
    tasks, width, rows, fm = int(rng.integers(1, 3)), int(rng.integers(1, 5)), 5, bool(seed % 2)
    sparse = tuple(SparseInput(f"f{place}", f"f{place}", 9) for place in range(4))
    inputs = Inputs(tuple("abc"), sparse, tuple("xy")[:tasks])
    names = [*inputs.dense, *(f.name for f in sparse)]
    parts = {part: tuple(rng.choice(names, int(rng.integers(1, 8)), replace=False).tolist()) for part in ("wide", "deep")}
    ids = {f.name: rng.integers(1, 9, rows) for f in sparse}
    dense = rng.normal(size=(rows, 3)).astype(np.float32)
    batch = collate(Encoded(dense, {name: Ragged.of([[int(i)] for i in column]) for name, column in ids.items()}, inputs))
    model = network(inputs, width, (), wide_part="fm" if fm else "linear", **parts)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_()
        logits = model(batch).numpy()
    weights = {name: weight.detach().double().numpy() for name, weight in model.named_parameters()}
    wide, deep = ([name for name in names if name in parts[part]] for part in ("wide", "deep"))

    def table(where: str, name: str) -> Any:
        return weights[f"{where}.collection.embedding_bags.{name}.weight"]

    first = "linear.first" if fm else "linear"
    for row in range(rows):
        x = dict(zip(inputs.dense, dense[row].astype(np.float64), strict=True))
        entry = [table("embeddings", name)[ids[name][row]] for name in deep if name not in x]
        joint = np.concatenate([*entry, np.array([x[name] for name in deep if name in x])])
        for task in range(tasks):
            expected = weights["head.bias"][task] + weights["head.weight"][task] @ joint
            expected += sum(table(f"{first}.embeddings", name)[ids[name][row], task] for name in wide if name not in x)
            columns = [name for name in wide if name in x]
            expected += sum(weights[f"{first}.dense.weight"][task, place] * x[name] for place, name in enumerate(columns))
            if fm:
                own = slice(task * width, (task + 1) * width)
                vectors = [table("linear.fields.embeddings", name)[ids[name][row], own] for name in wide if name not in x]
                vectors += [x[name] * weights["linear.fields.vectors"][place, own] for place, name in enumerate(columns)]
                expected += sum(float(vectors[i] @ vectors[j]) for i in range(len(vectors)) for j in range(i))
            assert logits[row, task] == pytest.approx(float(expected), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("wide_part", ["linear", "fm"])
def test_bf16_gives_float32_logits(wide_part: str) -> None:
    inputs, batch = two_rows(("click", "buy"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(inputs, 4, (8,), wide_part=wide_part, batch_norm=True)(batch).dtype == torch.float32


def test_parameter_count_of_the_published_model() -> None:
    # Frappe: 10 categorical fields of 5,389 ids in all, width 10, 400-400-400 with batch normalisation: the BARS log says 423,280.
    rows = [*[100] * 9, 5389 - 900]
    inputs = Inputs((), tuple(SparseInput(f"f{place}", f"f{place}", size) for place, size in enumerate(rows)))
    linear, fm = (network(inputs, 10, (400, 400, 400), batch_norm=True, wide_part=part) for part in ("linear", "fm"))
    assert sum(weight.numel() for weight in linear.parameters()) == 423_280
    assert sum(weight.numel() for weight in fm.parameters()) == 423_280 + 53_890


def test_features_that_are_not_there() -> None:
    inputs, _ = two_rows()
    with pytest.raises(ConfigError, match=r"wide_deep\.wide\.users: no such key; did you mean `user`"):
        network(inputs, 4, wide=("users",))
    with pytest.raises(ConfigError, match=r"wide_deep\.deep: .*at least 1 item"):
        WideDeep(deep=())
    with pytest.raises(ConfigError, match="the deep part has nothing to look at"):
        WideDeep().build(Inputs())


def test_it_learns_an_interaction_that_lr_cannot() -> None:
    # Only the user's taste, the item's kind, and their cross: which item is wanted depends on the two together, and on neither alone.
    features = FeatureSet(
        features=(Categorical(source="user.taste"), Categorical(source="item.kind"), Crossed(of=("user.taste", "item.kind"), name="cross"))
    )
    examples = planted_examples(features, said=False).examples
    held = examples.validation[:, None] & examples.candidates.present
    found = {}
    train = {"epochs": 5, "batch_size": 256, "lr": 1e-2, "sparse_lr": 0.4}
    raw = ("user.taste", "item.kind")
    rankers: tuple[NeuralRanker, ...] = (
        WideDeep(name="the deep part", width=8, layers=(16,), wide=raw, deep=raw, train=train),
        WideDeep(name="the fm", width=8, layers=(16,), wide_part="fm", wide=raw, deep=("item.kind",), train=train),
        WideDeep(name="the cross", width=8, layers=(16,), wide=("cross",), deep=("item.kind",), train=train),
        WideDeep(name="none", width=8, layers=(16,), wide=raw, deep=("item.kind",), train=train),
        LR(train={"epochs": 5, "batch_size": 256}),
    )
    for ranker in rankers:
        scores = ranker.fit(examples, run_for(ranker)).score(examples.queries, examples.candidates, examples.encoder)
        found[ranker.name] = pointwise.auc(examples.labels[held][:, 0], scores[held][:, 0])
    assert found["lr"] > 0.9  # it has the cross too
    for name in ("the deep part", "the fm", "the cross"):
        assert found[name] > 0.9, name
    assert found["none"] < 0.65
