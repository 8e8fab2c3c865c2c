"""FNN: the contract, the formula with weights set by hand, what the first stage hands to the second, and a run that is killed in either."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.features.rows import Rows
from palate.features.spec import Categorical, FeatureSet
from palate.metrics import pointwise
from palate.rank.fm import FM, FMNetwork
from palate.rank.fnn import FNN, FNNNetwork
from palate.rank.lr import LR
from palate.rank.neural import NeuralRanker
from palate.testing.ranker_contract import RankerContract, planted_examples, run_for
from palate.train.trainer import Trainer
from palate.types import Batch, ConfigError, Inputs, Ragged, Run, SparseInput


class TestFused(RankerContract):
    ranker = FNN
    settings: ClassVar[dict[str, Any]] = {
        "width": 8,
        "layers": (16,),
        "pretrain_epochs": 1,
        "train": {"epochs": 3, "batch_size": 256, "lr": 1e-2, "sparse_lr": 0.2},
    }


class TestDense(RankerContract):
    ranker = FNN
    settings: ClassVar[dict[str, Any]] = {
        "width": 5,
        "layers": (16,),
        "pretrain_epochs": 1,
        "pretrain_l2": 1e-5,
        "batch_norm": True,
        "dropout": 0.1,
        "train": {"epochs": 2, "batch_size": 256, "lr": 3e-2, "sparse": "dense"},
    }


def network(inputs: Inputs, width: int, layers: tuple[int, ...] = (), sparse: str = "dense", **settings: Any) -> FNNNetwork:
    built = FNN(width=width, layers=layers, train={"sparse": sparse}, **settings).build(inputs)
    assert isinstance(built, FNNNetwork)
    return built


def two_rows(tasks: tuple[str, ...] = ("label",)) -> tuple[Inputs, Batch]:
    inputs = Inputs(("a",), (SparseInput("user", "user", 3), SparseInput("genres", "genres", 4, "mean")), tasks)
    dense = np.array([[2.0], [-1.0]], dtype=np.float32)
    return inputs, collate(Encoded(dense, {"user": Ragged.of([[1], [2]]), "genres": Ragged.of([[1, 3], []])}, inputs))


@pytest.mark.parametrize("sparse", ["dense", "adagrad"])
def test_two_rows_by_hand(sparse: str) -> None:
    inputs, batch = two_rows()
    fnn = network(inputs, 4, (1,), sparse)
    hidden = fnn.mlp.hidden[0]
    assert isinstance(hidden, torch.nn.Linear)
    assert fnn.fm.fields.vectors is not None
    with torch.no_grad():
        first, factors = fnn.fm.first.embeddings.tables(), fnn.fm.fields.embeddings.tables()
        for table in (*factors.values(), fnn.fm.fields.vectors):
            table.zero_()
        fnn.fm.first.dense.bias.fill_(0.5)
        fnn.fm.first.dense.weight.fill_(0.25)
        first["user"][:, 0] = torch.tensor([0.0, 3.0, -2.0])
        first["genres"][:, 0] = torch.tensor([0.0, 4.0, 9.0, 6.0])
        factors["user"][1:, :2] = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
        factors["genres"][1:, :2] = torch.tensor([[-1.0, 4.0], [9.0, 9.0], [3.0, 0.0]])
        fnn.fm.fields.vectors[0, :2] = torch.tensor([0.75, -1.0])
        # z = w_0; w of user, genres, a; v of user, genres, a
        weights = torch.tensor([[1.0, 0.1, 0.01, -1.0, *[0.2, 0.02, 0.0, 0.0], *[0.3, 0.03, 0.0, 0.0], *[0.4, 0.04, 0.0, 0.0]]])
        hidden.weight.copy_(weights)
        hidden.bias.fill_(-1.0)
        fnn.head.weight.fill_(2.0)
        fnn.head.bias.fill_(0.125)
        logits = fnn(batch)
    # row 1: z = .5; 3, 5, .5; (1, 2), (1, 2), (1.5, -2). row 2: z = .5; -2, 0, -.25; (3, 5), (0, 0), (-.75, 1).
    one = 0.5 + 0.3 + 0.05 - 0.5 + (0.2 + 0.04) + (0.3 + 0.06) + (0.6 - 0.08) - 1
    two = 0.5 - 0.2 + 0.25 + (0.6 + 0.1) + (-0.3 + 0.04) - 1
    torch.testing.assert_close(logits, torch.tensor([[2 * np.tanh(one) + 0.125], [2 * np.tanh(two) + 0.125]], dtype=torch.float32))


@pytest.mark.parametrize("seed", range(6))
def test_oracle_parameters_one_by_one(seed: int) -> None:
    # Weights at random; z is put together from the tables, id by id, in float64.
    rng = np.random.default_rng(seed)
    tasks, width, rows = int(rng.integers(1, 4)), int(rng.integers(1, 5)), 5
    sparse = tuple(SparseInput(f"f{place}", f"f{place}", 9) for place in range(int(rng.integers(0, 5))))
    inputs = Inputs(tuple("abc")[: int(rng.integers(1, 4))], sparse, tuple("xyz")[:tasks])
    ids = {f.name: rng.integers(1, 9, rows) for f in sparse}
    dense = rng.normal(size=(rows, len(inputs.dense))).astype(np.float32)
    fnn = network(inputs, width)
    with torch.no_grad():
        for weight in fnn.parameters():
            weight.normal_()
        logits = fnn(collate(Encoded(dense, {name: Ragged.of([[int(i)] for i in column]) for name, column in ids.items()}, inputs))).numpy()
    weights = {name: weight.detach().double().numpy() for name, weight in fnn.named_parameters()}
    first = {name: table.detach().double().numpy() for name, table in fnn.fm.first.embeddings.tables().items()}
    factors = {name: table.detach().double().numpy() for name, table in fnn.fm.fields.embeddings.tables().items()}
    for row in range(rows):
        z = list(weights["fm.first.dense.bias"])
        for f in sparse:
            z += list(first[f.name][ids[f.name][row]])
        for place, x in enumerate(dense[row]):
            z += list(float(x) * weights["fm.first.dense.weight"][:, place])
        for f in sparse:
            z += list(factors[f.name][ids[f.name][row]])
        for place, x in enumerate(dense[row]):
            z += list(float(x) * weights["fm.fields.vectors"][place])
        np.testing.assert_allclose(logits[row], weights["head.weight"] @ np.array(z) + weights["head.bias"], rtol=1e-4, atol=1e-4)


def test_bf16_gives_float32_logits() -> None:
    inputs, batch = two_rows(("click", "buy"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(inputs, 4, (8,), batch_norm=True)(batch).dtype == torch.float32


def test_parameter_count() -> None:
    # Frappe: 10 categorical fields of 5,389 ids in all, width 10: an FM of 59,280 and 400-400-400 above its 1 + 10 + 100 numbers a row.
    rows = [*[100] * 9, 5389 - 900]
    inputs = Inputs((), tuple(SparseInput(f"f{place}", f"f{place}", size) for place, size in enumerate(rows)))
    built = network(inputs, 10, (400, 400, 400))
    assert sum(weight.numel() for weight in built.parameters()) == 59_280 + (111 * 400 + 400) + 2 * (400 * 400 + 400) + 401


# The two stages


def planted_rows(count: int = 1500) -> Rows:
    """A click where user and item have the same colour, which is their id modulo 3, and a column that says nothing."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 13, (count, 2)).astype(np.int32)
    inputs = Inputs(("a",), (SparseInput("user", "user", 13), SparseInput("item", "item", 13)))
    labels = (ids[:, 0] % 3 == ids[:, 1] % 3).astype(np.float32)[:, None]
    return Rows.of(inputs, rng.normal(size=(count, 1)).astype(np.float32), ids, labels)


