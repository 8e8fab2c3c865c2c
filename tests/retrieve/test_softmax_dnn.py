"""The softmax network: the contract for both softmaxes, losses by hand, and users who are told by their context alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from palate.features.encode import Encoder
from palate.features.history import History
from palate.features.spec import Categorical, FeatureSet, Sequence
from palate.retrieve.softmax_dnn import Examples, Network, SoftmaxDNN
from palate.testing.contracts import RetrieverContract, clustered, log_of, queries_of
from palate.train.trainer import Trainer
from palate.types import ConfigError, Run

QUICK: dict[str, Any] = {"width": 16, "layers": (16,), "n_negatives": 64}
TRAIN: dict[str, Any] = {"epochs": 8, "batch_size": 128, "sparse_lr": 0.1, "lr": 0.01}


def run(seed: int = 0) -> Run:
    return Run(seed=seed, train=Trainer())


class TestSampled(RetrieverContract):
    tolerance = 1e-4

    def make(self) -> SoftmaxDNN:
        return SoftmaxDNN(**QUICK, train=TRAIN)

    def run(self) -> Run:
        return run()


class TestFull(TestSampled):
    def make(self) -> SoftmaxDNN:
        return SoftmaxDNN(**QUICK, softmax="full", train=TRAIN)


EVENTS = [(0, 0), (1, 2), (0, 1), (1, 0), (0, 2), (0, 0)]  # item 0 three times of six, 2 twice, 1 once; item 3 never


@pytest.mark.parametrize("softmax", ["full", "sampled"])
def test_losses_by_hand(softmax: str) -> None:
    """A linear tower that copies the mean of the history; rows of the softmax and biases by hand; q = popularity, temperature 1/2."""
    log = log_of(EVENTS, n_items=4)
    features = FeatureSet(features=(Sequence(),))
    given: dict[str, Any] = {"width": 4, "layers": (), "features": features, "softmax": softmax, "n_negatives": 5, "power": 1.0}
    config = SoftmaxDNN(**given, temperature=0.5).config
    encoder = Encoder.fit(features, log, History.of(log))
    network = Network(config, encoder.inputs("user"), 3)
    place = np.array([0, 1, 2, 0], dtype=np.int32)
    make = Examples(config, encoder, History.of(log), place[log.item_codes], 3, seed=0)
    v, c = np.array([[1.0, 0, 0, 0], [0, 2, 0, 0], [1, 1, 0, 0]]), np.array([0.1, -0.3, 0.2])
    with torch.no_grad():
        table = network.softmax.tables()["softmax"]
        table[1:, :4], table[1:, 4] = torch.tensor(v), torch.tensor(c)
        history = network.tower.embeddings.tables()["history"]
        history.zero_()
        history[2:, :] = torch.tensor([[3.0, 0, 0, 0], [0, 4, 0, 0], [1, 1, 0, 0]])  # items 0, 2, 1, by how often they occur
        assert network.tower.mlp.head is not None
        network.tower.mlp.head.weight.copy_(torch.eye(4))
        network.tower.mlp.head.bias.zero_()
    batch = make(np.array([4, 3]))  # user 0 wants 2 after 0 and 1; user 1 wants 0 after 2
    u = np.array([[2.0, 0.5, 0, 0], [0, 4, 0, 0]])
    scores = (u @ v.T + c) / 0.5
    total = 0.0
    for row, target in enumerate((2, 0)):
        weight = np.exp(scores[row])
        if softmax == "sampled":
            weight = weight / (np.array([3, 1, 2]) / 6)
            others = sum(weight[j] for j in batch.extra["negatives"].tolist() if j != target)
            assert len(batch.extra["negatives"]) == 5
        else:
            others = weight.sum() - weight[target]
        total -= np.log(weight[target] / (weight[target] + others)) / 2
    assert network(batch).item() == pytest.approx(total, rel=1e-4)


def test_context_alone_tells_users_apart() -> None:
    """People with a phone want even items, the others odd ones; a stranger without history is served by the device."""
    rng = np.random.default_rng(0)
    device = rng.integers(0, 2, 60)
    events = [(user, int(2 * rng.integers(0, 10) + device[user])) for _ in range(12) for user in range(60)]
    log = log_of(events, 60, 20)
    names = pl.Series("device", ["phone" if device[user] == 0 else "tv" for user, _ in events])
    log = replace(log, events=log.events.with_columns(names))
    model = SoftmaxDNN(**QUICK, train=TRAIN).fit(log, run())
    assert {feature.name for feature in model.encoder.inputs("user").sparse} == {"context.device", "history", "recent"}
    stranger = replace(queries_of([[], []]), context=pl.DataFrame({"device": ["phone", "tv"]}))
    items = model.retrieve(stranger, 8).items % 2
    assert items[0].mean() < 0.2
    assert items[1].mean() > 0.8


def test_settings_that_do_not_fit_are_one_line() -> None:
    log = clustered(users=20)[0]
    with pytest.raises(ConfigError, match="softmax_dnn: a network needs a training engine"):
        SoftmaxDNN().fit(log)
    with pytest.raises(ConfigError, match=r"softmax_dnn.features.item: reads the item; the tower sees only the query"):
        SoftmaxDNN(features=FeatureSet(features=(Sequence(), Categorical(source="item")))).fit(log, run())
