"""Losses of a positive against its negatives, and over all items: numbers by hand, literal loops, exact gradients, bounded memory."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from palate import losses

POSITIVE = torch.tensor([1.0, 0.0])
NEGATIVE = torch.tensor([[0.5, 2.0, -1.5], [-3.0, -0.5, 0.25]])
HITS = torch.tensor([[False, True, False], [True, True, True]])
ln, e = math.log, math.exp


def test_bpr_by_hand() -> None:
    # -log sigma(x) = log(1 + e^-x); differences 0.5, -1, 2.5 and 3, 0.5, -0.25
    rows = [[ln(1 + e(-d)) for d in row] for row in ((0.5, -1.0, 2.5), (3.0, 0.5, -0.25))]
    assert losses.bpr(POSITIVE, NEGATIVE).item() == pytest.approx(sum(map(sum, rows)) / 6)
    assert losses.bpr(POSITIVE, NEGATIVE, HITS).item() == pytest.approx((rows[0][0] + rows[0][2]) / 2 / 2)  # the second row adds 0


def test_hinge_by_hand() -> None:
    # margin 1: 1 - 1 + .5 = .5, 2, 0 (-1.5 is far away); 0, .5, 1.25
    assert losses.hinge(POSITIVE, NEGATIVE).item() == pytest.approx((0.5 + 2.0 + 0.5 + 1.25) / 6)
    assert losses.hinge(POSITIVE, NEGATIVE, margin=2.0, hits=HITS).item() == pytest.approx((1.5 + 0.0) / 2 / 2)


def test_warp_by_hand() -> None:
    """Row 0 violates at once: rank (9 - 1) // 1 = 8. Row 1 at the second draw: rank 8 // 2 = 4."""
    phi = [sum(1 / j for j in range(1, k + 1)) for k in range(9)]
    assert losses.warp(POSITIVE, NEGATIVE, 9).item() == pytest.approx((phi[8] * 0.5 + phi[4] * 0.5) / 2)
    hits = torch.tensor([[True, False, False], [True, True, True]])  # row 0: the second draw is now the first; row 1 has none
    assert losses.warp(POSITIVE, NEGATIVE, 9, hits=hits).item() == pytest.approx((phi[8] * 2.0 + 0) / 2)
    assert losses.warp(torch.tensor([5.0]), torch.tensor([[0.0, 1.0]]), 9).item() == 0.0


