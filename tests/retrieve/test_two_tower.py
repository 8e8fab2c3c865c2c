"""Two towers: the contract, batches and losses against numbers worked out by hand, and what the papers promise on small worlds."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from palate.config import Training
from palate.features.encode import Encoder
from palate.features.history import History
from palate.features.spec import Categorical, Counter, FeatureSet, Sequence
from palate.features.vocab import OOV
from palate.retrieve.two_tower import Examples, TwoTower
from palate.testing.contracts import RetrieverContract, clustered, hit_rate, log_of, queries_of
from palate.train.trainer import Trainer
from palate.types import NOBODY, Batch, ConfigError, Log, Run

QUICK: dict[str, Any] = {"width": 16, "query_layers": (), "item_layers": (), "n_negatives": 64}
TRAIN = {"epochs": 8, "batch_size": 128, "sparse_lr": 0.1, "lr": 0.01}


def run(seed: int = 0) -> Run:
    return Run(seed=seed, train=Trainer())


class TestTwoTower(RetrieverContract):
    tolerance = 1e-4

    def make(self) -> TwoTower:
        return TwoTower(**QUICK, train=TRAIN)

    def run(self) -> Run:
        return run()


class TestDot(TestTwoTower):
    """Inner products without scaling, dense optimiser, hidden layers."""

    def make(self) -> TwoTower:
        layers = {"width": 16, "query_layers": (16,), "item_layers": (16,)}
        train = {"epochs": 10, "batch_size": 128, "sparse": "dense", "lr": 0.01}
        return TwoTower(**layers, similarity="dot", temperature=1.0, negatives="in_batch_log_q", train=train)


# -- the pieces, by hand -----------------------------------------------------------------------------------------------------------

EVENTS = [(0, 0), (1, 2), (0, 1), (1, 0), (0, 2), (0, 0)]  # item 0 three times of six, 2 twice, 1 once; item 3 never


def examples(**settings: Any) -> tuple[TwoTower, Examples]:
    log = log_of(EVENTS, n_items=4)
    tower = TwoTower(**{**QUICK, "id_dropout": 0.0, **settings})
    history = History.of(log)
    encoder = Encoder.fit(tower._features(log), log, history)
    return tower, Examples(tower.config, encoder, history, log.item_codes, log.n_items, seed=0)


def ids_of(batch: Batch, key: str) -> list[list[int]]:
    feature = batch.sparse[key]
    return [ids.tolist() for ids in torch.split(feature.values(), feature.lengths().tolist())]


def test_a_row_knows_only_what_came_before_it_by_hand() -> None:
    _, make = examples(n_negatives=3, recent=2)
    batch = make(np.array([4, 1, 5]))
    vocabulary = {code: int(make.encoder.encode_items(np.array([code])).sparse["item"].values[0]) for code in range(4)}
    assert len(batch) == 3
    assert batch.sparse.stride() == 6
    assert ids_of(batch, "history") == [[vocabulary[0], vocabulary[1]], [], [vocabulary[0], vocabulary[1], vocabulary[2]], [], [], []]
    assert ids_of(batch, "recent") == [[vocabulary[0], vocabulary[1]], [], [vocabulary[1], vocabulary[2]], [], [], []]
    assert batch.extra["codes"][:3].tolist() == [2, 2, 0]
    assert ids_of(batch, "item") == [[vocabulary[code]] for code in batch.extra["codes"].tolist()]
    assert [len(ids) for ids in ids_of(batch, "user")] == [1, 1, 1, 0, 0, 0]
    assert 3 not in make.pool


def test_the_mixture_is_corrected_by_hand() -> None:
    """q* = (3 q + 5 u) / 8, q = (3, 1, 2, 0) / 6 from the events and u = 1/3 for each of the three items with events."""
    _, make = examples(n_negatives=5)
    batch = make(np.array([0, 1, 2]))
    q = (3 * np.array([3, 1, 2, 0]) / 6 + 5 * np.array([1, 1, 1, 0]) / 3) / 8
    np.testing.assert_allclose(batch.extra["log_q"], np.log(q[batch.extra["codes"].numpy()]), rtol=1e-6)
    _, make = examples(negatives="in_batch_log_q")
    np.testing.assert_allclose(make(np.array([0, 1, 2])).extra["log_q"], np.log([3 / 6, 2 / 6, 1 / 6]), rtol=1e-6)


def test_draws_from_the_whole_catalogue_by_hand() -> None:
    """Item 3 has no event: u = 1/4 each, q* = (3 q + 5 u) / 8, for item 3 it is 5/32. It is drawn, and stands in the batch as OOV."""
    _, make = examples(n_negatives=5, uniform_from="catalogue")
    assert make.pool.tolist() == [0, 1, 2, 3]
    batch = make(np.array([0, 1, 2]))
    codes = np.concatenate([make(np.array([row, 1, 2])).extra["codes"][3:] for row in range(6)])
    assert set(codes.tolist()) == {0, 1, 2, 3}
    q = (3 * np.array([3, 1, 2, 0]) / 6 + 5 / 4) / 8
    assert q[3] == 5 / 32
    np.testing.assert_allclose(batch.extra["log_q"], np.log(q[batch.extra["codes"].numpy()]), rtol=1e-6)
    assert make.encoder.encode_items(np.array([3])).sparse["item"].values.tolist() == [OOV]


def test_a_rare_draw_from_a_large_catalogue_keeps_its_probability_by_hand() -> None:
    """1,000 items, six events, one draw beside one positive: an item without events has q* = 1/2000, however few the events."""
    log = log_of(EVENTS, n_items=1000)
    tower = TwoTower(**{**QUICK, "n_negatives": 1, "uniform_from": "catalogue"})
    history = History.of(log)
    make = Examples(tower.config, Encoder.fit(tower._features(log), log, history), history, log.item_codes, log.n_items, seed=0)
    extra = make(np.array([3])).extra
    assert extra["codes"][1] >= 3
    assert float(extra["log_q"][1]) == pytest.approx(math.log(1 / 2000), rel=1e-6)


def test_items_without_events_stand_back_where_they_are_drawn() -> None:
    """Twenty of eighty items have no event: as negatives they learn to be nobody's, otherwise they lie wherever they began."""
    log, queries, _ = clustered()
    more = replace(log, items=pl.DataFrame({"item": [*log.items["item"], *(f"new{code}" for code in range(20))]}))
    ids = more.items["item"].to_list()
    more = replace(more, events=more.events.with_columns(pl.col("item").cast(pl.String).cast(pl.Enum(ids))))
    new = np.tile(np.arange(log.n_items, log.n_items + 20, dtype=np.int32), (len(queries), 1))
    train = {**TRAIN, "epochs": 4}
    scores = [
        TwoTower(**QUICK, uniform_from=pool, train=train).fit(more, run()).score(queries, new).mean() for pool in ("events", "catalogue")
    ]
    assert scores[1] < scores[0] - 0.1


