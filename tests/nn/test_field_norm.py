import torch
from torch import nn

from palate.nn.field_norm import FieldNorm


def test_hand_computed() -> None:
    norm = FieldNorm(2, 2)
    with torch.no_grad():
        norm.gain.copy_(torch.tensor([[1.0, 2.0], [3.0, 1.0]]))
        norm.shift.copy_(torch.tensor([[0.5, 0.0], [0.0, -1.0]]))
    # (1, 3) has mean 2 and deviation 1: (-1, 1) -> (-1 + .5, 2). (8, 0) has mean 4 and deviation 4: (1, -1) -> (3, -1 - 1).
    torch.testing.assert_close(
        norm(torch.tensor([[[1.0, 3.0], [8.0, 0.0]]])), torch.tensor([[[-0.5, 2.0], [3.0, -2.0]]]), rtol=1e-4, atol=1e-4
    )


def test_it_starts_as_plain_layer_normalisation() -> None:
    x = torch.randn(5, 3, 4)
    torch.testing.assert_close(FieldNorm(3, 4)(x), nn.LayerNorm(4)(x))


def test_under_autocast_and_on_meta() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert FieldNorm(3, 4)(torch.randn(5, 3, 4)).shape == (5, 3, 4)
    assert FieldNorm(3, 4).to("meta")(torch.randn(5, 3, 4, device="meta")).shape == (5, 3, 4)
