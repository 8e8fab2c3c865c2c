"""The cross module of DHEN: products of single numbers of the vectors, summed over the vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from palate.nn.mlp import linear


class FieldCross(nn.Module):
    """l vectors out of all products of two numbers: [B, m, D] -> [B, l, D].

        u = W (X^T X) + b          X^T X in R^{D x D}: entry (p, q) is sum_i x_ip x_iq;   W and b in R^{l x D}

    Zhang et al. 2022, "DHEN", arXiv 2203.11014, equation 7, written there for X of shape D x m as X X^T W + b. It is the cross layer of
    DCN (Wang et al. 2017) for matrices, without DCN's own skip: DHEN's shortcut is one. Computed as (X W^T)^T X, so that the D x D matrix
    is never made. Cost: 2 l m D multiplications, 2 l D parameters.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.weight = linear(width, out, bias=False)
        self.bias = nn.Parameter(torch.zeros(out, width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, m, D] -> [B, l, D]."""
        y: Tensor = self.weight(x)
        return torch.bmm(y.transpose(1, 2), x.to(y.dtype)) + self.bias