def test_batches_repeat_with_the_seed_and_differ_with_the_rows() -> None:
    _, make = examples(n_negatives=50)
    rows = np.array([1, 2, 3])
    assert make(rows).extra["codes"].tolist() == make(rows).extra["codes"].tolist()
    assert make(rows).extra["codes"][3:].tolist() != make(rows[::-1].copy()).extra["codes"][3:].tolist()


def test_dropout_hides_ids_and_nothing_else() -> None:
    _, make = examples(id_dropout=0.5, n_negatives=2000)
    batch = make(np.array([4, 5]))
    items = np.array(ids_of(batch, "item")).ravel()
    assert 0.45 < (items == OOV).mean() < 0.55
    assert OOV not in [value for ids in ids_of(batch, "history") for value in ids]


class _Fixed(torch.nn.Module):
    """Towers that have already spoken: two queries, and M items, of which the first two are the positives."""

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([[1.0, 0.0], [0.0, 1.0]]), batch.extra["vectors"]


@pytest.mark.parametrize("negatives", ["uniform", "in_batch", "in_batch_log_q", "mixed"])
def test_losses_by_hand(negatives: str) -> None:
    """Positives a = (.5, .1) and b = (.2, .4), further items b again and c = (.3, .3); temperature 1/2 doubles the scores."""
    a, b, c = (0.5, 0.1), (0.2, 0.4), (0.3, 0.3)
    q = {"a": 0.5, "b": 0.2, "c": 0.3}
    beside = negatives in ("uniform", "mixed")
    vectors, codes = ([a, b, b, c], [0, 1, 1, 2]) if beside else ([a, b], [0, 1])
    log_q = torch.tensor([math.log(q["abc"[code]]) for code in codes])
    batch, e = examples()[1](np.array([0, 1])), math.exp
    batch = replace(batch, extra={"vectors": torch.tensor(vectors), "codes": torch.tensor(codes), "log_q": log_q})
    first, second = {
        # b is no negative of the second query, whose positive it is
        "uniform": (e(1.0) / (e(1.0) + e(0.4) + e(0.6)), e(0.8) / (e(0.8) + e(0.6))),
        "in_batch": (e(1.0) / (e(1.0) + e(0.4)), e(0.8) / (e(0.8) + e(0.2))),
        "in_batch_log_q": (e(1.0) / 0.5 / (e(1.0) / 0.5 + e(0.4) / 0.2), e(0.8) / 0.2 / (e(0.8) / 0.2 + e(0.2) / 0.5)),
        "mixed": (
            e(1.0) / 0.5 / (e(1.0) / 0.5 + 2 * e(0.4) / 0.2 + e(0.6) / 0.3),
            e(0.8) / 0.2 / (e(0.8) / 0.2 + e(0.2) / 0.5 + e(0.6) / 0.3),
        ),
    }[negatives]
    loss = TwoTower(negatives=negatives, temperature=0.5).step(_Fixed(), batch)["loss"]
    assert loss.item() == pytest.approx(-(math.log(first) + math.log(second)) / 2)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_vectors_by_hand(similarity: str) -> None:
    """Linear towers that copy their first embedding: the score is the inner product of the mean of the history and the item."""
    log = log_of(EVENTS, n_items=4)
    features = FeatureSet(features=(Sequence(), Categorical(source="item")))
    tower = TwoTower(**{**QUICK, "width": 4}, features=features, similarity=similarity, train={"epochs": 1})
    tower.fit(log, run())
    table = torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 9], [3, 0, 0, 0], [0, 4, 0, 0], [1, 1, 0, 0]])  # PAD, OOV, items 0, 2, 1
    with torch.no_grad():
        tower.network.embeddings.tables()["item"].copy_(table)
        for side in (tower.network.query, tower.network.item):
            assert side.head is not None
            side.head.weight.copy_(torch.eye(4))
            side.head.bias.zero_()
    queries = queries_of([[0, 2]])
    query, items = tower.encode_queries(queries), tower.encode_items(np.arange(4, dtype=np.int32))
    by_hand = np.array([[1.5, 2, 0, 0]]), np.array([[3.0, 0, 0, 0], [1, 1, 0, 0], [0, 4, 0, 0], [0, 0, 0, 9]])  # item 3 is OOV
    if similarity == "cosine":
        by_hand = tuple(vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in by_hand)  # type: ignore[assignment]
    np.testing.assert_allclose(query, by_hand[0], rtol=1e-6)
    np.testing.assert_allclose(items, by_hand[1], rtol=1e-6)


