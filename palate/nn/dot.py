"""The pairwise dot interaction of DLRM: how much every two features agree."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from palate.nn.precision import full_precision


class Dot(nn.Module):
    """Dot products of all pairs of vectors: [B, F, D] -> [B, F (F - 1) / 2], computed in float32 also under autocast.

        y[b, (i, j)] = <x[b, i], x[b, j]>  for i > j, in the order (1, 0), (2, 0), (2, 1), (3, 0), ...

    Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and Recommendation Systems", section 2.1.3:
    second-order interactions as in factorization machines, without the products of a feature with itself.
    Cost: B F^2 D multiplications. `Dot.width(F)` is the number of pairs. The vectors are short, so that memory and not arithmetic sets
    the pace, and float32 costs no more than bfloat16 would.

    >>> Dot()(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]]]))
    tensor([[11.,  2.,  4.]])
    """

    pairs: Tensor  # [P], where the pairs stand in the flattened matrix of all products
    places: Tensor  # [F F], for each entry of that matrix its pair, or P for the diagonal

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pairs", torch.empty(0, dtype=torch.long), persistent=False)
        self.register_buffer("places", torch.empty(0, dtype=torch.long), persistent=False)

    @staticmethod
    def width(features: int) -> int:
        """How many pairs F features make."""
        return features * (features - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, D] -> [B, F (F - 1) / 2]."""
        features = x.shape[1]
        if len(self.places) != features**2 or self.places.device != x.device:
            rows, columns = torch.tril_indices(features, features, offset=-1, device=x.device)
            self.pairs = rows * features + columns
            places = torch.full((features, features), len(rows), dtype=torch.long, device=x.device)
            places[rows, columns] = places[columns, rows] = torch.arange(len(rows), device=x.device)
            self.places = places.flatten()
        wide = x if x.dtype == torch.float64 else x.float()
        with full_precision(x.device):
            products: Tensor = _Products.apply(wide, self.pairs, self.places)  # type: ignore[no-untyped-call]
        return products


class _Products(torch.autograd.Function):
    """With G the gradient as a symmetric matrix with a zero diagonal, dL/dX = G X: one gather and one product a direction.

    What autograd would do for the same forward pass scatters the gradient and multiplies twice; it takes three times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, pairs: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(x, places)
        return torch.bmm(x, x.transpose(1, 2)).flatten(1).index_select(1, pairs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, places = ctx.saved_tensors
        symmetric = nn.functional.pad(gradient, (0, 1)).index_select(1, places).view(len(x), x.shape[1], x.shape[1])
        return torch.bmm(symmetric, x), None, None
