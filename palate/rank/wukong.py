"""Wukong: a stack of factorisation machines and linear compressions, built to be made larger."""

from __future__ import annotations

from collections.abc import Sequence

import pydantic
import torch
from torch import Tensor, nn

from palate.nn.body import Body
from palate.nn.embedding import Embeddings
from palate.nn.factorization_block import FactorizationBlock
from palate.nn.field_linear import FieldLinear
from palate.nn.mlp import MLP, Head
from palate.rank.neural import Embed, NeuralRanker
from palate.types import Batch, ConfigError, Inputs

Layers = tuple[pydantic.PositiveInt, ...]


class WukongLayer(nn.Module):
    """Products and mixtures of the vectors side by side, over a residual: X [B, m, D] -> Y [B, n_F + n_L, D].

    Y = LayerNorm([FMB(X), LCB(X)] + X)          FMB: n_F vectors, LCB = W X: n_L;  for m != n_F + n_L the last X is W' X
    """

    def __init__(self, count: int, width: int, products: int, mixtures: int, rank: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.count_out = products + mixtures
        self.products = FactorizationBlock(count, width, products, rank, hidden)
        self.mixtures = FieldLinear(count, mixtures)
        self.shortcut = nn.Identity() if count == self.count_out else FieldLinear(count, self.count_out)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, m, D] -> [B, n_F + n_L, D]."""
        y: Tensor = self.norm(torch.cat([self.products(x), self.mixtures(x)], dim=1) + self.shortcut(x))
        return y


class WukongNetwork(Body):
    """The layers over the embeddings, and a network on top:

        X_0     = [bottom(dense), e_1, ..., e_F]              [B, m, D]             as in DLRM
        X_{i+1} = WukongLayer_i(X_i)                          [B, n_F + n_L, D]     i = 0 ... N - 1
        logits  = top(X_N, flat)                              [B, T]

    Zhang et al. 2024, "Wukong: Towards a Scaling Law for Large-Scale Recommendation", arXiv 2403.02545, section 3. A layer multiplies what
    the last one multiplied, beside what it passed on: after i layers there are products of all orders from 1 to 2^i.
    """

    def __init__(
        self,
        inputs: Inputs,
        embeddings: Embeddings,
        layers: int,
        products: int,
        mixtures: int,
        rank: int,
        hidden: Sequence[int],
        bottom: Sequence[int] = (),
        top: Sequence[int] = (),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        width = embeddings.width
        self.bottom = MLP(len(inputs.dense), (*bottom, width), batch_norm=batch_norm) if inputs.dense else None
        count = len(inputs.sparse) + (self.bottom is not None)
        if not count:
            raise ConfigError("wukong: the network has nothing to look at; give it a feature")
        counts = [count, *[products + mixtures] * (layers - 1)]
        self.layers = nn.Sequential(*(WukongLayer(m, width, products, mixtures, rank, hidden) for m in counts))
        self.top = MLP((products + mixtures) * width, top, dropout=dropout, batch_norm=batch_norm)
        self.head = Head(self.top.width_out, len(inputs.tasks))

    def represent(self, batch: Batch) -> Tensor:
        """Batch -> the last hidden layer, [B, H]."""
        x: Tensor = self.embeddings(batch.sparse)
        if self.bottom is not None:
            x = torch.cat([self.bottom(batch.dense).unsqueeze(1), x], dim=1)
        hidden: Tensor = self.top(self.layers(x).flatten(1))
        return hidden


class Wukong(NeuralRanker):
    """Wukong on labelled candidates. Cost a row and layer of m vectors: 2 m k D, the block's network from m k to n_F D, and n_L m D."""

    class Config(NeuralRanker.Config):
        """layers: N. products: n_F, the vectors that a layer's factorisation machine makes. mixtures: n_L, those of its linear compression.

        rank: k, mixtures that each vector is multiplied with. hidden: layers between those products and the n_F vectors.
        bottom, top: hidden layers below and above (the bottom's last one, of width `width`, and the logits come on their own).
        dropout: in the top. batch_norm: in both.
        """

        layers: int = pydantic.Field(2, ge=1)
        products: int = pydantic.Field(8, ge=1)
        mixtures: int = pydantic.Field(8, ge=1)
        rank: int = pydantic.Field(8, ge=1)
        hidden: Layers = (64,)
        bottom: Layers = (64,)
        top: Layers = (64, 32)
        dropout: float = pydantic.Field(0.0, ge=0, lt=1)
        batch_norm: bool = False

    config: Config

    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        own = self.config
        return WukongNetwork(
            inputs,
            embed(own.width),
            own.layers,
            own.products,
            own.mixtures,
            own.rank,
            own.hidden,
            own.bottom,
            own.top,
            own.dropout,
            own.batch_norm,
        )