# -- what the papers promise -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("negatives", ["uniform", "in_batch", "mixed"])
def test_every_kind_of_negative_learns(negatives: str) -> None:
    log, queries, wanted = clustered()
    tower = TwoTower(**QUICK, negatives=negatives, train=TRAIN).fit(log, run())
    assert tower.curves["loss"][-1] < tower.curves["loss"][0]
    chance = 10 / (log.n_items - 12)
    assert hit_rate(tower.retrieve(queries, 10), wanted) > 1.7 * chance


def test_log_q_gives_popular_items_their_due() -> None:
    """Yi et al. 2019: in-batch negatives push popular items down; taking log q off undoes it. Here everybody wants alike."""
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, 51)
    wants = [rng.choice(50, 12, replace=False, p=popularity / popularity.sum()) for _ in range(150)]
    log = log_of([(user, int(item)) for place in range(12) for user in range(150) for item in wants[user][place : place + 1]], n_items=50)
    newcomers = queries_of([[]])
    features = FeatureSet(features=(Categorical(source="user"), Categorical(source="item")))
    ranks = {}
    for negatives in ("in_batch", "in_batch_log_q"):
        settings = {**QUICK, "negatives": negatives, "features": features, "similarity": "dot", "temperature": 1.0}
        tower = TwoTower(**settings, id_dropout=0.2, train=TRAIN).fit(log, run())
        ranks[negatives] = float(np.mean(tower.retrieve(newcomers, 10).items))
    assert ranks["in_batch_log_q"] < 10  # the mean code of the ten most popular is 4.5, of ten at random 24.5
    assert ranks["in_batch"] > 1.5 * ranks["in_batch_log_q"]


