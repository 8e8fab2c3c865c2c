import pytest
import torch
from torch.nn import functional

from palate.nn.field_convolution import FieldConvolution
from palate.types import ConfigError


def test_hand_computed() -> None:
    layer = FieldConvolution(3, channels=1, kernel=3)
    with torch.no_grad():
        layer.kernel.copy_(torch.tensor([[[[0.0, 0.0, 0.0], [0.0, 1.0, 10.0], [0.0, 100.0, 0.0]]]]))
    # Each number, plus 10 times the one to its right, plus 100 times the one below.
    x = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])
    assert layer(x).tolist() == [[[421.0, 532.0, 603.0], [54.0, 65.0, 6.0]]]


@pytest.mark.parametrize(("count", "width", "channels", "kernel"), [(5, 4, 3, 3), (2, 3, 2, 5), (1, 1, 1, 3), (6, 4, 2, 1)])
def test_it_is_conv2d(count: int, width: int, channels: int, kernel: int) -> None:
    torch.manual_seed(0)
    layer = FieldConvolution(width, channels, kernel)
    x = torch.randn(7, count, width, requires_grad=True)
    pictures = functional.conv2d(x.unsqueeze(1), layer.kernel, padding=kernel // 2)
    torch.testing.assert_close(layer(x), pictures.reshape(7, channels * count, width))
    ours, theirs = (torch.autograd.grad(y.square().sum(), [x, layer.kernel]) for y in (layer(x), pictures))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert sum(weight.numel() for weight in layer.parameters()) == channels * kernel**2
    assert list(layer.state_dict()) == ["kernel"]


def test_even_kernels_are_an_error() -> None:
    with pytest.raises(ConfigError, match="expected an odd number"):
        FieldConvolution(4, 1, 2)
