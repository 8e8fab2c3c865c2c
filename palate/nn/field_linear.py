"""A linear layer over the axis of the vectors: new vectors as weighted sums of the old."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FieldLinear(nn.Module):
    """l vectors out of m: [B, m, D] -> [B, l, D].

        u = W X              W in R^{l x m}: u_i = sum_j W_ij x_j

    The linear module of DHEN (Zhang et al. 2022, arXiv 2203.11014, equation 6), which its other modules end with and its shortcut is where
    the number of vectors changes (equation 2); the linear compression block of Wukong (Zhang et al. 2024, arXiv 2403.02545).
    W starts as Glorot's normal. Cost: l m D multiplications and l m parameters.

    >>> layer = FieldLinear(3, 2)
    >>> with torch.no_grad(): _ = layer.weight.copy_(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]]))
    >>> layer(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])).tolist()
    [[[4.0, 6.0], [10.0, 12.0]]]
    """

    def __init__(self, count: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(out, count)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, m, D] -> [B, l, D]."""
        # A product a row is quicker, forward and back, than one of [B D, m] with W^T, which needs X turned round in memory.
        return torch.bmm(self.weight.expand(len(x), -1, -1), x)
