"""FM, the factorisation machine: every feature has a vector, and every two features interact through their inner product."""

from __future__ import annotations

from typing import Literal

import pydantic
from torch import Tensor, nn

from palate.config import Training
from palate.nn.fields import Fields
from palate.nn.first_order import FirstOrder, width_for
from palate.nn.fm import SecondOrder
from palate.rank.neural import Embed, NeuralRanker
from palate.types import Batch, Inputs


class FMNetwork(nn.Module):
    """First and second order, nothing deeper:

        logit_t = b_t + sum_i w_{t,i} x_i + sum_{i < j} <v_{t,i}, v_{t,j}> x_i x_j

    Rendle 2010, "Factorization Machines", section III-A, equation 1, in the linear time of lemma 3.1. i and j run over the fields: a
    sparse feature is the pooled vector of its ids (so the ids of one bag do not interact), a dense column x_j has a vector of its own.
    Each task has its own weights and its own factors: the tables of the factors are T D wide. With shared factors all tasks would share
    one second-order term, and an item bought seldom but clicked often could not be told.

    embed, training: make the tables, and say whether they are fused. width: D. std: of the normal distribution of the vectors of dense
    columns at the start. bias: whether there is b. First-order weights start at zero.
    """

    def __init__(self, inputs: Inputs, embed: Embed, training: Training, width: int, std: float, bias: bool = True) -> None:
        super().__init__()
        tasks, names = len(inputs.tasks), [feature.name for feature in inputs.sparse]
        wide = width_for(tasks, training.sparse != "dense")
        self.first = FirstOrder(inputs, embed(wide, only=names, init="normal", std=0.0), bias)
        self.fields = Fields(inputs, embed(tasks * width, only=names), std)
        self.second = SecondOrder(tasks)

    def forward(self, batch: Batch) -> Tensor:
        """Batch -> logits [B, T], float32."""
        logits: Tensor = self.first(batch) + self.second(self.fields(batch))
        return logits


class FM(NeuralRanker):
    """A factorisation machine on labelled candidates. Cost a row: F D multiplications a task."""

    class Config(NeuralRanker.Config):
        """width: of the factors of each task, D.

        init, init_std: N(0, 0.01^2). The gradient of a factor is the sum of the factors that it meets: at 0 it would stay there. And the
        "uniform" of other models, whose range is 1 / sqrt(rows), would give the smallest tables factors of order 1 and so the
        second-order term a start far from 0.
        """

        init: Literal["uniform", "normal"] = "normal"
        init_std: float = pydantic.Field(0.01, ge=0)

    config: Config

    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        own = self.config
        return FMNetwork(inputs, embed, own.train, own.width, own.init_std)
