import pytest
import torch

from palate.nn.mlp import MLP
from palate.types import ConfigError


def test_hand_computed() -> None:
    mlp = MLP(2, [2], out=1)
    with torch.no_grad():
        mlp.hidden[0].weight.copy_(torch.tensor([[1.0, -1.0], [2.0, 0.5]]))
        mlp.hidden[0].bias.copy_(torch.tensor([0.5, -4.0]))
        mlp.head.weight.copy_(torch.tensor([[3.0, 5.0]]))
        mlp.head.bias.fill_(0.25)
    # (1 - 2 + .5, 2 + 1 - 4) = (-.5, -1) -> relu 0 -> .25;  (3 - 1 + .5, 6 + .5 - 4) = (2.5, 2.5) -> 7.5 + 12.5 + .25
    assert mlp(torch.tensor([[1.0, 2.0], [3.0, 1.0]])).tolist() == [[0.25], [20.25]]


def test_shapes_and_order_of_layers() -> None:
    mlp = MLP(3, [8, 4], dropout=0.5, batch_norm=True, activation="tanh")
    assert [type(module).__name__ for module in mlp.hidden] == ["Linear", "BatchNorm1d", "Tanh", "Dropout"] * 2
    assert mlp.width_out == 4
    assert mlp(torch.zeros(5, 3)).shape == (5, 4)
    # 145 -> 400 -> 400 -> 400 -> 1 is the inner-product network of FuxiCTR on Frappe: 433,491 parameters less 53,890 of the tables.
    assert sum(weight.numel() for weight in MLP(145, [400, 400, 400], out=1).parameters()) == 433_491 - 53_890
    assert MLP(3, []).width_out == 3


def test_start() -> None:
    torch.manual_seed(0)
    linear = MLP(300, [500]).hidden[0]
    assert float(linear.weight.detach().std()) == pytest.approx((2 / 800) ** 0.5, rel=0.02)
    assert not linear.bias.any()


def test_logits_are_float32_under_autocast() -> None:
    mlp = MLP(4, [8], out=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mlp.hidden(torch.randn(2, 4)).dtype == torch.bfloat16
        assert mlp(torch.randn(2, 4)).dtype == torch.float32


def test_unknown_activation() -> None:
    with pytest.raises(ConfigError, match="no 'swish'; it takes relu"):
        MLP(2, [2], activation="swish")
