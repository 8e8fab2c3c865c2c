import pytest
import torch

from palate.nn.bilinear import BilinearHead
from palate.types import ConfigError


def test_hand_computed() -> None:
    head = BilinearHead(4, 2, 1, heads=2)
    with torch.no_grad():
        head.x.weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 10.0]]))
        head.y.weight.copy_(torch.tensor([[100.0, 0.0]]))
        head.x.bias.fill_(0.5)
        head.y.bias.fill_(0.25)
        head.products.copy_(torch.tensor([[1.0], [2.0], [-1.0], [3.0]]))
    # x = (1, 2 | 3, 4), y = (5 | 6): x_1^T W_1 y_1 = (1 + 4) 5 = 25;  x_2^T W_2 y_2 = (-3 + 12) 6 = 54;  w_x x = 41;  w_y y = 500.
    assert head(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])).tolist() == [[41 + 0.5 + 500 + 0.25 + 25 + 54]]


def test_one_head_is_the_full_bilinear_form_of_each_task() -> None:
    torch.manual_seed(0)
    head = BilinearHead(3, 2, 2)
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    weight = head.products.view(3, 2, 2)
    want = head.x(x) + head.y(y) + torch.stack([((x @ weight[:, :, task]) * y).sum(1) for task in range(2)], dim=1)
    torch.testing.assert_close(head(torch.cat([x, y], dim=1)), want)
    assert head.in_features == 5
    assert sum(weight.numel() for weight in head.parameters()) == (3 * 2 + 2) + (2 * 2 + 2) + 3 * 2 * 2


def test_float32_under_autocast_and_start() -> None:
    head = BilinearHead(400, 100, 1, heads=5)
    assert head.products.numel() == 5 * 80 * 20
    assert abs(float(head.products.detach().std()) / (2 / 8001) ** 0.5 - 1) < 0.05
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(torch.randn(2, 500, dtype=torch.bfloat16)).dtype == torch.float32


def test_heads_that_do_not_divide_are_an_error() -> None:
    with pytest.raises(ConfigError, match="heads: 3 do not divide the last layers of both streams, 6 and 4"):
        BilinearHead(6, 4, 1, heads=3)