def cold_world() -> tuple[Log, np.ndarray, np.ndarray]:
    """The clustered world without any event of the items 40 to 59, and the cluster of every user and item."""
    log, _, _ = clustered(users=160)
    cold = log.item_codes >= 40
    return log.where(~cold), np.arange(log.n_users) % 4, np.arange(log.n_items) % 4


def test_cold_items_and_cold_users_are_served() -> None:
    log, of_user, of_item = cold_world()
    tower = TwoTower(**QUICK, id_dropout=0.3, train=TRAIN).fit(log, run())
    cold = np.arange(log.n_items) >= 40
    queries = replace(History.of(log).queries(np.arange(log.n_users, dtype=np.int32)), allowed=cold)
    for asked in (queries, replace(queries, users=np.full(len(queries), NOBODY, dtype=np.int32))):
        items = tower.retrieve(asked, 5).items
        assert (items >= 40).all()
        right = (of_item[items] == of_user[:, None]).mean()
        assert right > 0.6  # chance: a quarter


def test_what_is_saved_needs_no_log() -> None:
    log, queries, _ = clustered(users=40)
    tower = TwoTower(**QUICK, train={**TRAIN, "epochs": 1}).fit(log, run())
    other = TwoTower(**QUICK).restore(tower.state())
    assert len(other.encoder.history) == 0
    np.testing.assert_array_equal(other.encode_items(np.arange(5, dtype=np.int32)), tower.encode_items(np.arange(5, dtype=np.int32)))
    np.testing.assert_array_equal(other.retrieve(queries, 5).items, tower.retrieve(queries, 5).items)


def test_features_of_the_pair_are_refused() -> None:
    log, _, _ = clustered(users=20)
    features = FeatureSet(features=(Categorical(source="item"), Sequence(), Counter(of="item_count")))
    with pytest.raises(ConfigError, match="item_count: reads query and item together"):
        TwoTower(features=features).fit(log, run())


def test_no_engine_is_one_line() -> None:
    with pytest.raises(ConfigError, match="two_tower: a network needs a training engine"):
        TwoTower().fit(clustered(users=20)[0])


def test_settings_of_training_left_out_are_the_models_own() -> None:
    own = TwoTower().config.train
    assert TwoTower(train={"epochs": 9}).config.train == own.model_copy(update={"epochs": 9})
    assert TwoTower(train=Training(epochs=9)).config.train == own.model_copy(update={"epochs": 9})


def test_columns_of_users_and_context_reach_the_query_tower() -> None:
    log, queries, _ = clustered(users=40)
    devices = pl.Series("device", ["tv", "phone"] * (len(log) // 2))
    aged = replace(
        log,
        events=log.events.with_columns(devices),
        users=log.users.with_columns(pl.Series("age", ["young", "old"] * 20)),
    )
    tower = TwoTower(**QUICK, train={**TRAIN, "epochs": 1}).fit(aged, run())
    assert {feature.name for feature in tower.encoder.inputs("user").sparse} == {"user", "user.age", "context.device", "history", "recent"}
    one = queries[:1]
    there = tower.encode_queries(replace(one, context=pl.DataFrame({"device": ["tv"]})))
    other = tower.encode_queries(replace(one, context=pl.DataFrame({"device": ["phone"]})))
    assert np.abs(there - other).max() > 1e-3
    assert np.abs(there - tower.encode_queries(one)).max() > 1e-3  # no context at all is served as well
