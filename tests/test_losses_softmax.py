"""The softmax losses against numbers worked out by hand, and against the full softmax they stand for."""

import math

import numpy as np
import pytest
import torch

from palate import losses
from palate.losses import in_batch_softmax, in_batch_softmax_of, sampled_softmax

# Three queries and their positives; queries 0 and 2 share item 7. Rows are queries, columns are positives.
SCORES = torch.tensor([[1.0, 0.2, 1.0], [0.4, 0.6, 0.4], [0.8, -0.2, 0.8]])
CODES = torch.tensor([7, 3, 7])
LOG_Q = torch.log(torch.tensor([0.5, 0.25, 0.5]))


def test_in_batch_by_hand():
    """Hits removed: rows 0 and 2 have one negative (column 1); row 1 has two (columns 0 and 2)."""
    row_0 = -math.log(math.exp(1.0) / (math.exp(1.0) + math.exp(0.2)))
    row_1 = -math.log(math.exp(0.6) / (math.exp(0.6) + 2 * math.exp(0.4)))
    row_2 = -math.log(math.exp(0.8) / (math.exp(0.8) + math.exp(-0.2)))
    assert in_batch_softmax(SCORES, CODES).item() == pytest.approx((row_0 + row_1 + row_2) / 3)


def test_in_batch_with_hits_left_in():
    row_0 = -math.log(math.exp(1.0) / (2 * math.exp(1.0) + math.exp(0.2)))
    row_1 = -math.log(math.exp(0.6) / (math.exp(0.6) + 2 * math.exp(0.4)))
    row_2 = -math.log(math.exp(0.8) / (2 * math.exp(0.8) + math.exp(-0.2)))
    loss = in_batch_softmax(SCORES, CODES, remove_accidental_hits=False)
    assert loss.item() == pytest.approx((row_0 + row_1 + row_2) / 3)


def test_in_batch_log_q_and_temperature_by_hand():
    """e^(s/t - log q) = e^(s/t) / q, with t = 0.5: item 7 has q = 1/2 (weight 2), item 3 has q = 1/4 (weight 4)."""
    row_0 = -math.log(2 * math.exp(2.0) / (2 * math.exp(2.0) + 4 * math.exp(0.4)))
    row_1 = -math.log(4 * math.exp(1.2) / (4 * math.exp(1.2) + 2 * 2 * math.exp(0.8)))
    row_2 = -math.log(2 * math.exp(1.6) / (2 * math.exp(1.6) + 4 * math.exp(-0.4)))
    loss = in_batch_softmax(SCORES / 0.5, CODES, log_q=LOG_Q)
    assert loss.item() == pytest.approx((row_0 + row_1 + row_2) / 3)
    weighted = in_batch_softmax(SCORES / 0.5, CODES, log_q=LOG_Q, weights=torch.tensor([1.0, 3.0, 0.0]))
    assert weighted.item() == pytest.approx((row_0 + 3 * row_1) / 4)


def test_mixed_columns_beside_the_batch():
    """Two queries, one further negative for both; it is an accidental hit of query 1."""
    scores = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    q = torch.tensor([0.5, 0.2, 0.2])
    row_0 = -math.log(2 * math.exp(2.0) / (2 * math.exp(2.0) + 5 * math.exp(0.0) + 5 * math.exp(1.0)))
    row_1 = -math.log(5 * math.exp(1.0) / (5 * math.exp(1.0) + 2 * math.exp(0.0)))
    loss = in_batch_softmax(scores, torch.tensor([1, 4, 4]), log_q=q.log())
    assert loss.item() == pytest.approx((row_0 + row_1) / 2)


def test_a_batch_of_one_has_no_negatives_and_no_loss():
    loss = in_batch_softmax(torch.tensor([[0.3]], requires_grad=True), torch.tensor([5]))
    loss.backward()
    assert loss.item() == 0.0


def test_sampled_softmax_by_hand():
    loss = sampled_softmax(
        torch.tensor([0.5]),
        torch.tensor([[0.0, 1.0, 2.5]]),
        log_q_positive=torch.tensor([0.5]).log(),
        log_q_negative=torch.tensor([0.25, 0.5, 0.1]).log(),
        hits=torch.tensor([[False, False, True]]),
    )
    own, others = 2 * math.exp(0.5), 4 * math.exp(0.0) + 2 * math.exp(1.0)
    assert loss.item() == pytest.approx(-math.log(own / (own + others)))


