"""DeepFM: a factorisation machine and a deep network side by side, on the same embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pydantic
from torch import Tensor, nn

from palate.nn.body import Body
from palate.nn.mlp import MLP, Head
from palate.rank.fm import FMNetwork
from palate.rank.neural import Embed, NeuralRanker
from palate.types import Batch, ConfigError, Inputs

Layers = tuple[pydantic.PositiveInt, ...]


class DeepFMNetwork(Body):
    """First order, second order, deep:

        v      = the field vectors of the FM, one for each sparse feature and dense column        [B, F, T D]
        y_FM   = sum_i w_i x_i + sum_{i < j} <v_i, v_j> x_i x_j                                   [B, T]
        h      = MLP([v_1 x_1, ..., v_F x_F])                                                     [B, H]
        logits = y_FM + W h + b                                                                   [B, T]

    Guo et al. 2017, "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", section 2.1, equations 1 to 4: the FM
    and the network read the same vectors, and both train them. b is the only bias. With T tasks each has its own D factors and its own
    first-order weights, and the network reads the factors of all.

    fm: the FM without its bias. layers, activation, dropout, batch_norm: of the MLP.
    """

    def __init__(
        self, fm: FMNetwork, layers: Sequence[int], activation: str = "relu", dropout: float = 0.0, batch_norm: bool = False
    ) -> None:
        super().__init__()
        if fm.fields.count == 0:
            raise ConfigError("deepfm: the network has nothing to look at; give it a feature")
        self.fm = fm
        self.deep = MLP(fm.fields.flat, layers, activation, dropout, batch_norm)
        self.head = Head(self.deep.width_out, fm.second.tasks)

    def represent(self, batch: Batch) -> Tensor:
        """Batch -> the last hidden layer, [B, H]."""
        hidden: Tensor = self.deep(self.fm.fields(batch).flatten(1))
        return hidden

    def forward(self, batch: Batch) -> Tensor:
        """Batch -> logits [B, T], float32."""
        vectors = self.fm.fields(batch)
        logits: Tensor = self.fm.first(batch) + self.fm.second(vectors) + self.head(self.deep(vectors.flatten(1)))
        return logits


class DeepFM(NeuralRanker):
    """DeepFM on labelled candidates. Cost a row: the MLP, and F D multiplications a task for the FM."""

    class Config(NeuralRanker.Config):
        """width: of the factors of each task, D. layers, activation, dropout, batch_norm: of the deep part.

        init, init_std: N(0, 0.01^2), as for `FM` and for its reasons; the deep part does not mind.
        """

        layers: Layers = (64, 32)
        activation: str = "relu"
        dropout: float = pydantic.Field(0.0, ge=0, lt=1)
        batch_norm: bool = False
        init: Literal["uniform", "normal"] = "normal"
        init_std: float = pydantic.Field(0.01, ge=0)

    config: Config

    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        own = self.config
        fm = FMNetwork(inputs, embed, own.train, own.width, own.init_std, bias=False)
        return DeepFMNetwork(fm, own.layers, own.activation, own.dropout, own.batch_norm)