SPARSE = pytest.mark.parametrize("sparse", ["rowwise_adagrad", "dense"])


def settings(sparse: str) -> dict[str, Any]:
    train = {"epochs": 2, "batch_size": 100, "sparse": sparse, "lr": 1e-2, "sparse_lr": 0.3, "checkpoint_every": 4}
    return {"width": 4, "layers": (8,), "pretrain_epochs": 3, "dropout": 0.2, "train": train}


@SPARSE
def test_the_network_starts_from_the_fm_that_was_trained(sparse: str) -> None:
    rows, run = planted_rows(), Run(seed=5, train=Trainer().fit)
    fnn, own = FNN(**settings(sparse)), settings(sparse)
    fm = FM(name="alone", width=4, train={**own["train"], "epochs": 3}).fit_rows(rows, run=run)
    assert isinstance(fm.model, FMNetwork)
    fnn.inputs, fnn.prior = rows.inputs, np.zeros(1, dtype=np.float32)
    model = fnn.build(rows.inputs, run.seed)
    assert isinstance(model, FNNNetwork)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    fnn.pretrain(model, rows.loader(100, seed=5), run)
    for name, weight in model.state_dict().items():
        if name.startswith("fm."):
            assert torch.equal(weight, fm.model.state_dict()[name.removeprefix("fm.")]), name
        else:
            assert torch.equal(weight, before[name]), name
    assert not any(state.any() for module in (model.fm.first, model.fm.fields) for state in module.embeddings.momentum().values())


