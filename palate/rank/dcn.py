"""DCN, the deep and cross network: explicit products of bounded degree beside a multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

import pydantic
import torch
from torch import Tensor, nn

from palate.nn.body import Body
from palate.nn.cross import VectorCross
from palate.nn.embedding import Embeddings
from palate.nn.mlp import MLP, Head
from palate.nn.stack import Stack
from palate.rank.dlrm import Layers
from palate.rank.neural import Embed, NeuralRanker
from palate.types import Batch, Inputs


class DCNNetwork(Body):
    """Cross network and deep network side by side, joined by the head:

        x_0     = [e_1, ..., e_F, x_dense]                [B, W]
        x_{l+1} = x_0 <x_l, w_l> + b_l + x_l              cross, L layers
        h_{l+1} = relu(W_l h_l + b_l),  h_0 = x_0         deep
        logits  = W [x_L, h] + b                          [B, T]

    Wang et al. 2017, "Deep & Cross Network for Ad Click Predictions", figure 1, equations 2 to 6. Without deep layers it is the cross
    network alone.
    """

    def __init__(
        self, inputs: Inputs, embeddings: Embeddings, cross: int, layers: Sequence[int], dropout: float = 0.0, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.stack = Stack(inputs, embeddings)
        width = self.stack.width_out
        self.cross = VectorCross(width, cross)
        self.deep = MLP(width, layers, dropout=dropout, batch_norm=batch_norm) if layers else None
        self.head = Head(width + (self.deep.width_out if self.deep else 0), len(inputs.tasks))

    def represent(self, batch: Batch) -> Tensor:
        """Batch -> [x_L, h], [B, W + H]."""
        x0 = self.stack(batch)
        crossed: Tensor = self.cross(x0)
        return crossed if self.deep is None else torch.cat([crossed, self.deep(x0).to(crossed.dtype)], dim=1)


class DCN(NeuralRanker):
    """DCN on labelled candidates. Cost a row: the MLP, and `cross` times the width of the row."""

    class Config(NeuralRanker.Config):
        """cross: cross layers, L. layers: of the deep network (none: the cross network alone). dropout, batch_norm: in the deep network."""

        cross: int = pydantic.Field(2, ge=0)
        layers: Layers = (64, 32)
        dropout: float = pydantic.Field(0.0, ge=0, lt=1)
        batch_norm: bool = False

    config: Config

    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        own = self.config
        return DCNNetwork(inputs, embed(own.width), own.cross, own.layers, own.dropout, own.batch_norm)
