"""Losses of several tasks: weighted logistic regression, means over known labels, weights by uncertainty."""

from __future__ import annotations

import math

import pytest
import torch

from palate.losses import mean_of_known, uncertainty_weighted, weighted_logistic


def test_watch_time_by_hand() -> None:
    # z = ln 3: softplus(z) = ln 4, softplus(-z) = ln(4/3). 10 seconds weigh 10.
    z = torch.full((2,), math.log(3.0))
    expected = torch.tensor([10 * math.log(4 / 3) + math.log(4.0), math.log(4.0)])
    torch.testing.assert_close(weighted_logistic(z, torch.tensor([10.0, 0.0])), expected)


@pytest.mark.parametrize("watched", [2, 8])
def test_watch_time_oracle_the_odds_are_the_expected_watch_time(watched: int) -> None:
    """Ten rows alike, of which two (or eight) were watched, 80 seconds in all: the loss is least at odds of 8 seconds, however many."""
    seconds = torch.tensor([80.0 / watched] * watched + [0.0] * (10 - watched))
    z = torch.zeros(1, requires_grad=True)
    for _ in range(50):  # Newton's method
        loss = weighted_logistic(z.expand(10), seconds).sum()
        (slope,) = torch.autograd.grad(loss, z, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), z)
        z = (z - slope.detach() / bend).detach().requires_grad_()
    assert float(z.exp().detach()) == pytest.approx(8.0, rel=1e-4)


def test_huge_logits_stay_finite() -> None:
    z = torch.tensor([200.0, -200.0, 200.0, -200.0], requires_grad=True)
    loss = weighted_logistic(z, torch.tensor([1e5, 1e5, 0.0, 0.0])).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert math.isfinite(float(loss.detach()))
    assert z.grad is not None
    assert bool(z.grad.isfinite().all())


def test_mean_of_known_by_hand() -> None:
    values = torch.tensor([[1.0, 5.0, 7.0], [3.0, 9.0, 7.0]])
    known = torch.tensor([[True, True, False], [True, False, False]])
    # (1 x 1 + 3 x 3) / 4; 5; nothing
    torch.testing.assert_close(mean_of_known(values, known, torch.tensor([1.0, 3.0])), torch.tensor([2.5, 5.0, 0.0]))


def test_uncertainty_by_hand() -> None:
    # s = (0, ln 4, ln 9): regression 2/2 + 0; cross-entropy 2/4 + ln(4)/2; the third has no label
    loss = uncertainty_weighted(
        torch.tensor([2.0, 2.0, 0.0]),
        torch.tensor([0.0, math.log(4.0), math.log(9.0)]),
        torch.tensor([True, False, False]),
        torch.tensor([True, True, False]),
    )
    assert float(loss) == pytest.approx(1.0 + 0.5 + math.log(2.0))


def test_uncertainty_oracle_variances_settle_at_the_loss() -> None:
    losses = torch.tensor([0.3, 0.3])
    s = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([s], lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        uncertainty_weighted(losses, s, torch.tensor([True, False]), torch.ones(2, dtype=torch.bool)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    torch.testing.assert_close(s.detach().exp(), torch.tensor([0.3, 0.6]), atol=1e-4, rtol=0)