def _mean_gradient(correct: bool, hits_out: bool) -> np.ndarray:
    """The mean over many sampled sets of d loss / d score, for one query over 12 items, drawn from a skewed q."""
    generator = torch.Generator().manual_seed(0)
    n, draws, repeats, positive = 12, 400, 600, 3
    q = torch.arange(1, n + 1, dtype=torch.float64) ** 2
    q = q / q.sum()
    scores = torch.linspace(-1, 1, n, dtype=torch.float64).repeat(repeats, 1).requires_grad_()
    sampled = torch.multinomial(q, draws * repeats, replacement=True, generator=generator).view(repeats, draws)
    loss = sampled_softmax(
        scores[:, positive],
        scores.gather(1, sampled),
        # the positive stands in the set for certain, a negative as often as it is expected: draws x q
        log_q_positive=None,
        log_q_negative=torch.log(draws * q)[sampled] if correct else torch.log(torch.tensor(draws / n)),
        hits=sampled == positive if hits_out else None,
    )
    (gradient,) = torch.autograd.grad(loss * repeats, scores)
    return gradient.mean(0).numpy()


def test_the_gradient_is_that_of_the_full_softmax():
    """With log q taken off, the expected gradient is softmax(s) - onehot(positive); without it, popular items are pushed down."""
    full = np.exp(np.linspace(-1, 1, 12))
    full /= full.sum()
    full[3] -= 1
    np.testing.assert_allclose(_mean_gradient(correct=True, hits_out=True), full, atol=0.003)
    wrong = _mean_gradient(correct=False, hits_out=True)
    assert wrong[-1] > 1.5 * full[-1]  # the item drawn most
    assert wrong[0] < 0.2 * full[0]  # the item drawn least


# -- from the vectors ----------------------------------------------------------------------------------------------------------------


def pairs(b: int = 7, extra: int = 4, width: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, items, codes with hits among them, log q, and weights."""
    draws = torch.Generator().manual_seed(3)
    queries = torch.randn(b, width, generator=draws, requires_grad=True)
    items = torch.randn(b + extra, width, generator=draws, requires_grad=True)
    return (
        queries,
        items,
        torch.tensor([4, 1, 4, 2, 4, 9, 1, 8, 2, 9, 9]),
        torch.randn(b + extra, generator=draws),
        torch.arange(1.0, b + 1),
    )


@pytest.mark.parametrize("block", [1, 25, 1 << 19])  # of scores: one row, two rows and a rest, all rows
@pytest.mark.parametrize("hits_out", [True, False])
@pytest.mark.parametrize("plain", [True, False])
def test_from_vectors_is_the_same_as_from_scores(monkeypatch, block, hits_out, plain):
    monkeypatch.setattr(losses, "BLOCK", block)
    queries, items, codes, log_q, weights = pairs()
    more = {} if plain else {"log_q": log_q, "weights": weights}
    expected = in_batch_softmax(queries @ items.T / 0.3, codes, remove_accidental_hits=hits_out, **more)
    wanted = torch.autograd.grad(2 * expected, (queries, items))
    loss = in_batch_softmax_of(queries, items, codes, temperature=0.3, remove_accidental_hits=hits_out, **more)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for found, own in zip(torch.autograd.grad(2 * loss, (queries, items)), wanted, strict=True):
        torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-6)


def test_from_vectors_by_hand():
    """SCORES as inner products with unit vectors: the number of `test_in_batch_log_q_and_temperature_by_hand`."""
    expected = in_batch_softmax(SCORES / 0.5, CODES, log_q=LOG_Q)
    assert in_batch_softmax_of(SCORES, torch.eye(3), CODES, log_q=LOG_Q, temperature=0.5).item() == pytest.approx(expected.item())


def test_a_column_of_one_row_is_no_others_negative():
    """Owners: every row's (-1), row 0's, row 1's, nobody's (-2). Other rows see the loss without that column."""
    queries, items, codes, _, _ = pairs(extra=3)
    codes, owner = codes[:10], torch.tensor([-1] * 7 + [0, 1, -2])
    found = in_batch_softmax_of(queries, items, codes, owner=owner)
    scores = queries @ items.T
    scores = scores.masked_fill(torch.tensor([[o not in (-1, row) for o in owner.tolist()] for row in range(7)]), -math.inf)
    assert found.item() == pytest.approx(in_batch_softmax(scores, codes).item(), rel=1e-6)
    assert torch.autograd.grad(found, items)[0][9].abs().sum() == 0


def test_under_autocast_only_the_products_are_coarse():
    queries, items, codes, log_q, _ = pairs()
    fine = in_batch_softmax_of(queries, items, codes, log_q=log_q)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = in_batch_softmax_of(queries, items, codes, log_q=log_q)
    assert coarse.dtype == torch.float32
    assert coarse.item() == pytest.approx(fine.item(), rel=0.02)
    for found, own in zip(torch.autograd.grad(coarse, (queries, items)), torch.autograd.grad(fine, (queries, items)), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, own, rtol=0.1, atol=0.01)
