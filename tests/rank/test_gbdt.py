from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from palate.features.encode import Encoder
from palate.features.history import History
from palate.features.spec import Categorical, FeatureSet
from palate.rank.base import Examples, Pairs
from palate.rank.gbdt import GBDT
from palate.testing.ranker_contract import RankerContract, planted_examples, planted_log
from palate.types import Candidates, DataError

SMALL: dict[str, Any] = {"trees": 40, "threads": 1, "max_categories": 32, "min_rows": 10, "learning_rate": 0.1}


class TestLambdaRank(RankerContract):
    ranker = GBDT
    settings: ClassVar[dict[str, Any]] = {**SMALL, "objective": "lambdarank"}


class TestBinary(RankerContract):
    ranker = GBDT
    settings: ClassVar[dict[str, Any]] = {**SMALL, "objective": "binary", "patience": None}


def lists_of_two(labels: list[tuple[int, int]], said: list[tuple[float, float]]) -> Examples:
    """Lists of two items, of which the trees see one number, `hint.score`."""
    log, _, _ = planted_log()
    history = History.of(log)
    encoder = Encoder.fit(FeatureSet(features=(Categorical(source="item"),)), log, history)
    items = np.tile(np.array([0, 1], dtype=np.int32), (len(labels), 1))
    candidates = Candidates.of(items, np.zeros(items.shape, dtype=np.float32), "hint")
    candidates = replace(candidates, features={"hint.score": np.array(said, dtype=np.float32)})
    queries = history.queries(np.arange(len(labels), dtype=np.int32))
    return Examples(encoder, queries, candidates, np.array(labels, dtype=np.float32)[:, :, None], np.zeros(len(labels), dtype=bool))


STUMP: dict[str, Any] = {"trees": 1, "learning_rate": 0.5, "leaves": 2, "min_rows": 1, "l2": 2.0, "column_share": 1.0, "max_categories": 2}


def test_binary_stump_by_hand() -> None:
    # 12 rows that say 1, ten of them wanted; 12 rows that say 0, two of them wanted. Boosting starts at the base rate 1/2: score 0,
    # g = p - y, h = p (1 - p) = 1/4. Leaf of 1: -sum g / (sum h + l2) = (10 - 6) / (3 + 2) = .8, times the rate .5.
    labels = [(1, 0)] * 10 + [(0, 1)] * 2
    examples = lists_of_two(labels, [(1.0, 0.0)] * 12)
    ranker = GBDT(**STUMP, objective="binary").fit(examples)
    scores = ranker.score(examples.queries, examples.candidates, examples.encoder)[:, :, 0]
    np.testing.assert_allclose(scores, [[1 / (1 + math.exp(-0.4)), 1 / (1 + math.exp(0.4))]] * 12, rtol=1e-6)


def test_lambdarank_stump_by_hand() -> None:
    # 12 lists of a wanted item that says 1 and an unwanted one that says 0. At equal scores 1 / (1 + exp(0)) = 1/2, and swapping the two
    # places changes nDCG by d = 1 - 1 / log2(3). So lambda = d / 2, h = d / 4; LightGBM scales both by log2(1 + L) / L, where L = 2 lambda
    # is the sum of |lambda| of the list.
    examples = lists_of_two([(1, 0)] * 12, [(1.0, 0.0)] * 12)
    ranker = GBDT(**STUMP).fit(examples)
    scores = ranker.score(examples.queries, examples.candidates, examples.encoder)[:, :, 0]
    d = 1 - 1 / math.log2(3)
    scale = math.log2(1 + d) / d
    leaf = 0.5 * (12 * scale * d / 2) / (12 * scale * d / 4 + 2.0)
    np.testing.assert_allclose(scores, [[leaf, -leaf]] * 12, rtol=1e-4)


def test_categories_and_bags_are_columns() -> None:
    world = planted_examples()
    columns = GBDT(**SMALL).fit(world.examples).columns
    assert columns.categories == ("user.taste", "item.kind")
    assert [name for name, _ in columns.bags] == ["item.genres"]
    pairs = Pairs.of(world.examples.candidates).take(slice(0, 3))
    table = columns.matrix(world.examples.encoder, world.examples.queries, world.examples.candidates, pairs)
    assert table.shape == (3, len(columns.names))
    encoded = world.examples.encoder.encode(world.examples.queries, pairs.rows, pairs.items)
    for row in range(3):
        start = columns.names.index("item.genres=0")
        size = dict(columns.bags)["item.genres"]
        assert set(np.flatnonzero(table[row, start : start + size])) == set(encoded.sparse["item.genres"][row])
        assert table[row, columns.names.index("item.kind")] == encoded.sparse["item.kind"][row][0]


def test_importances_name_the_columns() -> None:
    world = planted_examples()
    ranker = GBDT(**SMALL).fit(world.examples)
    shares = ranker.importances()
    assert sum(shares.values()) == pytest.approx(1.0)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert next(iter(shares)).startswith("affinity.genres")
    assert not {"user", "item"} & set(shares)


def test_curves_and_early_stopping() -> None:
    examples = replace(planted_examples().examples, tasks=("label",), labels=planted_examples().examples.labels[:, :, :1])
    ranker = GBDT(**{**SMALL, "trees": 300, "patience": 5}).fit(examples)
    assert list(ranker.curves) == ["ndcg@10"]
    best = int(np.argmax(ranker.curves["ndcg@10"])) + 1
    assert ranker.forests["label"].num_trees() == best
    assert len(ranker.curves["ndcg@10"]) == best + 5
    assert list(GBDT(**SMALL, objective="binary").fit(examples).curves) == ["logloss"]


def test_silent(capfd: pytest.CaptureFixture[str]) -> None:
    ranker = GBDT(**SMALL).fit(planted_examples().examples)
    GBDT(**SMALL).restore(ranker.state())
    assert capfd.readouterr() == ("", "")


def test_graded_labels_are_for_lambdarank() -> None:
    examples = planted_examples().examples
    graded = replace(
        examples, tasks=("grade",), labels=np.round(2 * examples.labels[:, :, :1] * (1 + (examples.candidates.items % 2)[:, :, None]))
    )
    GBDT(**SMALL).fit(graded)
    with pytest.raises(DataError, match=r"'grade'.*labels 0 and 1"):
        GBDT(**SMALL, objective="binary").fit(graded)
    with pytest.raises(DataError, match="grades 0, 1"):
        GBDT(**SMALL).fit(replace(graded, labels=graded.labels + 0.5))


def test_no_positive_is_an_error() -> None:
    examples = planted_examples().examples
    with pytest.raises(DataError, match="'label' has no positive label"):
        GBDT(**SMALL).fit(replace(examples, labels=np.zeros_like(examples.labels)))


def test_negatives_per_query_keeps_probabilities_right() -> None:
    examples = planted_examples().examples
    scores = {
        few: GBDT(**SMALL, objective="binary", negatives_per_query=few)
        .fit(examples)
        .score(examples.queries, examples.candidates, examples.encoder)
        for few in (4, None)
    }
    present = examples.candidates.present
    rate = examples.labels[present][:, 0].mean()
    for one in scores.values():
        assert one[present][:, 0].mean() == pytest.approx(rate, abs=0.04)


def test_needs_no_torch() -> None:
    code = "import sys, palate.rank.gbdt, palate.rank.calibrate, palate.metrics.pointwise; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