def test_warp_oracle_a_literal_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    positive, negative = torch.randn(40, generator=generator), torch.randn(40, 12, generator=generator) - 1.5
    hits = torch.rand(40, 12, generator=generator) < 0.2
    total = 0.0
    for b in range(40):
        trials = 0
        for s in range(12):
            if hits[b, s]:
                continue
            trials += 1
            gap = 1 - float(positive[b]) + float(negative[b, s])
            if gap > 0:
                total += sum(1 / j for j in range(1, (100 - 1) // trials + 1)) * gap
                break
    assert losses.warp(positive, negative, 100, hits=hits).item() == pytest.approx(total / 40, rel=1e-5)


def test_logistic_by_hand() -> None:
    own = [ln(1 + e(-1.0)), ln(1 + e(0.0))]
    others = [[ln(1 + e(s)) for s in row] for row in NEGATIVE.tolist()]
    by_hand = (sum(own) + 0.5 * sum(map(sum, others))) / 2
    assert losses.logistic(POSITIVE, NEGATIVE, 0.5).item() == pytest.approx(by_hand)
    assert losses.logistic(POSITIVE, NEGATIVE, hits=HITS).item() == pytest.approx((sum(own) + others[0][0] + others[0][2]) / 2)


def test_cosine_contrastive_by_hand() -> None:
    # (1 - .8 + 1 - .1) / 2, and w x mean of (.6 - .4, 0, 0, .9 - .4)
    positive, negative = torch.tensor([0.8, 0.1]), torch.tensor([[0.6, 0.3], [-1.0, 0.9]])
    loss = losses.cosine_contrastive(positive, negative, margin=0.4, negative_weight=10.0)
    assert loss.item() == pytest.approx(0.55 + 10 * (0.2 + 0.5) / 4)
    hits = torch.tensor([[True, False], [False, False]])
    loss = losses.cosine_contrastive(positive, negative, margin=0.4, negative_weight=10.0, hits=hits)
    assert loss.item() == pytest.approx(0.55 + 10 * (0.0 + 0.5 / 2) / 2)


@pytest.mark.parametrize("name", ["bpr", "hinge", "warp", "logistic", "cosine_contrastive"])
def test_the_positive_goes_up_and_the_negatives_down(name: str) -> None:
    more: dict[str, Any] = {"warp": {"n_items": 9}, "cosine_contrastive": {"margin": -1.0, "negative_weight": 1.0}}.get(name, {})
    positive = torch.tensor([0.1, -0.2], requires_grad=True)
    negative = torch.tensor([[0.3, 0.2], [0.1, 0.4]], requires_grad=True)
    up, down = torch.autograd.grad(getattr(losses, name)(positive, negative, **more), (positive, negative))
    assert (up < 0).all()
    assert (down >= 0).all()
    assert (down > 0).any()


# -- over all items ------------------------------------------------------------------------------------------------------------------


def world(b: int = 7, n: int = 11, d: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries, items, bias = (torch.randn(*shape, generator=generator, dtype=torch.float32) for shape in ((b, d), (n, d), (n,)))
    return queries.requires_grad_(), items.requires_grad_(), bias.requires_grad_()


def test_full_softmax_by_hand() -> None:
    """Scores 0, ln 2, ln 5 and a bias of ln 2 on the first: 2 / 9, 2 / 9, 5 / 9."""
    items = torch.tensor([[0.0], [ln(2)], [ln(5)]])
    bias = torch.tensor([ln(2), 0.0, 0.0])
    queries = torch.tensor([[1.0], [1.0]])
    assert losses.full_softmax(queries, items, torch.tensor([2, 0]), bias).item() == pytest.approx((ln(9 / 5) + ln(9 / 2)) / 2)
    weighted = losses.full_softmax(queries, items, torch.tensor([2, 0]), bias, torch.tensor([3.0, 1.0]))
    assert weighted.item() == pytest.approx((3 * ln(9 / 5) + ln(9 / 2)) / 4)


@pytest.mark.parametrize("biased", [True, False])
def test_over_all_items_oracle_values_and_gradients_are_those_of_the_whole_matrix(biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, items, bias = world()
    weights = torch.linspace(0.5, 2, 7)
    own = bias if biased else None
    leaves = (queries, items, bias) if biased else (queries, items)
    logits = queries @ items.t() + (bias if biased else 0)
    whole = (logits.logsumexp(1) * weights).sum(), (torch.nn.functional.softplus(logits).sum(1) * weights).sum()
    monkeypatch.setattr(losses, "CHUNK", 7 * 4)  # chunks of 4, 4 and 3 items
    chunked = (losses.log_partition(queries, items, own) * weights).sum(), (losses.softplus_sum(queries, items, own) * weights).sum()
    for there, here in zip(whole, chunked, strict=True):
        torch.testing.assert_close(here, there)
        for expected, found in zip(torch.autograd.grad(there, leaves, retain_graph=True), torch.autograd.grad(here, leaves), strict=True):
            torch.testing.assert_close(found, expected)


def test_scores_of_pairs_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair may come twice, and pairs in any order; totals and pairs share one backward pass."""
    queries, items, bias = world()
    rows, columns = torch.tensor([6, 0, 3, 3, 0, 6]), torch.tensor([10, 4, 0, 10, 3, 10])
    slopes = torch.linspace(-1, 1, 6)
    logits = queries @ items.t() + bias
    whole = logits.logsumexp(1).sum() + (logits[rows, columns] * slopes).sum()
    monkeypatch.setattr(losses, "CHUNK", 7 * 4)
    total, own = losses.over_items(queries, items, rows, columns, bias, "exp")
    torch.testing.assert_close(own, logits[rows, columns])
    leaves = (queries, items, bias)
    found = torch.autograd.grad(total.sum() + (own * slopes).sum(), leaves)
    for expected, gradient in zip(torch.autograd.grad(whole, leaves), found, strict=True):
        torch.testing.assert_close(gradient, expected)


def test_the_whole_score_matrix_never_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, items, bias = world(b=64, n=5000)
    monkeypatch.setattr(losses, "CHUNK", 64 * 100)
    seen: list[int] = []
    real = losses._logits

    def watched(*given: Any) -> Tensor:
        found = real(*given)
        seen.append(found.numel())
        return found

    monkeypatch.setattr(losses, "_logits", watched)
    losses.full_softmax(queries, items, torch.zeros(64, dtype=torch.long), bias).backward()  # type: ignore[no-untyped-call]
    assert max(seen) == 64 * 100
    assert len(seen) == 2 * 50


def test_bfloat16_products_are_near() -> None:
    queries, items, bias = world(b=32, n=300, d=16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lower = losses.log_partition(queries, items, bias)
    torch.testing.assert_close(lower, losses.log_partition(queries, items, bias), atol=0.05, rtol=0.02)
    (gradient,) = torch.autograd.grad(lower.sum(), items)
    assert gradient.dtype == torch.float32
