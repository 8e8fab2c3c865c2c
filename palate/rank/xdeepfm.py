"""xDeepFM: a linear part, explicit interactions of whole vectors (CIN), and a multilayer perceptron, added."""

from __future__ import annotations

from collections.abc import Sequence

import pydantic
import torch
from torch import Tensor, nn

from palate.nn.body import Body
from palate.nn.cin import CIN
from palate.nn.embedding import Embeddings
from palate.nn.fields import Fields
from palate.nn.first_order import FirstOrder, width_for
from palate.nn.heads import SumHead
from palate.nn.mlp import MLP
from palate.rank.dlrm import Layers
from palate.rank.neural import Embed, NeuralRanker
from palate.types import Batch, ConfigError, Inputs


class XDeepFMNetwork(Body):
    """Three parts on the same inputs:

        X      = [e_1, ..., e_F]                              [B, F, D]      the field vectors
        p      = CIN(X)                                       [B, H_1 + ... + H_L]
        h      = MLP(X laid flat)                             [B, H]
        logits = w_linear a + W_cin p + W_dnn h + b           [B, T]         a: the ids and dense columns themselves

    Lian et al. 2018, "xDeepFM: Combining Explicit and Implicit Feature Interactions for Recommender Systems", section 3.3, equation 15,
    figure 5. Without deep layers it is CIN with a linear part. first: tables of width `width_for(T, ...)` for the linear part.
    """

    head: SumHead

    def __init__(
        self,
        inputs: Inputs,
        embeddings: Embeddings,
        first: Embeddings,
        cin: Sequence[int],
        layers: Sequence[int],
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.fields = Fields(inputs, embeddings)
        if self.fields.count == 0:
            raise ConfigError("xdeepfm: the network has nothing to look at; give it a feature")
        self.first = FirstOrder(inputs, first, bias=False)
        self.cin = CIN(self.fields.count, cin)
        self.deep = MLP(self.fields.flat, layers, dropout=dropout, batch_norm=batch_norm) if layers else None
        widths = (self.cin.width_out, *((self.deep.width_out,) if self.deep else ()))
        self.head = SumHead(widths, len(inputs.tasks))

    def represent(self, batch: Batch) -> Tensor:
        """Batch -> [p, h], [B, H_1 + ... + H_L + H]."""
        x = self.fields(batch)
        p: Tensor = self.cin(x)
        return p if self.deep is None else torch.cat([p, self.deep(x.flatten(1)).to(p.dtype)], dim=1)

    def forward(self, batch: Batch) -> Tensor:
        """Batch -> logits [B, T], float32."""
        return super().forward(batch) + self.first(batch)


class XDeepFM(NeuralRanker):
    """xDeepFM on labelled candidates. Cost a row: the MLP and that of `CIN`, which grows with the square of the feature maps a layer."""

    class Config(NeuralRanker.Config):
        """cin: feature maps of each CIN layer. layers: of the MLP (none: CIN alone). dropout, batch_norm: in the MLP."""

        cin: tuple[pydantic.PositiveInt, ...] = (16, 16)
        layers: Layers = (64, 32)
        dropout: float = pydantic.Field(0.0, ge=0, lt=1)
        batch_norm: bool = False

    config: Config

    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        own = self.config
        if not own.cin:
            raise ConfigError(f"{self.name}.cin: expected at least one layer; without any it is a plain network, which `mlp` is")
        first = embed(width_for(len(inputs.tasks), own.train.sparse != "dense"), init="normal", std=0.0)
        return XDeepFMNetwork(inputs, embed(own.width), first, own.cin, own.layers, own.dropout, own.batch_norm)
