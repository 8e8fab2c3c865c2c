import torch
from torch import nn

from palate.nn.factorization_block import FactorizationBlock


def test_hand_computed() -> None:
    block = FactorizationBlock(2, width=2, out=1, rank=1, hidden=())
    with torch.no_grad():
        block.mixtures.weight.copy_(torch.tensor([[1.0, -1.0]]))
        block.norm.weight.copy_(torch.tensor([2.0, 3.0]))
        block.vectors.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        block.vectors.bias.copy_(torch.tensor([0.0, 0.5]))
    # X = (1, 2), (3, -1): X X^T = [[5, 1], [1, 10]], times (1, -1): (4, -9). The norm of two numbers is (1, -1), scaled (2, -3).
    # u = (2, 2 - 3 + .5)
    got = block(torch.tensor([[[1.0, 2.0], [3.0, -1.0]]]))
    torch.testing.assert_close(got, torch.tensor([[[2.0, -0.5]]]), rtol=1e-4, atol=1e-4)


def test_products_are_x_x_t_y() -> None:
    torch.manual_seed(0)
    block = FactorizationBlock(5, width=4, out=3, rank=2, hidden=(7,))
    x = torch.randn(6, 5, 4)
    want = (x @ x.transpose(1, 2) @ block.mixtures.weight.t()).flatten(1)
    block.norm, block.mlp, block.vectors = nn.Identity(), nn.Identity(), nn.Linear(10, 12)  # type: ignore[assignment]
    torch.testing.assert_close(block(x).flatten(1), block.vectors(want))


def test_parameters() -> None:
    block = FactorizationBlock(5, width=4, out=3, rank=2, hidden=(7,))
    assert block(torch.zeros(6, 5, 4)).shape == (6, 3, 4)
    assert sum(weight.numel() for weight in block.parameters()) == 5 * 2 + 2 * 10 + (10 * 7 + 7) + (7 * 12 + 12)
