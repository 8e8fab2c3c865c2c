"""The multilayer perceptron as a ranker: embeddings and numbers, side by side, into fully connected layers. NCF and TFRS are settings."""

from __future__ import annotations

from collections.abc import Sequence

import pydantic
import torch
from torch import Tensor, nn

from palate.nn.body import Body
from palate.nn.embedding import Embeddings
from palate.nn.mlp import MLP, Head
from palate.rank.neural import Embed, NeuralRanker
from palate.types import Batch, ConfigError, Inputs

Layers = tuple[pydantic.PositiveInt, ...]


class MLPNetwork(Body):
    """The tower, and beside it the product of two features where one is asked for:

        x = [e_1, ..., e_F, dense]                            [B, F D + dense columns]
        h = tower(x)                                          [B, H]      ReLU after every layer
        p = u * v                                             [B, P]      element by element, u and v from tables of their own
        logits = W [p, h] + b                                 [B, T]

    Without p it is the plain network over embeddings (Covington et al. 2016, "Deep Neural Networks for YouTube Recommendations",
    section 4, ranking); with p it is NeuMF (He et al. 2017, "Neural Collaborative Filtering", equation 12), and p alone, without a tower,
    its GMF (equation 9). columns: the dense columns that the tower sees (None: all). product: tables of exactly two features.
    """

    _columns: Tensor | None

    def __init__(
        self,
        inputs: Inputs,
        embeddings: Embeddings,
        layers: Sequence[int],
        dropout: float = 0.0,
        batch_norm: bool = False,
        product: Embeddings | None = None,
        columns: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.embeddings, self.product = embeddings, product
        some = None if columns is None or list(columns) == list(range(len(inputs.dense))) else torch.tensor(list(columns), dtype=torch.long)
        self.register_buffer("_columns", some, persistent=False)
        width = len(embeddings.names) * embeddings.width + (len(inputs.dense) if some is None else len(some))
        if width == 0 and product is None:
            raise ConfigError("mlp: the network has nothing to look at; give it a feature")
        self.tower = MLP(width, layers, dropout=dropout, batch_norm=batch_norm) if width else None
        joint = (self.tower.width_out if self.tower is not None else 0) + (product.width if product is not None else 0)
        self.head = Head(joint, len(inputs.tasks))

    def represent(self, batch: Batch) -> Tensor:
        """Batch -> [p, h], [B, P + H]."""
        parts: list[Tensor] = []
        if self.product is not None:
            u, v = self.product(batch.sparse).unbind(dim=1)
            parts.append(u * v)
        if self.tower is not None:
            dense = batch.dense if self._columns is None else batch.dense.index_select(1, self._columns)
            parts.append(self.tower(torch.cat([self.embeddings(batch.sparse).flatten(1), dense], dim=1)))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


class MLPRanker(NeuralRanker):
    """A plain network on labelled candidates. Cost a row: that of the tower.

    Neural collaborative filtering (He et al. 2017, section 3.4, "NeuMF") learns from the two ids alone, by their product and by a tower,
    each with tables of its own (with `only=()` there is no tower, and what is left is their GMF):

    >>> from palate.types import Inputs, SparseInput
    >>> inputs = Inputs(("age",), (SparseInput("user", "user", 1000), SparseInput("item", "item", 500), SparseInput("hour", "hour", 25)))
    >>> neumf = MLPRanker(product=("user", "item"), only=("user", "item"), width=8, layers=(32, 16, 8))
    >>> neumf.build(inputs).head                             # 8 of the product, 8 of the tower
    Head(in_features=16, out_features=1, bias=True)

    The ranking model of TensorFlow Recommenders (TFRS 2020, tutorial "Recommending movies: ranking") is a tower of 256 and 64 units on
    the vectors of user and item:

    >>> tfrs = MLPRanker(only=("user", "item"), width=32, layers=(256, 64))
    >>> tfrs.build(inputs).tower.hidden[0]
    Linear(in_features=64, out_features=256, bias=True)
    """

    class Config(NeuralRanker.Config):
        """layers: of the tower. dropout, batch_norm: in the tower.

        only: the sparse features and dense columns that the tower sees (None: all there are; empty: no tower).
        product: two sparse features whose vectors, from tables of their own, are multiplied element by element and go to the head beside
        the tower's last layer. product_width: of those vectors (None: `width`). Vectors that start as N(0, 1e-4^2) make products near 0,
        from which they learn slowly: He et al. draw them from N(0, 0.01^2).
        """

        layers: Layers = (64, 32)
        dropout: float = pydantic.Field(0.0, ge=0, lt=1)
        batch_norm: bool = False
        only: tuple[str, ...] | None = None
        product: tuple[str, str] | None = None
        product_width: int | None = pydantic.Field(None, ge=1)

    config: Config

    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        own = self.config
        if own.product and own.product[0] == own.product[1]:
            raise ConfigError(f"{self.name}.product: expected two features, got {own.product[0]!r} twice")
        product = embed(own.product_width or own.width, only=own.product) if own.product else None
        columns = None if own.only is None else [place for place, name in enumerate(inputs.dense) if name in own.only]
        sparse = None if own.only is None else [name for name in own.only if name not in inputs.dense]
        return MLPNetwork(inputs, embed(own.width, only=sparse), own.layers, own.dropout, own.batch_norm, product, columns)
