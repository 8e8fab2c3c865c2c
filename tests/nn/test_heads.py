import pytest
import torch

from palate.nn.heads import SumHead


def test_hand_computed() -> None:
    head = SumHead([2, 1], 1)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 10.0, 100.0]]))
        head.bias.copy_(torch.tensor([[0.5], [0.25]]))
    assert head(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [[1.0 + 20.0 + 300.0 + 0.5 + 0.25]]
    assert head.in_features == 3


def test_every_part_starts_by_its_own_width_and_has_its_own_bias() -> None:
    torch.manual_seed(0)
    head = SumHead([2000, 50_000], 2)
    small, large = head.weight.detach().split([2000, 50_000], dim=1)
    assert float(small.std()) == pytest.approx((2 / 2002) ** 0.5, rel=0.05)
    assert float(large.std()) == pytest.approx((2 / 50_002) ** 0.5, rel=0.05)
    assert head.bias.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_logits_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert SumHead([2, 2], 1)(torch.randn(3, 4).bfloat16()).dtype == torch.float32
