"""PNN: the products of all pairs of field vectors, beside the vectors themselves, as the first layer of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pydantic
import torch
from torch import Tensor, nn

from palate.nn.body import Body
from palate.nn.dot import Dot
from palate.nn.embedding import Embeddings
from palate.nn.fields import Fields
from palate.nn.mlp import MLP, Head
from palate.nn.product import OuterProduct
from palate.rank.neural import Embed, NeuralRanker
from palate.types import Batch, ConfigError, Inputs

Layers = tuple[pydantic.PositiveInt, ...]
Product = Literal["inner", "outer", "both"]


class PNNNetwork(Body):
    """Product layer, then fully connected ones:

        z      = [f_1, ..., f_F]                              [B, F D]               the field vectors: the linear signals
        p      = inner: [<f_i, f_j> for i > j]                [B, F (F - 1) / 2]     IPNN
                 outer: f f^T with f = sum_i f_i              [B, D (D + 1) / 2]     OPNN
                 both:  one after the other                                          PNN*
        h      = MLP([z, p])                                  [B, H]
        logits = W h + b                                      [B, T]

    Qu et al. 2016, "Product-based Neural Networks for User Response Prediction", section III: the first layer of the MLP is their
    relu(l_z + l_p + b_1) of section III-A, with l_z = W_z z and l_p = W_p p. Inner products (section III-B) have a weight a pair; the
    rank-one form of W_p that the paper brings in to save time is left out, for the pairs are few beside the first layer. Each pair is
    there once, and no field with itself. Outer products are superposed as in section III-C, see `OuterProduct`.
    """

    def __init__(
        self,
        inputs: Inputs,
        embeddings: Embeddings,
        product: Product = "inner",
        layers: Sequence[int] = (64, 32),
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.fields = Fields(inputs, embeddings)
        if self.fields.count < 2:
            raise ConfigError(f"pnn: products need two features, got {self.fields.count}; give it another one")
        self.inner = Dot() if product != "outer" else None
        self.outer = OuterProduct() if product != "inner" else None
        width = self.fields.flat
        width += Dot.width(self.fields.count) if self.inner is not None else 0
        width += OuterProduct.width(self.fields.width) if self.outer is not None else 0
        self.mlp = MLP(width, layers, activation, dropout, batch_norm)
        self.head = Head(self.mlp.width_out, len(inputs.tasks))

    def represent(self, batch: Batch) -> Tensor:
        """Batch -> the last hidden layer, [B, H]."""
        vectors: Tensor = self.fields(batch)
        products = [layer(vectors) for layer in (self.inner, self.outer) if layer is not None]
        hidden: Tensor = self.mlp(torch.cat([vectors.flatten(1), *products], dim=1))
        return hidden


class PNN(NeuralRanker):
    """A product-based network on labelled candidates. Cost a row: the MLP, and F^2 D (inner) or F D + D^2 (outer) for the products."""

    class Config(NeuralRanker.Config):
        """product: "inner" (IPNN), "outer" (OPNN), "both" (PNN*). layers, activation, dropout, batch_norm: of the network above it."""

        product: Product = "inner"
        layers: Layers = (64, 32)
        activation: str = "relu"
        dropout: float = pydantic.Field(0.0, ge=0, lt=1)
        batch_norm: bool = False

    config: Config

    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        own = self.config
        return PNNNetwork(inputs, embed(own.width), own.product, own.layers, own.activation, own.dropout, own.batch_norm)
