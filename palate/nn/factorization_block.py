"""Wukong's factorisation machine block: products of all vectors, made into vectors again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from palate.nn.field_linear import FieldLinear
from palate.nn.mlp import MLP, linear


class FactorizationBlock(nn.Module):
    """n_F vectors out of the pairwise products of m: [B, m, D] -> [B, n_F, D].

        P = X X^T Y                              [B, m, k]         Y in R^{m x k}: k mixtures of the products of each vector
        h = MLP(LayerNorm(P, flat))              [B, H]            ReLU after every layer
        u = W h + b                              [B, n_F D], read as n_F vectors

    Zhang et al. 2024, "Wukong: Towards a Scaling Law for Large-Scale Recommendation", arXiv 2403.02545, the Factorization Machine Block and
    the "optimized FM": computed as X (X^T Y), the m x m products are never made, and cost 2 m k D multiplications instead of m^2 D.
    rank: k. hidden: layers of the MLP, whose first has m k inputs.
    """

    def __init__(self, count: int, width: int, out: int, rank: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.out = out
        self.mixtures = FieldLinear(count, rank)  # Y^T
        self.norm = nn.LayerNorm(count * rank)
        self.mlp = MLP(count * rank, hidden)
        self.vectors = linear(self.mlp.width_out, out * width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, m, D] -> [B, n_F, D]."""
        mixtures = self.mixtures(x)
        products = torch.bmm(x.to(mixtures.dtype), mixtures.transpose(1, 2))
        return self.vectors(self.mlp(self.norm(products.flatten(1)))).view(len(x), self.out, x.shape[2])
