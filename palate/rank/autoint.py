"""AutoInt: field vectors that attend to each other, layer after layer; AutoInt+: with a multilayer perceptron beside them."""

from __future__ import annotations

from collections.abc import Sequence

import pydantic
import torch
from torch import Tensor, nn

from palate.nn.attention import FieldAttention
from palate.nn.body import Body
from palate.nn.embedding import Embeddings
from palate.nn.fields import Fields
from palate.nn.first_order import FirstOrder, width_for
from palate.nn.heads import SumHead
from palate.nn.mlp import MLP
from palate.rank.dlrm import Layers
from palate.rank.neural import Embed, NeuralRanker
from palate.types import Batch, ConfigError, Inputs


class AutoIntNetwork(Body):
    """Interacting layers over the field vectors, and what is put beside them:

        X^0    = [e_1, ..., e_F]                              [B, F, D]
        X^l    = attention_l(X^{l-1})                         [B, F, A]      l = 1 ... L, see `FieldAttention`
        h      = MLP(X^0 laid flat)                           [B, H]         AutoInt+ only
        logits = W (X^L laid flat) + b  +  W_h h + b_h        [B, T]

    Song et al. 2019, "AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks", sections 4.2 to 4.5; AutoInt+,
    section 5.5. attention: A, over all heads together. first: tables of width `width_for(T, ...)` for a linear part, where one is wanted.
    """

    head: SumHead

    def __init__(
        self,
        inputs: Inputs,
        embeddings: Embeddings,
        attention: int,
        heads: int,
        depth: int,
        layers: Sequence[int],
        residual: bool = True,
        scale: bool = False,
        layer_norm: bool = False,
        dropout: float = 0.0,
        batch_norm: bool = False,
        first: Embeddings | None = None,
    ) -> None:
        super().__init__()
        self.fields = Fields(inputs, embeddings)
        if self.fields.count == 0:
            raise ConfigError("autoint: the network has nothing to look at; give it a feature")
        widths = (self.fields.width, *[attention] * (depth - 1))
        self.attention = nn.Sequential(*(FieldAttention(width, attention, heads, residual, scale, layer_norm, dropout) for width in widths))
        self.deep = MLP(self.fields.flat, layers, dropout=dropout, batch_norm=batch_norm) if layers else None
        self.first = FirstOrder(inputs, first, bias=False) if first is not None else None
        parts = (self.fields.count * attention, *((self.deep.width_out,) if self.deep is not None else ()))
        self.head = SumHead(parts, len(inputs.tasks))

    def represent(self, batch: Batch) -> Tensor:
        """Batch -> [X^L, h], [B, F A + H]."""
        x = self.fields(batch)
        seen: Tensor = self.attention(x).flatten(1)
        return seen if self.deep is None else torch.cat([seen, self.deep(x.flatten(1)).to(seen.dtype)], dim=1)

    def forward(self, batch: Batch) -> Tensor:
        """Batch -> logits [B, T], float32."""
        logits = super().forward(batch)
        return logits if self.first is None else logits + self.first(batch)


class AutoInt(NeuralRanker):
    """AutoInt on labelled candidates. Cost a row: `depth` times F (3 A^2 + 2 F A), which for many fields is far more than a usual MLP."""

    class Config(NeuralRanker.Config):
        """attention: width of the fields after a layer, over all heads together. heads: of each layer. depth: interacting layers.

        residual, scale, layer_norm: of each layer, see `FieldAttention`. layers: of the MLP; with any it is AutoInt+. wide: adds a linear
        part. dropout: of attention weights and in the MLP. batch_norm: in the MLP.
        """

        attention: int = pydantic.Field(16, ge=1)
        heads: int = pydantic.Field(2, ge=1)
        depth: int = pydantic.Field(2, ge=1)
        residual: bool = True
        scale: bool = True
        layer_norm: bool = False
        layers: Layers = (64, 32)
        wide: bool = False
        dropout: float = pydantic.Field(0.0, ge=0, lt=1)
        batch_norm: bool = False

    config: Config

    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        own = self.config
        first = embed(width_for(len(inputs.tasks), own.train.sparse != "dense"), init="normal", std=0.0) if own.wide else None
        return AutoIntNetwork(
            inputs,
            embed(own.width),
            own.attention,
            own.heads,
            own.depth,
            own.layers,
            own.residual,
            own.scale,
            own.layer_norm,
            own.dropout,
            own.batch_norm,
            first,
        )
