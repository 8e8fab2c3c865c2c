import pytest
import torch

from palate.nn.product import OuterProduct


def test_hand_computed() -> None:
    x = torch.tensor([[[1.0, 2.0, 0.0], [3.0, -1.0, 2.0]], [[0.5, 4.0, -1.0], [0.0, 0.0, 0.0]]])
    # (4, 1, 2): 16, 4 1, 8 2 4;  (.5, 4, -1): .25, 2 16, -.5 -4 1
    assert OuterProduct()(x).tolist() == [[16.0, 4.0, 1.0, 8.0, 2.0, 4.0], [0.25, 2.0, 16.0, -0.5, -4.0, 1.0]]


@pytest.mark.parametrize("seed", range(5))
def test_oracle_outer_products_of_all_pairs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    fields, width = seed + 1, 5 - seed
    x = torch.randn(3, fields, width, generator=generator, dtype=torch.float64)
    found = OuterProduct()(x)
    assert found.shape == (3, OuterProduct.width(width))
    total = sum((torch.outer(row[i], row[j]) for row in x[:1] for i in range(fields) for j in range(fields)), torch.zeros(width, width))
    expected = [float(total[k, m]) for k in range(width) for m in range(k + 1)]
    torch.testing.assert_close(found[0], torch.tensor(expected, dtype=torch.float64))


def test_gradient() -> None:
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(OuterProduct(), (x,))


def test_any_device() -> None:
    assert OuterProduct()(torch.zeros(3, 4, 8, device="meta")).shape == (3, 36)
