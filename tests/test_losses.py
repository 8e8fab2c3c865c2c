"""Losses against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from palate.losses import binary_cross_entropy

NAN = math.nan


def test_one_row_by_hand() -> None:
    # p(0) = 1/2: -log(1/2). p(log 3) = 3/4: label 1 gives -log(3/4), label 0 gives -log(1/4).
    assert binary_cross_entropy(torch.tensor([[0.0]]), torch.tensor([[1.0]])).item() == pytest.approx(math.log(2))
    assert binary_cross_entropy(torch.tensor([[math.log(3)]]), torch.tensor([[1.0]])).item() == pytest.approx(-math.log(0.75))
    assert binary_cross_entropy(torch.tensor([[math.log(3)]]), torch.tensor([[0.0]])).item() == pytest.approx(-math.log(0.25))


def test_soft_label_by_hand() -> None:
    loss = binary_cross_entropy(torch.tensor([[math.log(3)]]), torch.tensor([[0.25]]))
    assert loss.item() == pytest.approx(-0.25 * math.log(0.75) - 0.75 * math.log(0.25))


def test_weights_are_a_weighted_mean() -> None:
    logits, labels = torch.tensor([[0.0], [math.log(3)]]), torch.tensor([[1.0], [1.0]])
    loss = binary_cross_entropy(logits, labels, torch.tensor([1.0, 3.0]))
    assert loss.item() == pytest.approx((math.log(2) - 3 * math.log(0.75)) / 4)
    assert binary_cross_entropy(logits, labels, torch.tensor([10.0, 30.0])).item() == pytest.approx(loss.item())


def test_tasks_are_masked_apart_and_weighted() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 100.0]])
    labels = torch.tensor([[1.0, 0.0], [0.0, NAN]])
    loss = binary_cross_entropy(logits, labels, task_weights=torch.tensor([1.0, 0.5]))
    assert loss.item() == pytest.approx(math.log(2) - 0.5 * math.log(0.25))


def test_unknown_labels_give_no_gradient_and_no_nan() -> None:
    logits = torch.tensor([[0.5, 2.0], [-0.5, 1.0]], requires_grad=True)
    loss = binary_cross_entropy(logits, torch.tensor([[1.0, NAN], [NAN, NAN]]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    # d/dz = (p - y) / rows known
    assert logits.grad[0, 0].item() == pytest.approx(1 / (1 + math.exp(-0.5)) - 1)
    assert logits.grad.abs().sum().item() == pytest.approx(abs(logits.grad[0, 0].item()))


def test_nothing_known_is_zero() -> None:
    assert binary_cross_entropy(torch.tensor([[3.0]]), torch.tensor([[NAN]])).item() == 0.0
    assert binary_cross_entropy(torch.tensor([[3.0]]), torch.tensor([[1.0]]), torch.tensor([0.0])).item() == 0.0


def test_large_logits_stay_finite() -> None:
    assert binary_cross_entropy(torch.tensor([[1e4], [-1e4]]), torch.tensor([[1.0], [1.0]])).item() == pytest.approx(5e3)
