import pytest
import torch

from palate.nn.dot_vectors import DotVectors
from palate.types import ConfigError


def test_hand_computed() -> None:
    module = DotVectors(3, width=2, out=2, hidden=(2,))
    layer = module.mlp.hidden[0]
    assert isinstance(layer, torch.nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))
        layer.bias.copy_(torch.tensor([0.5, -1.0]))
        module.vectors.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, -1.0]]))
    # a = (1, 2), b = (3, -1), c = (.5, 4): b.a = 1, c.a = 8.5, c.b = -2.5. h = relu(1 - 2.5 + .5, 8.5 - 1) = (0, 7.5).
    # u = (0, 7.5 | 7.5, -7.5)
    x = torch.tensor([[[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]]])
    assert module(x).tolist() == [[[0.0, 7.5], [7.5, -7.5]]]


def test_parameters() -> None:
    module = DotVectors(6, width=4, out=3, hidden=(8, 5))
    assert module(torch.zeros(2, 6, 4)).shape == (2, 3, 4)
    assert sum(weight.numel() for weight in module.parameters()) == (15 * 8 + 8) + (8 * 5 + 5) + 5 * 12


def test_one_vector_is_an_error() -> None:
    with pytest.raises(ConfigError, match="needs two vectors to multiply, got 1"):
        DotVectors(1, width=4, out=3, hidden=())
