import torch

from palate.nn.field_cross import FieldCross


def test_hand_computed() -> None:
    layer = FieldCross(2, 2)
    with torch.no_grad():
        layer.weight.weight.copy_(torch.tensor([[1.0, 0.0], [2.0, -1.0]]))
        layer.bias.copy_(torch.tensor([[0.5, 0.0], [0.0, 100.0]]))
    # X = (1, 2), (3, -1): X^T X = [[1 + 9, 2 - 3], [2 - 3, 4 + 1]] = [[10, -1], [-1, 5]]. W of it: (10, -1), (21, -7).
    assert layer(torch.tensor([[[1.0, 2.0], [3.0, -1.0]]])).tolist() == [[[10.5, -1.0], [21.0, 93.0]]]


def test_any_number_of_vectors_with_the_same_weights() -> None:
    layer = FieldCross(4, 3)
    assert layer(torch.zeros(2, 7, 4)).shape == layer(torch.zeros(2, 1, 4)).shape == (2, 3, 4)
    assert sum(weight.numel() for weight in layer.parameters()) == 2 * 3 * 4
