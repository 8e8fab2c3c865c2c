"""The restricted Boltzmann machine: the contract for both kinds of units, energies and slopes by hand, and ratings it never saw."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from palate.retrieve.mf_network import id_batch
from palate.retrieve.rbm import RBM, Machine, step
from palate.testing.contracts import RetrieverContract, clustered, log_of, queries_of
from palate.train.trainer import Trainer
from palate.types import ConfigError, DataError, Run


def run(seed: int = 0) -> Run:
    return Run(seed=seed, train=Trainer())


class TestBinary(RetrieverContract):
    tolerance = 1e-4

    def make(self) -> RBM:
        return RBM(width=12, train={"epochs": 20, "batch_size": 40, "lr": 0.06})

    def run(self) -> Run:
        return run()


def machine(units: str, k: int) -> Machine:
    """Two items, two hidden units."""
    made = Machine(RBM(units=units, width=2).config, 2, k, np.full(2 * k, 0.5))
    with torch.no_grad():
        made.weight.copy_(torch.linspace(-1, 1.5, 4 * k).view(2 * k, 2))
        made.b.copy_(torch.linspace(0.3, -0.6, 2 * k))
        made.c.copy_(torch.tensor([0.2, -0.4]))
    return made


@pytest.mark.parametrize(("units", "k"), [("binary", 1), ("softmax", 3)])
def test_free_energy_and_conditionals_oracle(units: str, k: int) -> None:
    """Against the sum over all hidden states, and the ratio of energies, E(v, h) = -v'W h - b'v - c'h."""
    made = machine(units, k)
    w, b, c = (part.detach().numpy() for part in (made.weight, made.b, made.c))

    def energy(v: np.ndarray, h: np.ndarray) -> float:
        return float(-v @ w @ h - b @ v - c @ h)

    v = np.zeros(2 * k)
    v[[0, 2 * k - 1]] = 1  # the first item at its lowest level, the second at its highest
    states = [np.array(h, dtype=float) for h in product((0, 1), repeat=2)]
    weights = np.array([np.exp(-energy(v, h)) for h in states])
    visible = torch.from_numpy(v).float()[None]
    assert made.free_energy(visible).item() == pytest.approx(-np.log(weights.sum()), rel=1e-5)
    expected = sum(weight * h for weight, h in zip(weights, states, strict=True)) / weights.sum()
    np.testing.assert_allclose(made.hidden((visible, None)).detach().numpy()[0], expected, rtol=1e-5)
    h = np.array([1.0, 0.0])
    logits = made.logits(torch.from_numpy(h).float()[None]).detach().numpy()[0]
    for item in range(2):
        choices = np.eye(k) if units == "softmax" else np.array([[0.0], [1.0]])
        each = []
        for choice in choices:
            own = np.zeros(2 * k)
            own[item * k : (item + 1) * k] = choice
            each.append(np.exp(-energy(own, h)))
        said = np.exp(logits[item]) / np.exp(logits[item]).sum() if units == "softmax" else 1 / (1 + np.exp(-logits[item]))
        np.testing.assert_allclose(said, (np.array(each) / sum(each))[0 if units == "softmax" else 1 :], rtol=1e-5)


@pytest.mark.parametrize(("units", "k"), [("binary", 1), ("softmax", 3)])
def test_the_slope_is_contrastive_divergence_by_hand(units: str, k: int) -> None:
    """d loss / d W = -(v0 p(h | v0)' - v1 p(h | v1)') / B, with v1 the sample of one Gibbs step; items not rated stay missing."""
    made = machine(units, k)
    batch = id_batch(2, rows=np.array([0, 1, 1]), cells=np.array([k - 1, 0, k]))
    torch.manual_seed(5)
    step(made, batch)["loss"].backward()
    torch.manual_seed(5)
    v0, mask = made.visible(batch)
    with torch.no_grad():
        v1, means = made.reconstructed(made.hidden((v0, mask)).bernoulli(), mask)
        h0, h1 = made.hidden((v0, mask)), made.hidden((v1, mask))
        for gradient, by_hand in (
            (made.weight.grad, -(v0.t() @ h0 - v1.t() @ h1) / 2),
            (made.b.grad, -(v0 - v1).mean(0)),
            (made.c.grad, -(h0 - h1).mean(0)),
        ):
            torch.testing.assert_close(gradient, by_hand)
    if units == "softmax":
        assert v1.view(2, 2, 3).sum(2).tolist() == [[1, 0], [1, 1]]
        torch.testing.assert_close(means.view(2, 2, 3).sum(2), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))


def test_samples_follow_the_softmax() -> None:
    made = machine("softmax", 3)
    hidden, mask = torch.tensor([[1.0, 0.0]]).expand(4000, 2), torch.ones(4000, 6, dtype=torch.bool)
    torch.manual_seed(0)
    sample, means = made.reconstructed(hidden, mask)
    np.testing.assert_allclose(sample.mean(0, dtype=torch.float32).numpy(), means[0].detach().numpy(), atol=0.03)


def rated() -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """Two camps that love what the other hates (5 and 1, one in ten the other way round): log of three quarters, and all of it."""
    rng = np.random.default_rng(0)
    users, items = np.divmod(rng.permutation(60 * 24)[:1000], 24)
    loves = (users % 2 == items % 2) ^ (rng.random(1000) < 0.1)
    stars = np.where(loves, 5.0, 1.0)
    log = log_of(list(zip(users.tolist(), items.tolist(), strict=True)), 60, 24)
    log = replace(log, events=log.events.with_columns(pl.Series("value", stars, dtype=pl.Float32)), positive_value=4.0)
    return log.where(np.arange(1000) < 750), users[750:], items[750:], stars[750:]


def test_ratings_of_known_users_and_of_strangers() -> None:
    log, users, items, stars = rated()
    model = RBM(units="softmax", width=6, train={"epochs": 30, "batch_size": 20, "lr": 0.05}).fit(log, run())
    assert model.levels.tolist() == [1.0, 5.0]
    said = model.score(queries_of([[]] * len(users), users=users.tolist()), items[:, None].astype(np.int32))[:, 0]
    assert ((said >= 1) & (said <= 5)).all()
    assert np.sqrt(np.mean((said - stars) ** 2)) < 0.8 * stars.std()
    # strangers who want even items, and odd ones
    found = model.retrieve(queries_of([[0, 2, 4, 6], [1, 3, 5, 7]]), 8).items
    assert (found[0] % 2 == 0).mean() > 0.8
    assert (found[1] % 2 == 1).mean() > 0.8
    other = RBM(units="softmax", width=6).restore(model.state())
    np.testing.assert_array_equal(other.retrieve(queries_of([[0, 2]]), 5).scores, model.retrieve(queries_of([[0, 2]]), 5).scores)


def test_what_it_cannot_learn_from_is_one_line() -> None:
    log = rated()[0]
    with pytest.raises(ConfigError, match="rbm: a network needs a training engine"):
        RBM().fit(log)
    with pytest.raises(DataError, match="by hand: no event has a value"):
        RBM(units="softmax").fit(clustered(users=8, items=20)[0], run())
    many = replace(log, events=log.events.with_columns(pl.Series("value", np.arange(750) / 10, dtype=pl.Float32)))
    with pytest.raises(DataError, match="750 distinct ratings; rbm has a unit for each, 20 at most"):
        RBM(units="softmax").fit(many, run())
