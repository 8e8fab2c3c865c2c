import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.nn.fm import SecondOrder


def pairs(x: torch.Tensor) -> torch.Tensor:
    """All pairs, one after another: [B, F, D] -> [B]."""
    total = torch.zeros(len(x), dtype=torch.float64)
    for i in range(x.shape[1]):
        for j in range(i):
            total += (x[:, i].double() * x[:, j].double()).sum(1)
    return total


def test_hand_computed() -> None:
    a, b, c = [1.0, 2.0], [3.0, -1.0], [0.5, 4.0]
    # ab + ac + bc = (3 - 2) + (.5 + 8) + (1.5 - 4);  ca + ca + aa = 8.5 + 8.5 + 5
    assert SecondOrder()(torch.tensor([[a, b, c], [c, a, a]])).tolist() == [[7.0], [22.0]]


def test_each_task_has_its_own_part_of_the_vectors() -> None:
    x = torch.tensor([[[1.0, 2.0, 10.0, 0.0], [3.0, -1.0, 1.0, 5.0]]])
    assert SecondOrder(tasks=2)(x).tolist() == [[1.0, 10.0]]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 8), st.integers(1, 6), st.integers(1, 3), st.integers(0, 10**6))
def test_oracle_all_pairs_one_by_one(rows: int, fields: int, width: int, tasks: int, seed: int) -> None:
    x = torch.randn(rows, fields, tasks * width, generator=torch.Generator().manual_seed(seed))
    expected = torch.stack([pairs(x[:, :, task * width : (task + 1) * width]) for task in range(tasks)], dim=1)
    torch.testing.assert_close(SecondOrder(tasks)(x).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fields", [0, 1])
def test_without_two_fields_there_is_no_pair(fields: int) -> None:
    torch.testing.assert_close(SecondOrder()(torch.randn(3, fields, 4)), torch.zeros(3, 1))


def test_float32_under_autocast() -> None:
    # Two large opposite fields: the square of the sum and the sum of squares differ by a thousandth.
    x = torch.tensor([[[100.0, 0.25], [0.1, 2.0]]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = SecondOrder()(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, torch.tensor([[10.5]]), rtol=1e-3, atol=1e-3)


def test_any_device() -> None:
    assert SecondOrder(2)(torch.zeros(3, 4, 8, device="meta")).shape == (3, 2)