def test_without_pretraining_there_is_no_first_stage(tmp_path: Path) -> None:
    rows = planted_rows(200)
    for epochs, stages in ((0, ["fnn"]), (1, ["fnn", "fnn.fm"])):
        folder = tmp_path / str(epochs)
        FNN(**{**settings("dense"), "pretrain_epochs": epochs}).fit_rows(rows, run=Run(train=Trainer().fit, folder=folder))
        assert sorted(path.name for path in folder.iterdir() if path.name.startswith("fnn")) == stages


def test_l2_of_the_first_stage_needs_the_dense_path_too() -> None:
    ranker = FNN(pretrain_l2=1e-6, **{**settings("adagrad")})
    with pytest.raises(ConfigError, match=r"fnn\.pretrain: .*l2 over whole tables needs sparse"):
        ranker.fit_rows(planted_rows(), run=Run(train=Trainer().fit))


class Killed(Exception):
    pass


class Mortal(FNN):
    """Dies at a step."""

    last = 10**9

    def step(self, model: Any, batch: Batch) -> Any:
        self.last -= 1
        if self.last < 0:
            raise Killed
        return super().step(model, batch)


@cache
def never_killed(sparse: str) -> Any:
    return FNN(**settings(sparse)).fit_rows(planted_rows(), run=Run(seed=5, train=Trainer().fit)).predict(planted_rows())


@SPARSE
@pytest.mark.parametrize("steps", [20, 46, 60])  # the FM takes 45, the network 30; the first checkpoint of each is after 4
def test_a_run_that_was_killed_in_either_stage_is_taken_up(sparse: str, steps: int, tmp_path: Path) -> None:
    rows = planted_rows()
    own = settings(sparse)
    mortal = Mortal(name="fnn", **own)
    mortal.last = steps
    with pytest.raises(Killed):
        mortal.fit_rows(rows, run=Run(seed=5, train=Trainer().fit, folder=tmp_path))
    again = Mortal(name="fnn", **own)
    found = again.fit_rows(rows, run=Run(seed=5, train=Trainer().fit, folder=tmp_path, resume=True)).predict(rows)
    np.testing.assert_array_equal(found, never_killed(sparse))
    assert 10**9 - again.last <= 75 - steps + 4  # at most the steps since the last checkpoint were done twice


def test_it_learns_an_interaction_that_lr_cannot() -> None:
    # Only the user's taste and the item's kind: which item is wanted depends on the two together, and on neither alone.
    features = FeatureSet(features=(Categorical(source="user.taste"), Categorical(source="item.kind")))
    examples = planted_examples(features, said=False).examples
    held = examples.validation[:, None] & examples.candidates.present
    found = {}
    train = {"epochs": 4, "batch_size": 256, "lr": 1e-2, "sparse_lr": 0.4}
    rankers: tuple[NeuralRanker, ...] = (FNN(width=8, layers=(16,), pretrain_epochs=2, train=train), LR(train=train))
    for ranker in rankers:
        scores = ranker.fit(examples, run_for(ranker)).score(examples.queries, examples.candidates, examples.encoder)
        found[ranker.name] = pointwise.auc(examples.labels[held][:, 0], scores[held][:, 0])
    assert found["fnn"] > 0.9
    assert found["lr"] < 0.65
