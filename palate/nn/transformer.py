"""One layer of a Transformer's encoder, over the vectors of a row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from palate.nn.mlp import MLP, linear
from palate.types import ConfigError


class TransformerLayer(nn.Module):
    """Every vector looks at all others: [B, m, D] -> [B, m, D].

        a_h = softmax(Q_h K_h^T / sqrt(D / H)) V_h        Q_h, K_h, V_h = X times [D, D / H] each, plus a bias
        y   = LayerNorm(X + W_o [a_1, ..., a_H] + b_o)
        out = LayerNorm(y + W_2 relu(W_1 y + b_1) + b_2)  W_1: D -> 4 D, W_2: 4 D -> D

    Vaswani et al. 2017, "Attention Is All You Need", sections 3.1 to 3.3, without positions: fields have no order, and their vectors say
    which they are. Cost: 12 m D^2 + 2 m^2 D multiplications, 12 D^2 + 13 D parameters. Errors: ConfigError where H does not divide D.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"heads: {heads} do not divide the width {width}")
        self.heads = heads
        self.queries_keys_values = linear(width, 3 * width)
        self.out = linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(MLP(width, (4 * width,)), linear(4 * width, width))
        self.mlp_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, m, D] -> [B, m, D]."""
        batch, count, width = x.shape
        each = self.queries_keys_values(x).view(batch, count, 3, self.heads, width // self.heads)
        queries, keys, values = each.permute(2, 0, 3, 1, 4)  # [B, H, m, D / H]
        # Plain products: for rows as short as these, fused attention takes half as long again on a CPU.
        weights = torch.softmax(queries * (width // self.heads) ** -0.5 @ keys.transpose(2, 3), dim=3)
        seen = (weights @ values).transpose(1, 2).reshape(batch, count, width)
        x = self.norm(x + self.out(seen))
        y: Tensor = self.mlp_norm(x + self.mlp(x))
        return y
