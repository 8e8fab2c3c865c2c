"""What each kind of task learns and serves, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from palate.rank.kinds import KINDS


def test_click_by_hand() -> None:
    click, ones = KINDS["click"], np.ones(4)
    y = np.array([1.0, 0.0, 0.0, 0.0])
    assert click.start(y, ones) == pytest.approx(math.log(1.5 / 3.5))
    assert click.constant(y) == 0.25
    scale = torch.tensor(click.scale(y, ones))
    torch.testing.assert_close(click.loss(torch.zeros(2), torch.tensor([1.0, 0.0]), scale), torch.full((2,), math.log(2)))
    torch.testing.assert_close(click.answer(torch.tensor([0.0, math.log(3.0)]), scale), torch.tensor([0.5, 0.75]))
    assert click.right(np.array([0.0, 1.0, 0.5])).tolist() == [True, True, False]


def test_rating_by_hand() -> None:
    rating = KINDS["rating"]
    # grades 1, 3, 5 weighing 1, 2, 1: mean 3, variance (4 + 0 + 4) / 4 = 2
    y, w = np.array([1.0, 3.0, 5.0]), np.array([1.0, 2.0, 1.0])
    mean, deviation, least, most = rating.scale(y, w)
    assert (mean, deviation, least, most) == pytest.approx((3.0, math.sqrt(2), 1.0, 5.0))
    scale = torch.tensor([mean, deviation, least, most])
    # z = 1 serves 3 + 1.414; the loss against a grade of 5, z = 2 / 1.414, is (1 - 1.41421)^2; answers stay within the grades
    torch.testing.assert_close(rating.answer(torch.tensor([1.0, 9.0, -9.0]), scale), torch.tensor([4.41421356, 5.0, 1.0]))
    torch.testing.assert_close(rating.loss(torch.tensor([1.0]), torch.tensor([5.0]), scale), torch.tensor([0.17157288]))


def test_one_grade_only_has_a_deviation_of_one() -> None:
    assert KINDS["rating"].scale(np.array([4.0, 4.0]), np.ones(2)) == (4.0, 1.0, 4.0, 4.0)


def test_watch_time_by_hand() -> None:
    watch = KINDS["watch_time"]
    # 30 and 50 seconds, and eight not watched: expected 80 / 10; the mean weight of a row is (80 + 10) / 10
    y, w = np.array([30.0, 50.0, *[0.0] * 8]), np.ones(10)
    assert watch.scale(y, w) == pytest.approx((0.0, 9.0, 0.0, 50.0))
    assert watch.start(y, w) == pytest.approx(math.log(80.5 / 10.5))
    assert watch.constant(y) == 8.0
    scale = torch.tensor(watch.scale(y, w))
    torch.testing.assert_close(watch.answer(torch.tensor([math.log(10.0), 9.0, 99.0, -99.0]), scale), torch.tensor([10.0, 50.0, 50.0, 0.0]))
    torch.testing.assert_close(watch.loss(torch.zeros(2), torch.tensor([30.0, 0.0]), scale), torch.tensor([31.0, 1.0]) * math.log(2) / 9)
    assert watch.right(np.array([0.0, 3.0, -1.0, np.inf])).tolist() == [True, True, False, False]


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_constant_is_the_best_constant(kind: str) -> None:
    rng = np.random.default_rng(0)
    y = {"click": rng.random(50) < 0.3, "rating": rng.integers(1, 6, 50), "watch_time": (rng.random(50) < 0.2) * rng.exponential(40, 50)}[
        kind
    ]
    y = y.astype(np.float64)
    best = KINDS[kind].constant(y)
    losses = [KINDS[kind].mean_loss(np.full_like(y, best * factor), y) for factor in (0.9, 1.0, 1.1)]
    assert min(losses) == losses[1]
