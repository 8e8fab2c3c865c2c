"""The plumbing that all neural rankers share: what a network is given, where it starts, and the settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from palate.config import Training
from palate.rank.base import Pairs
from palate.rank.dlrm import DLRM
from palate.rank.lr import LR
from palate.rank.neural import Embed, NeuralRanker
from palate.testing.ranker_contract import planted_examples, run_for
from palate.types import Batch, ConfigError, DataError, Inputs, Run


class Nothing(nn.Module):
    """Logits of zero: what is left is the base rate."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(tasks))

    def forward(self, batch: Batch) -> Tensor:
        return self.weight * torch.zeros(len(batch), 1)


class Constant(NeuralRanker):
    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        return Nothing(len(inputs.tasks))


def test_starts_from_the_base_rate_of_all_candidates() -> None:
    examples = planted_examples().examples
    ranker = Constant(negatives_per_query=3, train={"epochs": 1})
    scores = ranker.fit(examples, run_for(ranker)).score(examples.queries, examples.candidates, examples.encoder)
    training = examples.candidates.present & ~examples.validation[:, None]
    rates = np.nanmean(examples.labels[training], axis=0)
    np.testing.assert_allclose(scores[0, 0], rates, atol=0.01)
    assert set(ranker.curves) >= {"loss", "logloss", "auc", "ndcg@10", "label.auc", "second.ndcg@10"}
    # a constant cannot tell: the AUC is 1/2, and the logloss is the entropy of the base rate
    assert ranker.curves["auc"] == [0.5]


def test_inputs_are_the_encoders_then_the_candidates() -> None:
    examples = planted_examples().examples
    ranker = LR(train={"epochs": 1})
    ranker.fit(examples, run_for(ranker))
    own = examples.encoder.inputs()
    assert ranker.inputs.dense == (*own.dense, "hint.score", "hint.rank", "hint.score.has", "hint.rank.has")
    assert ranker.inputs.sparse == own.sparse
    assert ranker.inputs.tasks == ("label", "second")
    pairs = Pairs.of(examples.candidates)
    encoded = ranker._encode(examples.encoder, examples.queries, examples.candidates, pairs)
    score, rank, has_score, has_rank = encoded.dense[:, -4:].T
    raw = examples.candidates.features["hint.rank"][pairs.rows, pairs.places]
    known = ~np.isnan(raw)
    np.testing.assert_array_equal(has_score, known)
    np.testing.assert_array_equal(has_rank, known)
    assert (score[~known] == 0).all()
    assert (rank[~known] == 0).all()
    # standardised over the training pairs
    training = known & ~examples.validation[pairs.rows]
    assert score[training].mean() == pytest.approx(0.0, abs=0.05)
    assert score[training].std() == pytest.approx(1.0, abs=0.05)
    # ranks by their logarithm: equal ratios are equal distances
    line = np.polyfit(np.log1p(raw[known]), rank[known], 1, full=True)
    assert line[1][0] == pytest.approx(0.0, abs=1e-3)


def test_needs_the_engine() -> None:
    with pytest.raises(ConfigError, match=r"lr: a network needs the training engine; pass run=Run\(train="):
        LR().fit(planted_examples().examples, Run())


def test_grades_are_refused() -> None:
    examples = planted_examples().examples
    with pytest.raises(DataError, match="labels must be 0, 1 or NaN"):
        LR().fit(replace(examples, labels=examples.labels * 2), run_for(LR()))


def test_training_settings_left_out_are_the_models_own() -> None:
    assert LR(train={"epochs": 2}).config.train == LR().config.train.model_copy(update={"epochs": 2})  # type: ignore[attr-defined]
    assert LR(train=Training(epochs=2)).config.train == LR(train={"epochs": 2}).config.train  # type: ignore[attr-defined]
    assert DLRM(train={}).config.train == DLRM().config.train  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"dlrm\.train\.epoch: no such key; did you mean `epochs`"):
        DLRM(train={"epoch": 2})
    with pytest.raises(ConfigError, match=r"dlrm\.train"):
        DLRM(train=3)


def test_widths_that_the_kernels_do_not_take_are_an_error() -> None:
    examples = planted_examples().examples
    ranker = DLRM(width=6)
    with pytest.raises(ConfigError, match=r"dlrm\.width: fused tables take multiples of 4, got 6"):
        ranker.fit(examples, run_for(ranker))
    dense = DLRM(width=6, train={"sparse": "dense", "epochs": 1})
    dense.fit(examples, run_for(dense))


def test_another_encoder_is_an_error() -> None:
    world = planted_examples()
    ranker = LR(train={"epochs": 1})
    ranker.fit(world.examples, run_for(ranker))
    other = planted_examples(world.examples.encoder.features.without("history")).examples
    with pytest.raises(DataError, match="not those that the ranker learnt from"):
        ranker.score(other.queries, other.candidates, other.encoder)
