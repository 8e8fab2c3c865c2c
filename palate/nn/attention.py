"""Self-attention among the field vectors of a row: every field looks at every other and takes what concerns it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from palate.nn.mlp import linear
from palate.types import ConfigError


class FieldAttention(nn.Module):
    """One interacting layer, K heads over F fields: x [B, F, D] -> [B, F, A].

        a^k_{ij} = softmax_j(s <Q^k x_i, K^k x_j>)        s = 1, or 1 / sqrt(A / K) with `scale`
        y_i      = [sum_j a^k_{ij} V^k x_j for every head k]
        out_i    = relu(norm(y_i + R x_i))

    Song et al. 2019, "AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks", section 4.4. Q^k, K^k, V^k are
    A / K by D, without biases; R is A by D, or nothing at all where A = D (`residual` = False leaves R x away). norm: layer normalisation,
    or nothing. dropout: of the attention weights. Scale and norm are those of the published code, from Vaswani et al. 2017, "Attention Is
    All You Need". Cost: 3 F D A + 2 F^2 A multiplications a row, F D A more for R.
    """

    def __init__(
        self,
        width: int,
        attention: int,
        heads: int = 1,
        residual: bool = True,
        scale: bool = False,
        layer_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if attention % heads:
            raise ConfigError(f"attention: a width of {attention} cannot be shared by {heads} heads; make it a multiple")
        self.heads, self.residual, self.dropout = heads, residual, dropout
        self.scale = (attention // heads) ** -0.5 if scale else 1.0
        self.project = linear(width, 3 * attention, bias=False)  # Q, K, V one below the other, and their heads within each
        nn.init.normal_(self.project.weight, std=(2 / (width + attention)) ** 0.5)
        self.match = linear(width, attention, bias=False) if residual and width != attention else None
        self.norm = nn.LayerNorm(attention) if layer_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, D] -> [B, F, A]."""
        batch, fields, _ = x.shape
        parts = self.project(x).view(batch, fields, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # [3, B, K, F, A / K]
        queries, keys, values = parts.unbind()
        dropout = self.dropout if self.training else 0.0
        y = functional.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, scale=self.scale)
        out = y.transpose(1, 2).reshape(batch, fields, -1)
        if self.residual:
            out = out + (x if self.match is None else self.match(x))
        if self.norm is not None:
            out = self.norm(out)
        return torch.relu(out)
