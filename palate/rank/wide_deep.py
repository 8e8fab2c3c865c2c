"""Wide & Deep: a linear model that memorises beside a network that generalises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import pydantic
import torch
from torch import Tensor, nn

from palate.nn.body import Body
from palate.nn.embedding import Embeddings
from palate.nn.first_order import FirstOrder, width_for
from palate.nn.mlp import MLP, Head
from palate.nn.select import Select
from palate.rank.fm import FMNetwork
from palate.rank.neural import Embed, NeuralRanker
from palate.types import Batch, ConfigError, Inputs

Layers = tuple[pydantic.PositiveInt, ...]
Names = Annotated[tuple[str, ...], pydantic.Field(min_length=1)]


class WideDeepNetwork(Body):
    """The two parts, trained together:

        a_0    = [e_1, ..., e_F, dense]                       [B, F D + dense columns]   of the features of the deep part
        a      = MLP(a_0)                                     [B, H]
        logits = wide(x) + W a + b                            [B, T]

    Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems", section 3, equation 3. wide(x) is linear in the features of the wide
    part, which hold the cross-product transformations phi(x) (equation 1) if the feature set declares `Crossed` ones; or an FM on tables
    of its own. b is the only bias. The paper trains the wide part by FTRL with L1 and the deep one by AdaGrad; here both have the
    optimisers that the settings say.

    wide, deep: the parts' features. linear: the wide part, Batch -> [B, T]. embeddings: of the deep part.
    """

    def __init__(
        self,
        wide: Select,
        deep: Select,
        linear: nn.Module,
        embeddings: Embeddings,
        layers: Sequence[int],
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        width = len(deep.inputs.sparse) * embeddings.width + len(deep.inputs.dense)
        if width == 0:
            raise ConfigError("wide_deep: the deep part has nothing to look at; give it a feature")
        self.wide, self.linear = wide, linear
        self.deep, self.embeddings = deep, embeddings
        self.mlp = MLP(width, layers, activation, dropout, batch_norm)
        self.head = Head(self.mlp.width_out, len(deep.inputs.tasks))

    def represent(self, batch: Batch) -> Tensor:
        """Batch -> the last hidden layer of the deep part, [B, H]."""
        some = self.deep(batch)
        hidden: Tensor = self.mlp(torch.cat([self.embeddings(some.sparse).flatten(1), some.dense], dim=1))
        return hidden

    def forward(self, batch: Batch) -> Tensor:
        """Batch -> logits [B, T], float32."""
        logits: Tensor = self.linear(self.wide(batch)) + super().forward(batch)
        return logits


class WideDeep(NeuralRanker):
    """Wide & Deep on labelled candidates. Cost a row: the MLP; the wide part is a sum over the features.

    Beside each other with DeepFM (Guo et al. 2017, section 3.1) the settings are called LR & DNN (`wide_part = "linear"`) and FM & DNN
    (`wide_part = "fm"`, whose factors, unlike DeepFM's, are not those that the deep part reads).
    """

    class Config(NeuralRanker.Config):
        """wide, deep: the sparse features and dense columns of each part (None: all). Crossed features belong to the wide part.

        wide_part: "linear", or "fm", a factorisation machine of width `width` with tables of its own.
        layers, activation, dropout, batch_norm: of the deep part. init, init_std: N(0, 0.01^2), for the sake of the FM, see `FM`.
        """

        wide: Names | None = None
        deep: Names | None = None
        wide_part: Literal["linear", "fm"] = "linear"
        layers: Layers = (64, 32)
        activation: str = "relu"
        dropout: float = pydantic.Field(0.0, ge=0, lt=1)
        batch_norm: bool = False
        init: Literal["uniform", "normal"] = "normal"
        init_std: float = pydantic.Field(0.01, ge=0)

    config: Config

    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        own = self.config
        wide, deep = Select(inputs, own.wide, f"{self.name}.wide"), Select(inputs, own.deep, f"{self.name}.deep")
        linear: nn.Module
        if own.wide_part == "fm":
            linear = FMNetwork(wide.inputs, embed, own.train, own.width, own.init_std, bias=False)
        else:
            ones = width_for(len(inputs.tasks), own.train.sparse != "dense")
            linear = FirstOrder(wide.inputs, embed(ones, only=[f.name for f in wide.inputs.sparse], init="normal", std=0.0), bias=False)
        embeddings = embed(own.width, only=[f.name for f in deep.inputs.sparse])
        return WideDeepNetwork(wide, deep, linear, embeddings, own.layers, own.activation, own.dropout, own.batch_norm)
