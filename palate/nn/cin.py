"""CIN, the compressed interaction network: products of field vectors, element by element, summed into feature maps layer after layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from palate.nn.mlp import linear


class CIN(nn.Module):
    """Explicit interactions of one degree more a layer: X^0 [B, F, D] -> p [B, H_1 + ... + H_L].

        X^k_h = b^k_h + sum_{i, j} W^{k,h}_{ij} (X^0_i * X^{k-1}_j)        h = 1 ... H_k, * element by element: [B, H_k, D]
        p^k_h = sum_d X^k_{h,d}                                            p = [p^1, ..., p^L]

    Lian et al. 2018, "xDeepFM: Combining Explicit and Implicit Feature Interactions for Recommender Systems", section 3.1, equation 6
    (there without b), in its linear form and direct: every layer is pooled whole, and goes whole into the next.

    Cost: layer k takes F H_{k-1} D (1 + H_k) multiplications a row and holds F H_{k-1} D numbers a row. The last layer only F H_{k-1}
    (D + H_k): what feeds no other layer can be pooled before it is weighed, and the pooled products are a product of two small matrices.
    `width_out` is the width of p.
    """

    def __init__(self, fields: int, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linear(fields * before, size) for before, size in zip((fields, *layers), layers, strict=False))
        self.width_out = sum(layers)

    def forward(self, x0: Tensor) -> Tensor:
        """[B, F, D] -> [B, width_out]."""
        batch, fields, depth = x0.shape
        first = x = x0.transpose(1, 2).reshape(batch * depth, fields)
        pooled = []
        for layer in self.layers[:-1]:
            products = torch.bmm(first.unsqueeze(2), x.unsqueeze(1)).flatten(1)  # [B D, F H]: faster than a broadcast *
            x = layer(products)
            pooled.append(x.view(batch, depth, -1).sum(dim=1))
        for layer in self.layers[-1:]:
            assert isinstance(layer, nn.Linear)
            products = torch.bmm(x0, x.view(batch, depth, -1)).flatten(1)  # [B, F H]: already summed over D
            pooled.append(functional.linear(products, layer.weight, depth * layer.bias))
        return torch.cat(pooled, dim=1)
