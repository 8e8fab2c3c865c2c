"""DCN V2: cross layers with whole matrices, or with mixtures of low-rank ones, before or beside a multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pydantic
import torch
from torch import Tensor, nn

from palate.nn.body import Body
from palate.nn.cross import MatrixCross, MixtureCross
from palate.nn.embedding import Embeddings
from palate.nn.mlp import MLP, Head
from palate.nn.stack import Stack
from palate.rank.dlrm import Layers
from palate.rank.neural import Embed, NeuralRanker
from palate.types import Batch, ConfigError, Inputs


class DCNV2Network(Body):
    """A cross network and a deep network, joined in one of two ways:

        x_0      = [e_1, ..., e_F, x_dense]               [B, W]
        x_{l+1}  = x_0 * (W_l x_l + b_l) + x_l            cross, or its mixture of low-rank experts (`MixtureCross`)
        parallel:  logits = W [x_L, deep(x_0)] + b        [B, T]
        stacked:   logits = W deep(x_L) + b
        cross:     logits = W x_L + b                     without a deep network

    Wang et al. 2021, "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank Systems", sections 3.1 to
    3.5, figure 1.
    """

    def __init__(
        self,
        inputs: Inputs,
        embeddings: Embeddings,
        cross: int,
        layers: Sequence[int],
        structure: Literal["parallel", "stacked", "cross"] = "parallel",
        rank: int | None = None,
        experts: int = 1,
        activation: str = "identity",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.stack = Stack(inputs, embeddings)
        self.structure = structure
        width = self.stack.width_out
        self.cross = MatrixCross(width, cross) if rank is None else MixtureCross(width, cross, rank, experts, activation)
        self.deep = None if structure == "cross" else MLP(width, layers, dropout=dropout, batch_norm=batch_norm)
        joint = (0 if structure == "stacked" else width) + (self.deep.width_out if self.deep is not None else 0)
        self.head = Head(joint, len(inputs.tasks))

    def represent(self, batch: Batch) -> Tensor:
        """Batch -> what the structure puts before the logits, [B, H]."""
        x0 = self.stack(batch)
        crossed: Tensor = self.cross(x0)
        if self.deep is None:
            return crossed
        if self.structure == "stacked":
            hidden: Tensor = self.deep(crossed)
            return hidden
        return torch.cat([crossed, self.deep(x0).to(crossed.dtype)], dim=1)


class DCNV2(NeuralRanker):
    """DCN V2 on labelled candidates. Cost a row: the MLP, and `cross` times W^2, or 2 W rank experts, where W is the width of the row."""

    class Config(NeuralRanker.Config):
        """cross: cross layers. layers: of the deep network. structure: "parallel", "stacked", or "cross" for the cross network alone.

        rank: of the low-rank cross layers (None: whole matrices). experts: how many of them a layer mixes. activation: between their
        matrices ("identity": none). dropout, batch_norm: in the deep network.
        """

        cross: int = pydantic.Field(2, ge=0)
        layers: Layers = (64, 32)
        structure: Literal["parallel", "stacked", "cross"] = "parallel"
        rank: int | None = pydantic.Field(None, ge=1)
        experts: int = pydantic.Field(1, ge=1)
        activation: str = "identity"
        dropout: float = pydantic.Field(0.0, ge=0, lt=1)
        batch_norm: bool = False

    config: Config

    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        own = self.config
        if own.rank is None and (own.experts > 1 or own.activation != "identity"):
            raise ConfigError(f"{self.name}: experts and activation belong to low-rank cross layers; set rank, or leave them out")
        return DCNV2Network(
            inputs,
            embed(own.width),
            own.cross,
            own.layers,
            own.structure,
            own.rank,
            own.experts,
            own.activation,
            own.dropout,
            own.batch_norm,
        )
