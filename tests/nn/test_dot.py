import torch

from palate.nn.dot import Dot


def test_hand_computed() -> None:
    a, b, c = [1.0, 2.0], [3.0, -1.0], [0.5, 4.0]
    x = torch.tensor([[a, b, c], [c, a, a]])
    # (b, a), (c, a), (c, b) = 3 - 2, .5 + 8, 1.5 - 4;  (a, c), (a, c), (a, a) = 8.5, 8.5, 5
    assert Dot()(x).tolist() == [[1.0, 8.5, -2.5], [8.5, 8.5, 5.0]]


def test_shapes() -> None:
    assert Dot()(torch.zeros(7, 5, 3)).shape == (7, Dot.width(5)) == (7, 10)
    assert Dot()(torch.zeros(7, 1, 3)).shape == (7, 0)


def test_gradient() -> None:
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Dot(), (x,))
