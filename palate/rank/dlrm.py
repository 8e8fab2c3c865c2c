"""DLRM, the deep learning recommendation model: dense features become one more embedding, and all embeddings meet in dot products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pydantic
import torch
from torch import Tensor, nn

from palate.nn.body import Body
from palate.nn.dot import Dot
from palate.nn.embedding import Embeddings
from palate.nn.mlp import MLP, Head
from palate.rank.neural import Embed, NeuralRanker
from palate.types import Batch, ConfigError, Inputs

Layers = tuple[pydantic.PositiveInt, ...]


class DLRMNetwork(Body):
    """Bottom MLP, interaction, top MLP:

        z   = bottom(dense)                                   [B, D]     ReLU after every layer, the last of width D
        X   = [z, e_1, ..., e_F]                              [B, F + 1, D]
        dot:  h = [z, <x_i, x_j> for i > j]                   [B, D + F (F + 1) / 2]
        cat:  h = [z, e_1, ..., e_F]                          [B, (F + 1) D]
        logits = top(h)                                       [B, T]     ReLU between, linear at the end

    Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and Recommendation Systems", sections 2.1.3 and 2.1.4,
    figure 1. Without dense features there is no z; without sparse ones h is z alone.
    """

    def __init__(
        self,
        inputs: Inputs,
        embeddings: Embeddings,
        bottom: Sequence[int],
        top: Sequence[int],
        interaction: Literal["dot", "cat"] = "dot",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        width, features = embeddings.width, len(inputs.sparse)
        self.embeddings = embeddings
        self.bottom = MLP(len(inputs.dense), (*bottom, width), batch_norm=batch_norm) if inputs.dense else None
        vectors = features + (self.bottom is not None)
        self.interaction = Dot() if interaction == "dot" else None
        if self.interaction is None:
            joint = vectors * width
        else:
            joint = Dot.width(vectors) + (width if self.bottom is not None else 0)
        if joint == 0:
            raise ConfigError('dlrm: one vector has no products; give it another feature, or interaction = "cat"')
        self.top = MLP(joint, top, dropout=dropout, batch_norm=batch_norm)
        self.head = Head(self.top.width_out, len(inputs.tasks))

    def represent(self, batch: Batch) -> Tensor:
        """Batch -> the last hidden layer, [B, H]."""
        vectors: Tensor = self.embeddings(batch.sparse)
        first: list[Tensor] = []
        if self.bottom is not None:
            z = self.bottom(batch.dense)
            vectors = torch.cat([z.unsqueeze(1).to(vectors.dtype), vectors], dim=1)
            first = [z]
        if self.interaction is None:
            joint = vectors.flatten(1)
        else:
            joint = torch.cat([*first, self.interaction(vectors)], dim=1)
        hidden: Tensor = self.top(joint)
        return hidden


class DLRM(NeuralRanker):
    """DLRM on labelled candidates. Cost a row: the two MLPs and F^2 D for the products."""

    class Config(NeuralRanker.Config):
        """bottom, top: hidden layers (the bottom's last layer, of width `width`, and the top's logits come on their own).

        interaction: "dot" is the paper's; "cat" leaves the products out, which makes it a plain network over embeddings.
        dropout: in the top MLP. batch_norm: in both.
        """

        bottom: Layers = (64,)
        top: Layers = (64, 32)
        interaction: Literal["dot", "cat"] = "dot"
        dropout: float = pydantic.Field(0.0, ge=0, lt=1)
        batch_norm: bool = False

    config: Config

    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        own = self.config
        return DLRMNetwork(inputs, embed(own.width), own.bottom, own.top, own.interaction, own.dropout, own.batch_norm)
