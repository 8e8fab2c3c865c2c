"""Logistic regression over all features: the plain baseline that every click model is measured against."""

from __future__ import annotations

import pydantic
from torch import nn

from palate.config import Training
from palate.nn.first_order import FirstOrder, width_for
from palate.rank.neural import Embed, NeuralRanker
from palate.types import Inputs


class LogisticRegression(FirstOrder):
    """One weight an id and a dense column, for each task:

        logit_t = b_t + <w_t, dense> + sum_f mean_{i in bag f} v_t[f, i]

    Richardson, Dominowska and Ragno 2007, "Predicting Clicks: Estimating the Click-Through Rate for New Ads", section 4.1, equation 2;
    McMahan et al. 2013, "Ad Click Prediction: a View from the Trenches", section 3, for sparse ids. The weights of ids are
    embeddings of width T; all start at zero, for the loss is convex. (Bags pool as their input says.) Where the kernels need wider tables,
    the columns after the first T stay zero.
    """


class LR(NeuralRanker):
    """Logistic regression. It knows no interaction: what two features mean together must be a feature (`Crossed`, a counter)."""

    class Config(NeuralRanker.Config):
        """width: always 1, a weight an id (and task).

        train: each weight has a rate of its own, by Adagrad, as in McMahan et al. 2013, section 3.1.
        """

        width: int = pydantic.Field(1, ge=1, le=1)
        train: Training = Training(epochs=10, sparse="adagrad", sparse_lr=0.1, lr=1e-2, patience=2, monitor="logloss")

    config: Config

    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        wide = width_for(len(inputs.tasks), self.config.train.sparse != "dense")
        return LogisticRegression(inputs, embed(wide, init="normal", std=0.0))
