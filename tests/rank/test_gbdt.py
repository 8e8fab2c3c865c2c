from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from palate.features.encode import Encoder
from palate.features.history import History
from palate.features.spec import Categorical, FeatureSet
from palate.rank.base import Examples, Pairs
from palate.rank.baseline import Rated
from palate.rank.gbdt import GBDT
from palate.rank.tasks import Task
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


# Ratings


RATING = (Task(name="stars", kind="rating", events=("rating",)),)


def test_rating_stump_by_hand() -> None:
    """Nothing is known before the cut: all begin at the mean, 3. Twelve rows that say 1 are rated 5, twelve that say 0 are rated 1; least
    squares has h = 1 a row, so a leaf is 12 x 2 / (12 + l2 2), times the rate 0.5. What is kept for serving begins at all these ratings."""
    examples = replace(lists_of_two([(5, 1)] * 12, [(1.0, 0.0)] * 12), tasks=("stars",))
    ranker = GBDT(**STUMP, tasks=RATING).fit(examples)
    base = ranker.baselines["stars"]
    assert (base.mean, base.least, base.most) == (3.0, 1.0, 5.0)
    np.testing.assert_allclose(base.items[:2, 0], [24 / (25 + 12), -24 / (25 + 12)], rtol=1e-6)
    scores = ranker.score(examples.queries, examples.candidates, examples.encoder)[:, :, 0]
    leaf = 0.5 * 24 / 14
    start = base(examples.queries.users[:1].repeat(2), np.array([0, 1], np.int32))
    np.testing.assert_allclose(scores[0], start + np.array([leaf, -leaf]), rtol=1e-5)


def test_ratings_before_the_cut_are_where_trees_begin() -> None:
    """By hand: 25 people rated item 0 with 5 and item 1 with 1 (some say so again after the cut, which counts once), so mu = 3 and the
    biases of the items are 25 x 2 / (25 + 25) = 1 and -1; of the people nothing is left. Trees of a rate of nothing leave it as it is."""
    rated = Rated(np.arange(50, dtype=np.int32) % 25, np.arange(50, dtype=np.int32) // 25, np.repeat([5.0, 1.0], 25).astype(np.float32))
    examples = replace(lists_of_two([(5, 1)] * 12, [(0.0, 0.0)] * 12), tasks=("stars",), rated={"stars": rated})
    ranker = GBDT(**{**STUMP, "learning_rate": 1e-9}, tasks=RATING).fit(examples)
    scores = ranker.score(examples.queries, examples.candidates, examples.encoder)[:, :, 0]
    np.testing.assert_allclose(scores[0], [4.0, 2.0], atol=1e-5)


def test_clicks_and_ratings_side_by_side_are_saved_and_restored() -> None:
    single = lists_of_two([(1, 0)] * 12, [(1.0, 0.0)] * 12)
    stars = np.where(single.labels > 0, 5.0, np.nan).astype(np.float32)
    examples = replace(single, labels=np.concatenate([single.labels, stars], axis=2), tasks=("label", "stars"))
    ranker = GBDT(**STUMP, objective="binary", tasks=(Task(name="label"), *RATING)).fit(examples)
    again = GBDT(**STUMP, objective="binary", tasks=(Task(name="label"), *RATING)).restore(ranker.state())
    scores = ranker.score(examples.queries, examples.candidates, examples.encoder)
    np.testing.assert_array_equal(again.score(examples.queries, examples.candidates, examples.encoder), scores)
    assert ((scores[:, :, 0] > 0) & (scores[:, :, 0] < 1)).all()
    np.testing.assert_allclose(scores[:, :, 1], 5.0)  # nobody ever gave anything else
    assert ranker.importances()


def test_a_rating_without_ratings_is_an_error() -> None:
    examples = lists_of_two([(1, 0)] * 12, [(1.0, 0.0)] * 12)
    examples = replace(examples, labels=np.full_like(examples.labels, np.nan), tasks=("stars",))
    with pytest.raises(DataError, match="task 'stars' has no rating among the training candidates"):
        GBDT(**STUMP, tasks=RATING).fit(examples)


def test_some_thousand_ratings_are_enough_to_beat_user_and_item_means() -> None:
    """8,000 real ratings of MovieLens through a whole funnel; the newest fifth of everyone's is held out. Three seeds: docs/learning.md."""
    script = Path(__file__).parents[2] / "benchmarks" / "few_ratings.py"
    done = subprocess.run([sys.executable, str(script), "--seeds", "1"], capture_output=True, text=True, check=True)
    (found,) = json.loads(done.stdout)["seeds"]
    assert found["ratings"] < 10_000
    assert found["gbdt"] < 0.95 * found["user and item means"]
    assert found["gbdt"] < found["shrunk user and item means"]
