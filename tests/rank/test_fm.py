"""FM: the contract, the formula with weights set by hand and against all pairs one by one, the published parameter count."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.features.spec import Categorical, FeatureSet
from palate.metrics import pointwise
from palate.rank.fm import FM, FMNetwork
from palate.rank.lr import LR
from palate.rank.neural import NeuralRanker
from palate.testing.ranker_contract import RankerContract, planted_examples, run_for
from palate.types import Batch, ConfigError, Inputs, Ragged, SparseInput


class TestFused(RankerContract):
    ranker = FM
    settings: ClassVar[dict[str, Any]] = {"width": 8, "train": {"epochs": 3, "batch_size": 256, "lr": 1e-2, "sparse_lr": 0.3}}


class TestDense(RankerContract):
    ranker = FM
    settings: ClassVar[dict[str, Any]] = {"width": 5, "train": {"epochs": 3, "batch_size": 256, "lr": 4e-2, "sparse": "dense"}}


def network(inputs: Inputs, width: int, **train: Any) -> FMNetwork:
    built = FM(width=width, train={"sparse": "dense", **train}).build(inputs)
    assert isinstance(built, FMNetwork)
    return built


def two_rows(tasks: tuple[str, ...] = ("label",)) -> tuple[Inputs, Batch]:
    inputs = Inputs(("a",), (SparseInput("user", "user", 3), SparseInput("genres", "genres", 4, "mean")), tasks)
    dense = np.array([[2.0], [-1.0]], dtype=np.float32)
    return inputs, collate(Encoded(dense, {"user": Ragged.of([[1], [2]]), "genres": Ragged.of([[1, 3], []])}, inputs))


def test_starts_near_zero_but_not_dead() -> None:
    inputs, batch = two_rows()
    fm = network(inputs, 4)
    logits = fm(batch)
    assert logits.abs().max() < 0.01
    logits.sum().backward()
    for table in fm.fields.embeddings.tables().values():
        assert table.grad is not None
        assert table.grad.abs().max() > 1e-4


@pytest.mark.parametrize("sparse", ["dense", "adagrad"])
def test_two_rows_by_hand(sparse: str) -> None:
    inputs, batch = two_rows()
    fm = network(inputs, 4, sparse=sparse)
    assert fm.fields.vectors is not None
    with torch.no_grad():
        fm.first.dense.weight.fill_(0.5)
        fm.first.dense.bias.fill_(0.1)
        first, factors = fm.first.embeddings.tables(), fm.fields.embeddings.tables()
        first["user"][:, 0] = torch.tensor([0.0, 3.0, -2.0])
        first["genres"][:, 0] = torch.tensor([0.0, 4.0, 9.0, 6.0])
        for table in (*factors.values(), fm.fields.vectors):
            table.zero_()
        factors["user"][1:, :2] = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
        factors["genres"][1:, :2] = torch.tensor([[-1.0, 4.0], [9.0, 9.0], [3.0, 0.0]])
        fm.fields.vectors[0, :2] = torch.tensor([0.25, -1.0])
        logits = fm(batch)
    # row 1: first .1 + .5 * 2 + 3 + (4 + 6) / 2 = 9.1. Fields: a = 2 (.25, -1) = (.5, -2), user (1, 2), genres (1, 2), the mean of
    #        two. a.user .5 - 4 = -3.5, a.genres the same, user.genres 5.  9.1 - 7 + 5
    # row 2: first .1 - .5 - 2 = -2.4. a = (-.25, 1), user (3, 5), no genres: a.user -.75 + 5
    torch.testing.assert_close(logits, torch.tensor([[7.1], [1.85]]))


def test_two_tasks_by_hand() -> None:
    inputs, batch = two_rows(("click", "buy"))
    fm = network(inputs, 2)
    assert fm.fields.vectors is not None
    with torch.no_grad():
        for table in (*fm.fields.embeddings.tables().values(), fm.fields.vectors):
            table.zero_()
        fm.fields.vectors[0] = torch.tensor([1.0, 0.0, 0.0, 1.0])
        fm.fields.embeddings.tables()["user"][1] = torch.tensor([5.0, 6.0, 7.0, 8.0])
        fm.first.dense.bias.copy_(torch.tensor([0.5, -0.5]))
        logits = fm(batch)
    torch.testing.assert_close(logits, torch.tensor([[0.5 + 2 * 5, -0.5 + 2 * 8], [0.5, -0.5]]))


@pytest.mark.parametrize("seed", range(8))
def test_oracle_all_pairs_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tasks, width, rows = int(rng.integers(1, 4)), int(rng.integers(1, 6)), 7
    sparse = tuple(SparseInput(f"f{place}", f"t{place % 2}", 9, ("sum", "mean")[place % 2]) for place in range(int(rng.integers(0, 5))))
    inputs = Inputs(tuple("abc")[: int(rng.integers(0, 4))], sparse, tuple("xyz")[:tasks])
    bags = {f.name: [rng.integers(1, 9, rng.integers(0, 4)).tolist() for _ in range(rows)] for f in sparse}
    dense = rng.normal(size=(rows, len(inputs.dense))).astype(np.float32)
    fm = network(inputs, width)
    with torch.no_grad():
        for weight in fm.parameters():
            weight.normal_()
        logits = fm(collate(Encoded(dense, {name: Ragged.of(bag) for name, bag in bags.items()}, inputs))).numpy()
        bias, weights = fm.first.dense.bias.tolist(), fm.first.dense.weight.tolist()
    first = {name: table.detach().double().numpy() for name, table in fm.first.embeddings.tables().items()}
    factors = {name: table.detach().double().numpy() for name, table in fm.fields.embeddings.tables().items()}
    for row in range(rows):
        for task in range(tasks):
            expected = bias[task]
            vectors = []
            for f in sparse:
                bag = bags[f.name][row]
                share = 1 / len(bag) if f.pooling == "mean" and bag else 1.0
                expected += share * sum(first[f.table][i, task] for i in bag)
                vectors.append(share * sum((factors[f.table][i, task * width : (task + 1) * width] for i in bag), np.zeros(width)))
            for place in range(len(inputs.dense)):
                assert fm.fields.vectors is not None
                expected += weights[task][place] * dense[row, place]
                own = fm.fields.vectors[place, task * width : (task + 1) * width].detach().double().numpy()
                vectors.append(dense[row, place] * own)
            expected += sum(float(vectors[i] @ vectors[j]) for i in range(len(vectors)) for j in range(i))
            assert logits[row, task] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_bf16_gives_float32_logits() -> None:
    inputs, batch = two_rows(("click", "buy"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(inputs, 4)(batch).dtype == torch.float32


def test_the_columns_that_only_the_kernels_need_stay_zero() -> None:
    examples = planted_examples().examples
    ranker = FM(width=4, train={"epochs": 1, "batch_size": 512})
    ranker.fit(examples, run_for(ranker))
    assert isinstance(ranker.model, FMNetwork)
    for table in ranker.model.first.embeddings.tables().values():
        assert table.shape[1] == 4
        assert table[:, :2].abs().max() > 0
        assert table[:, 2:].abs().max() == 0


def test_parameter_count_of_the_published_model() -> None:
    # Frappe: 10 categorical fields of 5,389 ids in all, width 10: 11 numbers an id and the bias, the BARS log says 59,280.
    rows = [*[100] * 9, 5389 - 900]
    inputs = Inputs((), tuple(SparseInput(f"f{place}", f"f{place}", size) for place, size in enumerate(rows)))
    assert sum(weight.numel() for weight in network(inputs, 10).parameters()) == 59_280


def test_widths_that_the_kernels_do_not_take_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"fm\.width: fused tables take multiples of 4, got 6"):
        FM(width=6).build(two_rows()[0])


def test_it_learns_an_interaction_that_lr_cannot() -> None:
    # Only the user's taste and the item's kind: which item is wanted depends on the two together, and on neither alone.
    features = FeatureSet(features=(Categorical(source="user.taste"), Categorical(source="item.kind")))
    examples = planted_examples(features, said=False).examples
    held = examples.validation[:, None] & examples.candidates.present
    found = {}
    rankers: tuple[NeuralRanker, ...] = (
        FM(width=8, train={"epochs": 5, "batch_size": 256, "sparse_lr": 0.4}),
        LR(train={"epochs": 5, "batch_size": 256}),
    )
    for ranker in rankers:
        scores = ranker.fit(examples, run_for(ranker)).score(examples.queries, examples.candidates, examples.encoder)
        found[ranker.name] = pointwise.auc(examples.labels[held][:, 0], scores[held][:, 0])
    assert found["fm"] > 0.9
    assert found["lr"] < 0.65
