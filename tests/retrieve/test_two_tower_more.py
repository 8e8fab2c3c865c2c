"""Two towers beyond easy negatives: impressions, hard negatives, streamed frequencies, tasks, the contrastive loss, and export."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from palate import sampling
from palate.features.encode import Encoder
from palate.features.history import History
from palate.features.loader import Loader
from palate.features.spec import Categorical, FeatureSet, Sequence
from palate.retrieve.towers import NO_ONES, RATE, SHARED, Examples
from palate.retrieve.two_tower import TwoTower
from palate.testing.contracts import RetrieverContract, clustered, hit_rate, log_of, queries_of
from palate.train.trainer import Trainer
from palate.types import Batch, ConfigError, Log, Run

QUICK: dict[str, Any] = {"width": 16, "n_negatives": 64}
TRAIN: dict[str, Any] = {"epochs": 6, "batch_size": 128, "sparse_lr": 0.1, "lr": 0.01}


def run(seed: int = 0) -> Run:
    return Run(seed=seed, train=Trainer())


class TestSimpleX(RetrieverContract):
    """The contrastive loss and the gate, of user id and history alone."""

    tolerance = 1e-4

    def make(self) -> TwoTower:
        features = FeatureSet(features=(Categorical(source="user"), Sequence(), Categorical(source="item")))
        settings = {"features": features, "loss": "ccl", "negatives": "uniform", "negative_weight": 20, "margin": 0.3, "user_weight": 0.3}
        return TwoTower(**QUICK, **settings, id_dropout=0.0, train={**TRAIN, "epochs": 8})

    def run(self) -> Run:
        return run()

    def test_items_without_events_come_if_it_says_so(self, fitted: Any, world: Any) -> None:
        """Without features and without dropout of ids they are OOV, and come; nothing is known of them."""
        assert fitted.serves_new_items


class _Fixed(torch.nn.Module):
    """Towers that have already spoken: two queries, and M items, of which the first two are the positives."""

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([[1.0, 0.0], [0.0, 1.0]]), batch.extra["vectors"]


A, B, C = (0.5, 0.1), (0.2, 0.4), (0.3, 0.3)


def fixed(**extra: Any) -> Batch:
    log = log_of([(0, 0), (0, 1), (1, 1)])
    tower = TwoTower(**QUICK)
    history = History.of(log)
    make = Examples(tower.config, Encoder.fit(tower._features(log), log, history), history, log.item_codes, 3, seed=0)
    zero = torch.zeros(len(extra["codes"]))
    return replace(make(np.array([0, 1])), extra={"log_q": zero, **{name: torch.tensor(value) for name, value in extra.items()}})


def test_a_rows_own_negatives_are_its_own_by_hand() -> None:
    """Positives a and b; c is the first row's alone, the last column nobody's. Temperature 1."""
    batch = fixed(vectors=[A, B, C, (9.0, 9.0)], codes=[0, 1, 2, -1], owner=[SHARED, SHARED, 0, NO_ONES])
    e = math.exp
    first, second = e(0.5) / (e(0.5) + e(0.2) + e(0.3)), e(0.4) / (e(0.4) + e(0.1))
    loss = TwoTower(negatives="in_batch", temperature=1.0).step(_Fixed(), batch)["loss"]
    assert loss.item() == pytest.approx(-(math.log(first) + math.log(second)) / 2)


def test_the_contrastive_loss_by_hand() -> None:
    """Positives .5 and .4; negatives of the first b (.2) and c (.3), of the second c (.3), since b again is its own positive."""
    batch = fixed(vectors=[A, B, B, C], codes=[0, 1, 1, 2])
    tower = TwoTower(loss="ccl", negatives="uniform", margin=0.05, negative_weight=10.0)
    by_hand = (0.5 + 0.6) / 2 + 10 * ((0.15 + 0.25) / 2 + 0.25) / 2
    assert tower.step(_Fixed(), batch)["loss"].item() == pytest.approx(by_hand)
    in_batch = TwoTower(loss="ccl", negatives="in_batch", margin=0.05, negative_weight=10.0)
    small = fixed(vectors=[A, B], codes=[0, 1])
    assert in_batch.step(_Fixed(), small)["loss"].item() == pytest.approx((0.5 + 0.6) / 2 + 10 * (0.15 + 0.05) / 2)


def of_kinds(log: Log, kinds: list[str], positive: tuple[str, ...]) -> Log:
    names = pl.Series("kind", kinds, dtype=pl.Enum(sorted(set(kinds))))
    return replace(log, events=log.events.with_columns(names), positive=positive)


def test_impressions_become_negatives_by_hand() -> None:
    """User 0 is shown 2 and 1 and takes 1; user 1 is shown 0, takes 2."""
    log = of_kinds(log_of([(0, 2), (0, 1), (0, 1), (1, 0), (1, 2), (0, 0)]), ["show", "show", "take", "show", "take", "take"], ("take",))
    tower = TwoTower(**QUICK, impressions=("show",), n_impressions=2, negatives="in_batch")
    positives, history = log.positives(), History.of(log)
    shown = tower._shown(log, positives)
    assert shown is not None
    assert [shown[user].tolist() for user in (0, 1)] == [[2], [0]]
    encoder = Encoder.fit(tower._features(log), log, history)
    make = Examples(tower.config, encoder, history, positives.item_codes, 3, 0, shown=shown, users=positives.user_codes)
    batch = make(np.arange(3))
    assert batch.extra["codes"].tolist() == [1, 2, 0, 2, 2, 0, 0, 2, 2]
    assert batch.extra["owner"].tolist() == [SHARED] * 3 + [0, 0, 1, 1, 2, 2]
    with pytest.raises(ConfigError, match=r"two_tower\.impressions: no event of kind seen; the log has show, take"):
        TwoTower(impressions=("seen",))._shown(log, positives)


def test_what_was_hidden_is_a_negative_beside_what_was_shown_by_hand() -> None:
    """User 0 is shown 2, takes 0 and hides 1; user 1 hides 2, which they took before."""
    log = of_kinds(log_of([(0, 2), (0, 0), (1, 2), (0, 1), (1, 2)]), ["show", "take", "take", "hide", "hide"], ("take",))
    log = replace(log, negative=("hide",))
    shown = TwoTower(impressions=("show",))._shown(log, log.positives())
    assert shown is not None
    assert [sorted(shown[user].tolist()) for user in (0, 1)] == [[1, 2], []]


def test_negatives_shown_and_not_wanted_go_down() -> None:
    """Half the people were shown genre 1 and took three other items; the rest take anything. Three items tell little, the shows much."""
    rng = np.random.default_rng(0)
    shows = [(user, item) for user in range(40) for item in range(1, 40, 4)]
    others = [item for item in range(40) if item % 4 != 1]
    takes = [(user, int(item)) for user in range(80) for item in (rng.choice(others, 3) if user < 40 else rng.choice(40, 8))]
    log = of_kinds(log_of(shows + takes, 80, 40), ["show"] * len(shows) + ["take"] * len(takes), ("take",))
    queries = History.of(log).queries(np.arange(40, dtype=np.int32))
    behind = []
    for impressions in ((), ("show",)):
        settings = {"width": 16, "negatives": "uniform", "n_negatives": 16, "impressions": impressions, "n_impressions": 16}
        tower = TwoTower(**settings, train={**TRAIN, "batch_size": 64, "epochs": 12}).fit(log, run())  # type: ignore[arg-type]
        scores = tower.score(queries, np.arange(40, dtype=np.int32)[None].repeat(40, 0))
        behind.append((scores[:, others].mean() - scores[:, 1::4].mean()) / scores.std())
    assert behind[1] > behind[0] + 0.3


def test_hard_negatives_come_from_the_towers_as_they_stand() -> None:
    log, queries, wanted = clustered()
    tower = TwoTower(**QUICK, n_hard=3, hard_skip=4, hard_refresh=5, train={**TRAIN, "epochs": 2})
    found: list[tuple[np.ndarray, np.ndarray]] = []
    real = tower._hard

    def watched(asked: torch.Tensor, positives: torch.Tensor) -> np.ndarray:
        codes = real(asked, positives)
        scores = asked.detach() @ tower.network.mined.T
        place = (-scores).argsort(1).argsort(1).numpy()
        pool = tower.network.pool.numpy()
        found.append((place[np.arange(len(codes))[:, None], np.searchsorted(pool, codes)], codes == positives.numpy()[:, None]))
        return codes

    tower._hard = watched  # type: ignore[method-assign]
    tower.fit(log, run())
    assert len(found) == 2 * 12  # 1,440 events in batches of 128
    for places, own in found:
        assert not own.any()
        assert places.min() >= 4
        assert places.max() <= 4 + 3  # one more where the positive stood before
    assert hit_rate(tower.retrieve(queries, 10), wanted) > 0
    assert not {"mined", "clock", "pool"} & set(dict(tower.network.named_buffers()))


def test_streamed_frequencies_oracle() -> None:
    """log q of each batch is that of the estimator of `palate.sampling` fed with the same batches."""
    log, queries, wanted = clustered()
    tower = TwoTower(**QUICK, negatives="in_batch_log_q", frequency="streaming", train=TRAIN)
    history = History.of(log)
    encoder = Encoder.fit(tower._features(log), log, history)
    examples = Examples(tower.config, encoder, history, log.item_codes, log.n_items, seed=0)
    tower._build(encoder)
    tower.network.remember(examples)
    stream = sampling.StreamingFrequency(log.n_items, rate=RATE, start=1.0)
    for batch in Loader(len(log), examples, 128, seed=0, prefetch=0):
        codes = batch.extra["codes"]
        stream.update(codes.numpy().astype(np.int32))
        expected = np.log(stream.probabilities(codes.numpy()) / len(batch))
        np.testing.assert_allclose(tower.network.streamed(codes, len(batch)).numpy(), expected, rtol=1e-5)
    fitted = TwoTower(**QUICK, negatives="mixed", frequency="streaming", train=TRAIN).fit(log, run())
    assert hit_rate(fitted.retrieve(queries, 10), wanted) > 1.7 * 10 / (log.n_items - 12)


def two_tasks() -> tuple[Log, Any]:
    """Everybody views even items and buys odd ones, of the first twenty; forty users."""
    rng = np.random.default_rng(0)
    events = [(user, int(2 * rng.integers(0, 10) + (step % 3 == 2))) for step in range(12) for user in range(40)]
    kinds = ["buy" if item % 2 else "view" for _, item in events]
    log = of_kinds(log_of(events, 40, 20), kinds, ("view", "buy"))
    return log, History.of(log).queries(np.arange(40, dtype=np.int32))


def test_each_task_has_its_head_and_the_list_blends_them() -> None:
    log, queries = two_tasks()
    every = np.arange(20, dtype=np.int32)[None].repeat(40, 0)
    odd = []
    for tasks in ({"view": 1.0, "buy": 0.05}, {"view": 0.05, "buy": 1.0}):
        tower = TwoTower(**QUICK, tasks=tasks, train=TRAIN).fit(log, run())
        scores = tower.score(queries, every)
        odd.append(scores[:, 1::2].mean() - scores[:, ::2].mean())
    assert odd[0] < 0 < odd[1]


def test_heads_by_hand() -> None:
    """A row learns with its own head; a query is answered by the weighted sum of all, each of length one."""
    log, queries = two_tasks()
    tower = TwoTower(**QUICK, tasks={"view": 0.25, "buy": 2.0}, train={**TRAIN, "epochs": 1}).fit(log, run())
    positives, history = log.positives(), History.of(log)
    tasks = tower._tasks_of(positives)
    assert tasks is not None
    make = Examples(tower.config, tower.encoder, history, positives.item_codes, 20, 0, tasks=tasks)
    rows = np.array([3, 100, 200, 300])
    batch = make(rows)
    expected = [0.25 if item % 2 == 0 else 2.0 for item in positives.item_codes[rows]]
    assert batch.weights.tolist() == expected
    with torch.no_grad():
        own, _ = tower.network(batch)
        task = batch.extra["task"]
        several = [tower.network(replace(batch, extra={**batch.extra, "task": torch.full_like(task, t)}))[0] for t in (0, 1)]
        blend, _ = tower.network(replace(batch, extra={}))
    torch.testing.assert_close(own, torch.stack([several[int(t)][row] for row, t in enumerate(task)]))
    torch.testing.assert_close(blend, 0.25 * several[0] + 2.0 * several[1])
    restored = TwoTower(**QUICK, tasks={"view": 0.25, "buy": 2.0}, train={**TRAIN, "epochs": 1}).restore(tower.state())
    np.testing.assert_array_equal(restored.encode_queries(queries), tower.encode_queries(queries))
    with pytest.raises(ConfigError, match=r"two_tower\.tasks: names view; the positive kinds are view, buy"):
        TwoTower(tasks={"view": 1.0}).fit(log, run())


def test_the_gate_by_hand() -> None:
    """g e_u + (1 - g) V p_h, before it is scaled to length one; an OOV user has the embedding of OOV."""
    log = clustered(users=20)[0]
    features = FeatureSet(features=(Categorical(source="user"), Sequence(), Categorical(source="item")))
    tower = TwoTower(width=4, features=features, user_weight=0.25, similarity="dot", train={**TRAIN, "epochs": 1}).fit(log, run())
    tables, head = tower.network.embeddings.tables(), tower.network.query.head
    assert head is not None
    queries = queries_of([[1, 5]], users=[3])
    encoded = tower.encoder.encode_users(queries)
    with torch.no_grad():
        mean = tables["item"][torch.from_numpy(encoded.sparse["history"].values).long()].mean(0)
        by_hand = 0.25 * tables["user"][int(encoded.sparse["user"].values[0])] + 0.75 * (head.weight @ mean + head.bias)
    np.testing.assert_allclose(tower.encode_queries(queries)[0], by_hand.numpy(), rtol=1e-5)


def test_the_exported_query_tower_says_the_same() -> None:
    log = clustered(users=40)[0]
    aged = replace(log, users=log.users.with_columns(pl.Series("age", np.arange(40) / 3.0)))
    tower = TwoTower(**QUICK, query_layers=(12,), dropout=0.1, train={**TRAIN, "epochs": 1}).fit(aged, run())
    program = tower.export_query_tower().module()
    queries = History.of(aged).queries(np.arange(7, dtype=np.int32))
    encoded = tower.encoder.encode_users(queries)
    names = [feature.name for feature in tower.encoder.inputs("user").sparse]
    longest = max(int(encoded.sparse[name].lengths.max()) for name in names)
    ids = np.zeros((7, len(names), longest), dtype=np.int64)
    for place, name in enumerate(names):
        for row in range(7):
            bag = encoded.sparse[name][row]
            ids[row, place, : len(bag)] = bag
    said = program(torch.from_numpy(encoded.dense), torch.from_numpy(ids))
    np.testing.assert_allclose(said.detach().numpy(), tower.encode_queries(queries), rtol=1e-5, atol=1e-6)


def test_settings_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r'loss = "ccl" needs similarity = "cosine" and negatives = "uniform" or "in_batch"'):
        TwoTower(loss="ccl")
    with pytest.raises(ConfigError, match=r"a weight above 0 for each positive kind expected, got \{\}"):
        TwoTower(tasks={})
    features = FeatureSet(features=(Sequence(), Categorical(source="item")))
    with pytest.raises(ConfigError, match=r"two_tower\.user_weight: there is no user id among the features"):
        TwoTower(features=features, user_weight=0.5).fit(clustered(users=20)[0], run())
