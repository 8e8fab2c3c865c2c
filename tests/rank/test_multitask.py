"""Multi-task ranking: the contract, whole networks by hand, masked labels, and tasks that help each other."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from palate.config import Training
from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.features.rows import Rows
from palate.metrics import pointwise
from palate.nn.body import Body
from palate.nn.embedding import Embeddings
from palate.rank.dlrm import DLRM
from palate.rank.multitask import MultiTask, MultiTaskHead
from palate.rank.tasks import Task
from palate.testing.ranker_contract import RankerContract, planted_examples, run_for
from palate.types import Batch, ConfigError, DataError, Inputs, Ragged, SparseInput

FAST = {"epochs": 4, "batch_size": 128, "lr": 5e-3}
SMALL = {"width": 8, "body_settings": {"bottom": (16,), "top": (16,)}, "expert": (16,), "tower": (8,), "train": FAST}


class TestMMoE(RankerContract):
    ranker = MultiTask
    settings: ClassVar[dict[str, Any]] = {**SMALL, "structure": "mmoe", "experts": 2}


class TestPLE(RankerContract):
    ranker = MultiTask
    settings: ClassVar[dict[str, Any]] = {
        **SMALL,
        "structure": "ple",
        "experts": 1,
        "task_experts": 1,
        "levels": 2,
        "weighting": "uncertainty",
        "tasks": ({"name": "label"}, {"name": "second"}),
    }


class TestSharedBottomOverAPlainNetwork(RankerContract):
    ranker = MultiTask
    settings: ClassVar[dict[str, Any]] = {
        **SMALL,
        "structure": "shared_bottom",
        "body": "palate.rank.mlp:MLPRanker",
        "body_settings": {},
        "dropout": 0.1,
        "tasks": ({"name": "label", "weight": 2.0}, {"name": "second", "weight": 0.5}),
    }


def count(network: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def rows(inputs: Inputs, n: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    sparse = {f.name: Ragged.of([[int(i)] for i in rng.integers(1, f.rows, n)]) for f in inputs.sparse}
    return collate(Encoded(rng.normal(size=(n, len(inputs.dense))).astype(np.float32), sparse, inputs))


INPUTS = Inputs(("a", "b"), (SparseInput("user", "user", 5), SparseInput("item", "item", 7)), ("click", "rating", "watch_time"))
TASKS = ({"name": "click"}, {"name": "rating", "kind": "rating"}, {"name": "watch_time", "kind": "watch_time"})


def test_network_by_hand() -> None:
    """DLRM over two ids: its products (12) and z feed two experts and a gate, then a head a task, all set by hand."""
    inputs = Inputs((), (SparseInput("user", "user", 2), SparseInput("item", "item", 2)), ("one", "two"))
    ranker = MultiTask(structure="mmoe", width=2, body_settings={"top": ()}, experts=2, expert=(1,), tower=(), train={"sparse": "dense"})
    network = ranker.build(inputs)
    head = network.head
    assert isinstance(head, MultiTaskHead)
    with torch.no_grad():
        embeddings = network.embeddings
        assert isinstance(embeddings, Embeddings)
        embeddings.tables()["user"][1] = torch.tensor([1.0, 2.0])
        embeddings.tables()["item"][1] = torch.tensor([4.0, 4.0])
        for weight in head.parameters():
            weight.zero_()
        experts = head.experts.experts.experts  # type: ignore[union-attr]
        experts[0].hidden[0].weight.fill_(1.0)  # type: ignore[index, operator]
        experts[1].hidden[0].weight.fill_(10.0)  # type: ignore[index, operator]
        head.experts.gates[0].choose.weight[1] = math.log(3.0) / 12  # type: ignore[index, union-attr]
        head.towers.heads[0].weight.fill_(2.0)  # type: ignore[operator]
        head.towers.heads[1].weight.fill_(-1.0)  # type: ignore[operator]
        head.towers.heads[1].bias.fill_(0.5)  # type: ignore[operator]
        # <user, item> = 4 + 8 = 12; experts 12 and 120; task one mixes 1/4 and 3/4: 93, twice is 186; task two the mean: 66, -66 + .5
        logits = network(collate(Encoded(np.zeros((1, 0), np.float32), {"user": Ragged.of([[1]]), "item": Ragged.of([[1]])}, inputs)))
    torch.testing.assert_close(logits, torch.tensor([[186.0, -65.5]]))


def test_parameter_count_and_no_dead_ones() -> None:
    ranker = MultiTask(**{**SMALL, "structure": "ple", "experts": 2, "task_experts": 3, "tasks": TASKS, "weighting": "uncertainty"})
    network = ranker.build(INPUTS)
    own = DLRM(width=8, bottom=(16,), top=(16,)).build(replace(INPUTS, tasks=("one",)))
    experts, gates, towers = (2 + 3 * 3) * (16 * 16 + 16), 3 * 5 * 16, 3 * (16 * 8 + 8 + 8 + 1)
    assert count(network) == count(own) - (16 + 1) + experts + gates + towers + 3  # 17: DLRM's head is gone; 3 variances
    ranker.check_labels(np.array([[1, 3, 0], [0, 4, 20]], dtype=np.float32), INPUTS.tasks)
    ranker.inputs, ranker.prior = INPUTS, ranker.learn_labels(np.array([[1, 3, 0], [0, 4, 20]], dtype=np.float32), None)
    batch = replace(rows(INPUTS, 16), labels=torch.tensor([[1.0, 4.0, 0.0], [0.0, 3.0, 20.0]]).repeat(8, 1))
    dense = ranker.step(network, batch)
    dense["loss"].backward()  # type: ignore[no-untyped-call]
    dead = [name for name, weight in network.named_parameters() if "embeddings" not in name and weight.grad is None]
    assert dead == []


def test_losses_by_hand() -> None:
    ranker = MultiTask(**SMALL, tasks=({**TASKS[0], "weight": 3.0}, {**TASKS[1], "weight": 0.5}, TASKS[2]))
    labels = np.array([[1, 1, 30], [0, 5, 0], [0, np.nan, 0]], dtype=np.float32)
    ranker.inputs = INPUTS
    ranker.check_labels(labels, INPUTS.tasks)
    # mean grade 3, deviation 2; mean weight of a watch-time row (30 + 3) / 3 = 11
    prior = ranker.learn_labels(labels, None)
    np.testing.assert_allclose(prior, [0.0, 0.0, math.log(30.5 / 3.5)], rtol=1e-6)
    model = ranker.build(INPUTS)
    batch = replace(rows(INPUTS, 3), labels=torch.from_numpy(labels), weights=torch.tensor([1.0, 1.0, 2.0]))
    found = ranker.losses(model, torch.zeros(3, 3), batch)
    # click: ln 2 whatever the label; rating: z* = -1 and 1, squared 1; watch time: ln 2 (31 + 1 + 2 x 1) / 4 / 11
    click, rating, watch = math.log(2), 1.0, math.log(2) * 34 / 4 / 11
    for task, expected in (("click", click), ("rating", rating), ("watch_time", watch)):
        assert float(found[f"{task}.loss"]) == pytest.approx(expected, rel=1e-5)
    assert float(found["loss"]) == pytest.approx(3 * click + 0.5 * rating + watch, rel=1e-5)
    served = ranker.answers(torch.tensor([[0.0, 0.5, math.log(12.0)]]))
    torch.testing.assert_close(served, torch.tensor([[0.5, 4.0, 12.0]]))


def test_uncertainty_by_hand() -> None:
    ranker = MultiTask(**SMALL, tasks=TASKS, weighting="uncertainty")
    labels = np.array([[1, 1, 30], [0, 5, 0], [0, np.nan, 0]], dtype=np.float32)
    ranker.inputs = INPUTS
    ranker.check_labels(labels, INPUTS.tasks)
    ranker.learn_labels(labels, None)
    model = ranker.build(INPUTS)
    with torch.no_grad():
        model.head.log_variances.copy_(torch.tensor([math.log(2.0), math.log(4.0), 0.0]))  # type: ignore[union-attr, operator]
    batch = replace(rows(INPUTS, 3), labels=torch.from_numpy(labels))
    found = ranker.losses(model, torch.zeros(3, 3), batch)
    click, rating, watch = math.log(2), 1.0, math.log(2) * 33 / 3 / 11
    expected = click / 2 + math.log(2) / 2 + rating / 8 + math.log(4) / 2 + watch
    assert float(found["loss"].detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weighting", ["declared", "uncertainty"])
def test_masked_labels_change_nothing(weighting: str) -> None:
    """Rows whose rating is unknown do not move what only ratings teach; a batch in which no rating is known moves nothing of theirs."""
    # tables with gradients: fused ones would change in the first backward pass
    ranker = MultiTask(**{**SMALL, "train": {"sparse": "dense"}}, structure="ple", tasks=TASKS[:2], weighting=weighting)
    inputs = replace(INPUTS, tasks=INPUTS.tasks[:2])
    ranker.inputs = inputs
    known = np.array([[1, 1], [0, 5], [0, 3], [1, 4]], dtype=np.float32)
    ranker.check_labels(known, inputs.tasks)
    ranker.prior = ranker.learn_labels(known, None)
    model, batch = ranker.build(inputs), rows(inputs, 4)

    def gradients(labels: np.ndarray, which: slice) -> dict[str, torch.Tensor]:
        model.zero_grad()
        logits = model(batch)[which]
        part = replace(batch, labels=torch.from_numpy(labels[which]), weights=batch.weights[which])
        ranker.losses(model, logits, part)["loss"].backward()  # type: ignore[no-untyped-call]
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    def of_ratings(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        own = ("head.towers.towers.1.", "head.towers.heads.1.", "head.experts.levels.0.own.1.", "head.experts.levels.0.gates.1.")
        return {name: grad for name, grad in found.items() if name.startswith(own)}

    half = known.copy()
    half[2:, 1] = np.nan
    some, only = of_ratings(gradients(half, slice(0, 4))), of_ratings(gradients(known, slice(0, 2)))
    assert some
    for name, grad in some.items():
        torch.testing.assert_close(grad, only[name], msg=name)
    none = known.copy()
    none[:, 1] = np.nan
    found = gradients(none, slice(0, 4))
    assert all(bool((grad == 0).all()) for grad in of_ratings(found).values())
    if weighting == "uncertainty":
        assert float(found["head.log_variances"][1]) == 0.0
    assert all(bool(grad.isfinite().all()) for grad in found.values())


def planted_rows(n: int, seed: int, known: int) -> Rows:
    """Clicks and ratings of one hidden quality, the user's mildness plus the item's worth; ratings known for the first `known` rows only.

    Watch times follow the clicks: 40 seconds on average where clicked, longer where the quality is high.
    """
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(7)
    users, items = truth.normal(size=41), truth.normal(size=41)
    who, what = rng.integers(1, 41, n), rng.integers(1, 41, n)
    quality = (users[who] + items[what]) / 1.5
    click = rng.random(n) < 1 / (1 + np.exp(-2 * quality))
    rating = np.clip(3 + quality + 0.3 * rng.normal(size=n), 1, 5)
    rating[np.arange(n) >= known] = np.nan
    seconds = np.where(click, 40 * np.exp(0.5 * quality) * rng.exponential(1.0, n), 0.0)
    labels = np.stack([click, rating, seconds], 1).astype(np.float32)
    return Rows.of(
        Inputs((), (SparseInput("user", "user", 41), SparseInput("item", "item", 41)), INPUTS.tasks),
        None,
        np.stack([who, what], 1).astype(np.int32),
        labels,
    )


def only(table: Rows, task: int) -> Rows:
    """The same rows with one label."""
    part = table.parts[0]
    return Rows.of(replace(table.inputs, tasks=(INPUTS.tasks[task],)), None, part["ids"], part["labels"][:, [task]])


@pytest.mark.parametrize("structure", ["mmoe", "ple"])
def test_a_task_of_few_labels_learns_from_one_of_many(structure: str) -> None:
    """100 ratings of 40 users and 40 items say little of each; 8,000 clicks say what the ratings are about, and are learnt with them."""
    train, test = planted_rows(8000, seed=0, known=100), planted_rows(4000, seed=1, known=4000)
    settings: dict[str, Any] = {
        "structure": structure,
        "width": 8,
        "body_settings": {"interaction": "cat", "top": (32,)},
        "expert": (32,),
        "tower": (),
        "train": {"epochs": 5, "batch_size": 256, "lr": 5e-3, "sparse_lr": 0.1},
    }
    truth = test.labels
    together = MultiTask(**settings, tasks=TASKS)
    single = MultiTask(**{**settings, "train": {**settings["train"], "epochs": 60}}, tasks=(TASKS[1],))
    rating = together.fit_rows(train, None, run_for(together)).predict(test)
    part = train.parts[0]
    rated = Rows.of(replace(train.inputs, tasks=("rating",)), None, part["ids"][:100], part["labels"][:100, [1]])
    alone = single.fit_rows(rated, None, run_for(single)).predict(only(test, 1))
    errors = [float(np.sqrt(np.mean((p - truth[:, 1]) ** 2))) for p in (rating[:, 1], alone[:, 0])]
    constant = float(truth[:, 1].std())
    assert errors[0] < 0.85 * errors[1] < constant, (errors, constant)
    assert pointwise.auc(truth[:, 0], rating[:, 0]) > 0.75
    # watch times: served in seconds, about as many as were watched, and longer where they are longer
    found = together.quality(rating[:, None], truth[:, None])
    assert 0.75 < found["watch_time.calibration_ratio"] < 1.33
    assert set(found) >= {"logloss", "auc", "rating.rmse", "watch_time.mae", "watch_time.log_mae", "joint_loss"}
    assert found["joint_loss"] < 0.75
    assert np.corrcoef(rating[:, 2], truth[:, 2])[0, 1] > 0.4


def test_uncertainty_learns_that_a_noisy_task_matters_less() -> None:
    table = planted_rows(2000, seed=0, known=2000)
    part = table.parts[0]
    labels = part["labels"].copy()
    labels[:, 0] = np.random.default_rng(0).random(len(labels)) < 0.5  # clicks are now pure noise, ratings are not
    table = Rows.of(replace(table.inputs, tasks=INPUTS.tasks[:2]), None, part["ids"], labels[:, :2])
    ranker = MultiTask(
        width=8, weighting="uncertainty", tasks=TASKS[:2], train={"epochs": 15, "batch_size": 256, "lr": 2e-2, "sparse_lr": 0.1},
        body_settings={"interaction": "cat"},
    )  # fmt: skip
    ranker.fit_rows(table, None, run_for(ranker))
    click, rating = ranker.model.head.log_variances.tolist()  # type: ignore[union-attr]
    assert rating < click


def test_nothing_of_a_rating_is_served_outside_the_grades_of_training() -> None:
    table = planted_rows(2000, seed=0, known=500)
    ranker = MultiTask(**{**SMALL, "tasks": TASKS, "body_settings": {"interaction": "cat"}, "train": {**FAST, "epochs": 1}})
    served = ranker.fit_rows(table, planted_rows(500, seed=1, known=100), run_for(ranker)).predict(table)
    assert served[:, 1].min() >= 1.0
    assert served[:, 1].max() <= 5.0
    assert served[:, 2].min() >= 0.0
    assert "joint_loss" in ranker.curves
    assert "rating.rmse" in ranker.curves
    assert np.isfinite(served).all()


@pytest.mark.parametrize("body", ["dlrm", "mlp", "dcn", "dcn_v2", "dhen"])
def test_any_body_will_do(body: str) -> None:
    network = MultiTask(body=body, width=8, tasks=TASKS).build(INPUTS)
    assert isinstance(network, Body)
    logits = network.eval()(rows(INPUTS, 4))
    assert logits.shape == (4, 3)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"body": "dlmr"}, "no component 'dlmr'; did you mean 'dlrm'"),
        ({"body": "gbdt"}, "multitask.body: 'gbdt' has no network of its own; it can be .*dlrm.*, or a ranker of yours"),
        ({"body": "multitask"}, "multitask.body: 'multitask' has no network of its own"),
        ({"body_settings": {"botom": (4,)}}, "dlrm.botom: no such key; did you mean `bottom`"),
        ({"body_settings": {"width": 4}}, "multitask.body_settings.width: say it of multitask itself"),
        ({"weighting": "uncertainty", "tasks": ({"name": "click", "weight": 2.0},)}, "leave their `weight` out"),
        ({"tasks": ({"name": "a"}, {"name": "a"})}, "two are called 'a'"),
        ({"tasks": TASKS, "blend": "click * ratting"}, "blend: position 9: 'ratting' is no task, did you mean 'rating'"),
        ({"blend": "click"}, "'click' is no task"),
        ({"expert": ()}, r"multitask\.expert"),
        ({"tasks": ({"name": "click", "kin": "click"},)}, r"multitask\.tasks\.0\.kin: no such key; did you mean `kind`"),
    ],
)
def test_mistakes_are_found_before_the_data(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MultiTask(**settings)


def test_other_rankers_learn_clicks_only() -> None:
    with pytest.raises(ConfigError, match="'rating' is a rating, this ranker learns only clicks; use = \"multitask\" learns all"):
        DLRM(tasks=({"name": "rating", "kind": "rating"},))
    assert DLRM(tasks=({"name": "click"}, {"name": "buy"})).config.tasks[1] == Task(name="buy")


def test_a_body_without_a_representation_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"multitask\.body: the network of 'lr' has no representation for experts to read; it can be .*dlrm"
    ):
        MultiTask(body="lr", width=1, tasks=TASKS, train={"sparse": "dense"}).build(INPUTS)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, 0.5, r"task 'click': a label is 0\.5; it must be 0, 1 or NaN"),
        (1, np.inf, "task 'rating': a label is inf; it must be a finite grade or NaN"),
        (2, -3.0, "task 'watch_time': a label is -3; it must be seconds, 0 or more, or NaN"),
    ],
)
def test_labels_of_another_kind_are_refused(place: int, value: float, message: str) -> None:
    table = planted_rows(50, seed=0, known=20)
    table.parts[0]["labels"][3, place] = value
    ranker = MultiTask(**SMALL, tasks=TASKS)
    with pytest.raises(DataError, match=message):
        ranker.fit_rows(table, None, run_for(ranker))


def test_other_names_than_the_labels_are_refused() -> None:
    ranker = MultiTask(**SMALL, tasks=({"name": "label"}, {"name": "third"}))
    with pytest.raises(ConfigError, match=r"multitask\.tasks: label, third are declared, but the labels are label, second"):
        ranker.fit(planted_examples().examples, run_for(ranker))


def test_a_task_without_any_label_is_refused() -> None:
    examples = planted_examples().examples
    labels = examples.labels.copy()
    labels[:, :, 1] = np.nan
    ranker = MultiTask(**SMALL)
    with pytest.raises(DataError, match="task 'second': no row has a label to learn from"):
        ranker.fit(replace(examples, labels=labels), run_for(ranker))


def test_training_defaults_are_its_own() -> None:
    assert MultiTask(train={"epochs": 2}).config.train == Training(epochs=2, batch_size=1024, patience=2, monitor="joint_loss")
