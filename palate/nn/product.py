"""The outer product layer of PNN: how every number of every field goes with every number of every other, summed over the fields."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OuterProduct(nn.Module):
    """The superposed outer products of all pairs of field vectors: [B, F, D] -> [B, D (D + 1) / 2].

        p = sum_i sum_j f_i f_j^T = f f^T   with f = sum_i f_i,          y[b, (k, l)] = p[k, l] for k >= l

    in the order (0, 0), (1, 0), (1, 1), (2, 0), ... Qu et al. 2016, "Product-based Neural Networks for User Response Prediction", section
    III-C: the outer products of single pairs would be F^2 D^2 numbers, their sum is D^2. It is symmetric, and so are
    the paper's weights on it, so the lower triangle with the diagonal is all there is to weigh. The inner product layer of that paper is
    `Dot`. Cost: B F D for the sum and B D^2. `OuterProduct.width(D)` is the number of products.

    >>> OuterProduct()(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]]]))  # f = (4, 7)
    tensor([[16., 28., 49.]])
    """

    @staticmethod
    def width(size: int) -> int:
        """How many numbers vectors of width D make."""
        return size * (size + 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, D] -> [B, D (D + 1) / 2]."""
        f = x.sum(dim=1)
        rows, columns = torch.tril_indices(x.shape[2], x.shape[2], device=x.device)
        return f[:, rows] * f[:, columns]
