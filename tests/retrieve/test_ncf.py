"""Neural collaborative filtering: the contract for each model, equations 7-13 by hand, and pre-training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from palate.config import Training
from palate.retrieve.ncf import NCF, Examples, Network, step
from palate.testing.contracts import RetrieverContract, clustered
from palate.train.trainer import Trainer
from palate.types import ConfigError, Run

QUICK: dict[str, Any] = {"epochs": 12, "batch_size": 128, "lr": 0.02}


def run(seed: int = 0) -> Run:
    return Run(seed=seed, train=Trainer())


class TestNeuMF(RetrieverContract):
    tolerance = 1e-4

    def make(self) -> NCF:
        return NCF(factors=4, train={**QUICK, "epochs": 8}, fuse={"epochs": 2, "batch_size": 128})

    def run(self) -> Run:
        return run()


class TestGMF(TestNeuMF):
    """Fused tables."""

    def make(self) -> NCF:
        return NCF(model="gmf", factors=8, std=0.1, train={**QUICK, "sparse": "adagrad", "sparse_lr": 0.2})


def network(model: str) -> Network:
    """One user p = (1, 2 | 1, -1) and two items q = (3, -1 | 0, 2), (0.5, 1 | 1, 1); factors 2, one layer of 2."""
    config = NCF(model=model, factors=2, layers=(2,)).config
    made = Network(config, model, 1, 2, Training(sparse="dense"))
    columns = {"gmf": slice(0, 2), "mlp": slice(2, 4), "neumf": slice(0, 4)}[model]
    with torch.no_grad():
        for side, rows in (("user", [[1.0, 2, 1, -1]]), ("item", [[3.0, -1, 0, 2], [0.5, 1, 1, 1]])):
            getattr(made, side).tables()[side][1:] = torch.tensor(rows)[:, columns]
        if model != "gmf":
            made.scorer.user_in.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
            made.scorer.user_in.bias.copy_(torch.tensor([0.5, 0.0]))
            made.scorer.item_in.weight.copy_(torch.tensor([[0.0, 1.0], [3.0, 0.0]]))
        made.scorer.head.weight.copy_(torch.tensor([{"gmf": [0.5, 1.0], "mlp": [1.0, -2.0], "neumf": [0.5, 1.0, 1.0, -2.0]}[model]]))
        made.scorer.head.bias.fill_(0.25)
    return made


# phi_G = p * q = (3, -2), (.5, 2). phi_M = relu((1 + .5 + q_2, -2 + 3 q_1)) = relu(3.5, -2) = (3.5, 0), relu(2.5, 1) = (2.5, 1).
BY_HAND = {
    "gmf": [0.5 * 3 - 2 + 0.25, 0.5 * 0.5 + 2 + 0.25],
    "mlp": [3.5 + 0.25, 2.5 - 2 + 0.25],
    "neumf": [1.5 - 2 + 3.5 + 0.25, 0.25 + 2 + 2.5 - 2 + 0.25],
}


@pytest.mark.parametrize("model", ["gmf", "mlp", "neumf"])
def test_logits_and_loss_by_hand(model: str) -> None:
    made = network(model)
    batch = Examples(np.zeros(1, np.int32), np.zeros(1, np.int32), (1, 2), 1, seed=0)(np.arange(1))
    assert batch.extra["items"].tolist() == [[0, 1]]  # the only item that the user has not
    torch.testing.assert_close(made(batch), torch.tensor([BY_HAND[model]]))
    whole = made.logits(made.user.of_ids(torch.tensor([1])), made.item.of_ids(torch.tensor([1, 2])))  # type: ignore[operator,union-attr]
    torch.testing.assert_close(whole, torch.tensor([BY_HAND[model]]))
    positive, negative = BY_HAND[model]
    assert step(made, batch)["loss"].item() == pytest.approx((np.log1p(np.exp(-positive)) + np.log1p(np.exp(negative))) / 2, rel=1e-5)


def test_pre_training_by_hand() -> None:
    """Equation 13: at alpha = 1/4, NeuMF starts with a quarter of GMF's logits and three quarters of MLP's."""
    config = NCF(factors=2, layers=(2,)).config
    made = Network(config, "neumf", 1, 2, Training(sparse="dense")).start_from(network("gmf"), network("mlp"), 0.25)
    batch = Examples(np.zeros(1, np.int32), np.zeros(1, np.int32), (1, 2), 1, seed=0)(np.arange(1))
    expected = 0.25 * np.array(BY_HAND["gmf"]) + 0.75 * np.array(BY_HAND["mlp"])
    np.testing.assert_allclose(made(batch).detach().numpy()[0], expected, rtol=1e-6)


def test_negatives_are_what_the_user_has_not() -> None:
    log = clustered()[0]
    batch = Examples(log.user_codes, log.item_codes, (120, 60), 4, seed=0)(np.arange(500))
    taken = set(zip(log.user_codes.tolist(), log.item_codes.tolist(), strict=True))
    users, items = batch.extra["users"].tolist(), batch.extra["items"].tolist()
    assert all((user, row[0]) in taken and not {(user, item) for item in row[1:]} & taken for user, row in zip(users, items, strict=True))
    everything = Examples(np.zeros(3, np.int32), np.arange(3, dtype=np.int32), (1, 3), 2, seed=0)(np.arange(3))
    assert everything.extra["items"].shape == (3, 3)  # nothing is left to draw, and it ends all the same


def test_settings_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"the last of `layers` is `factors`, 8; got \(16, 4\)"):
        NCF(layers=(16, 4))
    with pytest.raises(ConfigError, match="ncf: a network needs a training engine"):
        NCF().fit(clustered(users=20)[0])
