"""The pairwise dot interaction of DLRM: how much every two features agree."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dot(nn.Module):
    """Dot products of all pairs of vectors: [B, F, D] -> [B, F (F - 1) / 2].

        y[b, (i, j)] = <x[b, i], x[b, j]>  for i > j, in the order (1, 0), (2, 0), (2, 1), (3, 0), ...

    Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and Recommendation Systems", section 2.1.3:
    second-order interactions as in factorization machines, without the products of a feature with itself.
    Cost: B F^2 D multiplications. `Dot.width(F)` is the number of pairs.

    >>> Dot()(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]]]))
    tensor([[11.,  2.,  4.]])
    """

    @staticmethod
    def width(features: int) -> int:
        """How many pairs F features make."""
        return features * (features - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, D] -> [B, F (F - 1) / 2]."""
        rows, columns = torch.tril_indices(x.shape[1], x.shape[1], offset=-1, device=x.device)
        return torch.bmm(x, x.transpose(1, 2))[:, rows, columns]
