import pytest
import torch

from palate.nn.mask_block import MaskBlock


@pytest.mark.parametrize(
    ("layer_norm", "expected"),
    [
        # Mask: relu(1 - 2 + .5) = 0 and relu(2 * 1 + 0) = 2 -> (2 * 2 + .25, 2 * -1) = (4.25, -2). Masked input: (8.5, -6).
        (False, [8.5 + 0.125, 0.0]),  # hidden: 8.5 + .125 and -6 + 1
        (True, [1.0, 0.0]),  # hidden (8.5, -6): mean 1.25, deviation 7.25
    ],
)
def test_hand_computed(layer_norm: bool, expected: list[float]) -> None:
    block = MaskBlock(guide=2, width=2, out=2, ratio=1.0, layer_norm=layer_norm)
    with torch.no_grad():
        block.mask[0].weight.copy_(torch.tensor([[1.0, -1.0], [2.0, 0.0]]))
        block.mask[0].bias.copy_(torch.tensor([0.5, 0.0]))
        block.mask[2].weight.copy_(torch.tensor([[7.0, 2.0], [9.0, -1.0]]))
        block.mask[2].bias.copy_(torch.tensor([0.25, 0.0]))
        block.hidden.weight.copy_(torch.eye(2))
        if not layer_norm:
            block.hidden.bias.copy_(torch.tensor([0.125, 1.0]))
    torch.testing.assert_close(block(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 3.0]])), torch.tensor([expected]))


def test_parameter_count_of_the_published_block() -> None:
    # 100 -> 200 -> 100 with biases, 100 -> 50 without, layer normalisation of 50.
    assert sum(weight.numel() for weight in MaskBlock(100, 100, 50).parameters()) == 40_300 + 5_000 + 100


def test_dropout_only_in_training() -> None:
    block, x = MaskBlock(4, 4, 50, dropout=0.5), torch.randn(20, 4)
    assert float((block(x, x) == 0).float().mean()) > 0.6
    block.eval()
    assert torch.equal(block(x, x), block(x, x))


def test_under_autocast_and_on_meta() -> None:
    block, x = MaskBlock(4, 4, 6), torch.randn(5, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = block(x, x)
    torch.testing.assert_close(rough.float(), block(x, x), rtol=0.1, atol=0.1)
    assert block.to("meta")(x.to("meta"), x.to("meta")).shape == (5, 6)
