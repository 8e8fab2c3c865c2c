import torch

from palate.nn.field_linear import FieldLinear


def test_hand_computed() -> None:
    layer = FieldLinear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]]))
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]])
    # (1, 2) - (5, 6) = (-4, -4);  (.5, 1) + (6, 8) = (6.5, 9);  in the second row only W_i2.
    assert layer(x).tolist() == [[[-4.0, -4.0], [6.5, 9.0]], [[0.0, 0.0], [2.0, 2.0]]]


def test_parameters_and_no_rows() -> None:
    layer = FieldLinear(5, 3)
    assert sum(weight.numel() for weight in layer.parameters()) == 15
    assert layer(torch.zeros(0, 5, 4)).shape == (0, 3, 4)
