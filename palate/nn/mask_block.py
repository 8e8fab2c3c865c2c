"""The mask block: a hidden layer whose input is multiplied, element by element, by a mask that the row itself makes."""

from __future__ import annotations

from torch import Tensor, nn

from palate.nn.dropout import Dropout
from palate.nn.mlp import linear


class MaskBlock(nn.Module):
    """Instance-guided mask and hidden layer: guide [B, G], x [B, W] -> [B, H].

        m = W_2 relu(W_1 v + b_1) + b_2                   v: the guide; W_1 is r W by G, W_2 is W by r W
        y = relu(norm(W_h (m * x)))                       W_h is H by W; norm is layer normalisation, or + b_h without it

    Wang et al. 2021, "MaskNet: Introducing Feature-Wise Multiplication to CTR Ranking Models by Instance-Guided Mask", sections 3.1 to 3.3,
    equations 5, 12 and 14. ratio: r, the paper's reduction ratio (of the mask's inner layer to the mask). dropout: of y.
    Cost: r W (G + W) + W H multiplications a row.
    """

    def __init__(self, guide: int, width: int, out: int, ratio: float = 2.0, layer_norm: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        inner = max(1, int(ratio * width))
        self.mask = nn.Sequential(linear(guide, inner), nn.ReLU(), linear(inner, width))
        self.hidden = linear(width, out, bias=not layer_norm)
        self.finish = nn.Sequential(nn.LayerNorm(out) if layer_norm else nn.Identity(), nn.ReLU(), Dropout(dropout))

    def forward(self, guide: Tensor, x: Tensor) -> Tensor:
        """[B, G], [B, W] -> [B, H]."""
        y: Tensor = self.finish(self.hidden(self.mask(guide) * x))
        return y
