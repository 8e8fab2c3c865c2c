"""Matrix factorisation: the contract for every way of learning, losses and penalties by hand, and what the papers promise."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy import sparse

from palate.retrieve.fold_in import FoldIn
from palate.retrieve.mf import MF
from palate.retrieve.mf_network import Drawn, Vectors, Whole
from palate.retrieve.popular import Popular
from palate.testing.contracts import RetrieverContract, clustered, hit_rate, log_of, queries_of
from palate.train.trainer import Trainer
from palate.types import ConfigError, DataError, Log, Run

FUSED: dict[str, Any] = {"sparse": "adagrad", "sparse_lr": 0.5, "batch_size": 256, "epochs": 8}
DENSE: dict[str, Any] = {"sparse": "dense", "lr": 0.03, "batch_size": 60, "epochs": 20}


def run(seed: int = 0) -> Run:
    return Run(seed=seed, train=Trainer())


class TestSoftmax(RetrieverContract):
    tolerance = 1e-4

    def make(self) -> MF:
        return MF(width=8, l2=0.01, train=DENSE)

    def run(self) -> Run:
        return run()


class TestLogistic(TestSoftmax):
    """Fused tables, and all items in one batch of users."""

    def make(self) -> MF:
        return MF(width=8, loss="logistic", n_negatives=4, l2=0.003, train={**FUSED, "batch_size": 40, "epochs": 12})


class TestCosineContrastive(TestSoftmax):
    def make(self) -> MF:
        return MF(width=8, loss="ccl", negatives="uniform", shared=60, l2=0.0, negative_weight=20, margin=0.3, train=FUSED)


class TestRatings(TestSoftmax):
    """Everybody's wants are rated 4 or 5 by genre; popularity cannot be beaten on them."""

    gain = 0.0

    def make(self) -> MF:
        return MF(width=4, loss="squared", train={**DENSE, "epochs": 2})

    def run(self) -> Run:
        return run()

    @pytest.fixture
    def world(self) -> Any:
        log, queries, wanted = clustered(cold=2)
        return with_ratings(log), queries, wanted

    def small(self) -> Log:
        return with_ratings(super().small())

    # The contract's own small logs have no values.
    def test_the_same_event_twice_in_the_log_and_in_a_history(self) -> None: ...
    def test_a_log_of_which_nothing_can_be_learnt_is_one_line(self) -> None:
        with pytest.raises(DataError, match="by hand: no event has a value"):
            self.make().fit(clustered(users=8, items=20)[0], run())

    def test_fitting_again_forgets_and_repeats(self, fitted: Any, world: Any) -> None:
        again = self.make().fit(with_ratings(clustered(seed=1, users=40)[0]), run()).fit(world[0], run())
        np.testing.assert_array_equal(again.retrieve(world[1], 10).items, fitted.retrieve(world[1], 10).items)


def with_ratings(log: Log) -> Log:
    stars = 4.0 + (log.item_codes % 4 == log.user_codes % 4)
    return replace(log, events=log.events.with_columns(pl.Series("value", stars, dtype=pl.Float32)))


# -- by hand -------------------------------------------------------------------------------------------------------------------------

P, BU = [[0.5, 1.0], [-1.0, 0.25]], [0.1, -0.2]
Q, BI = [[1.0, 0.0], [0.5, -0.5], [0.0, 2.0]], [0.3, 0.0, -0.1]
SCORES = np.array(P) @ np.array(Q).T + np.array(BU)[:, None] + np.array(BI)
SQUARES = [np.square(P).sum(1) + np.square(BU), np.square(Q).sum(1) + np.square(BI)]


def network(counts: tuple[int, ...] = (2, 1, 1), **settings: Any) -> Vectors:
    given = MF(**{"width": 2, "train": {"sparse": "sgd"}, **settings}).config
    vectors = Vectors(given, 2, 3, np.array(counts))
    with torch.no_grad():
        for side, (rows, bias) in {"user": (P, BU), "item": (Q, BI)}.items():
            table = getattr(vectors, side).tables()[side]
            assert table.shape == (len(rows) + 1, 4)
            assert (table[:, 2:] == 0).all()
            table[1:, :2], table[1:, 2] = torch.tensor(rows), torch.tensor(bias) if vectors.biased else 0.0
    return vectors


# user 0 wants items 0 and 2, user 1 wants 0 and 1
KNOWN = sparse.csr_matrix(np.array([[1, 0, 1], [1, 1, 0]], dtype=np.float32))
WANTS = [(0, 0), (0, 2), (1, 0), (1, 1)]


def softplus(x: Any) -> Any:
    return np.log1p(np.exp(x))


def test_softmax_over_all_items_by_hand() -> None:
    batch = Whole(KNOWN)(np.array([0, 1]))
    by_hand = sum(np.log(np.exp(SCORES[u] / 0.5).sum()) - SCORES[u, i] / 0.5 for u, i in WANTS) / 4
    # penalty: each user once a positive; items by their share of the positives (1/2, 1/4, 1/4) and of uniform negatives (1/3 each)
    penalty = SQUARES[0].mean() + ((np.array([0.5, 0.25, 0.25]) + 1 / 3) * SQUARES[1]).sum()
    assert network(temperature=0.5, l2=0.0)(batch).item() == pytest.approx(by_hand, rel=1e-5)
    assert network(temperature=0.5, l2=0.1)(batch).item() == pytest.approx(by_hand + 0.05 * penalty, rel=1e-5)


def test_logistic_over_all_items_by_hand() -> None:
    batch = Whole(KNOWN)(np.array([1, 0]))
    by_hand = sum(softplus(-SCORES[u, i]) + 3 / 3 * softplus(SCORES[u]).sum() for u, i in WANTS) / 4
    penalty = 4 * SQUARES[0].mean() + ((np.array([0.5, 0.25, 0.25]) + 3 / 3) * SQUARES[1]).sum()
    loss = network(loss="logistic", n_negatives=3, l2=0.1)(batch).item()
    assert loss == pytest.approx(by_hand + 0.05 * penalty, rel=1e-5)


def drawn(config: MF.Config) -> Drawn:
    users, items = (np.array(part, dtype=np.int32) for part in zip(*WANTS, strict=True))
    return Drawn(config, users, items, np.zeros(4, np.float32), (2, 3), seed=0)


def test_drawn_oracle_each_loss_is_that_of_its_batch() -> None:
    """A literal loop over the negatives that the batch holds: hits left out, every term of the penalty."""
    for loss in ("logistic", "bpr", "hinge"):
        for shared in (None, 5):
            vectors = network(loss=loss, negatives="uniform", n_negatives=4, shared=shared, l2=0.1)
            batch = drawn(vectors.config)(np.arange(4))
            s, losses, penalties = 5 if shared else 4, [], []
            for row, (u, i) in enumerate(WANTS):
                negatives = batch.extra["negatives"].numpy() if shared else batch.extra["negatives"][row].numpy()
                kept = [j for j in negatives if not KNOWN[u, j]]
                assert len(negatives) == s
                each = {
                    "logistic": [4 / s * softplus(SCORES[u, j]) for j in kept],
                    "bpr": [softplus(SCORES[u, j] - SCORES[u, i]) / len(kept) for j in kept],
                    "hinge": [max(0, 0.5 - SCORES[u, i] + SCORES[u, j]) / len(kept) for j in kept],
                }[loss]
                losses.append(sum(each) + (softplus(-SCORES[u, i]) if loss == "logistic" else 0))
                m = 4 if loss == "logistic" else 1
                users = 1 + m if loss == "logistic" else 1
                penalties.append(users * SQUARES[0][u] + SQUARES[1][i] + m * np.mean([SQUARES[1][j] for j in negatives]))
            assert vectors(batch).item() == pytest.approx(np.mean(losses) + 0.05 * np.mean(penalties), rel=1e-5), (loss, shared)


def test_in_batch_and_mixed_softmax_oracle() -> None:
    """Columns are the positives of the batch (items 0, 2, 0, 1), then the draws; q = (1/2, 1/4, 1/4), mixed with 1/3 each."""
    for negatives in ("in_batch", "in_batch_log_q", "mixed", "popularity"):
        vectors = network(negatives=negatives, l2=0.0, shared=6, power=2.0)
        batch = drawn(vectors.config)(np.arange(4))
        draws = batch.extra["negatives"].tolist()
        columns = draws if negatives == "popularity" else [0, 2, 0, 1, *draws]
        assert len(columns) == (10 if negatives == "mixed" else 6 if negatives == "popularity" else 4)
        q = {
            "in_batch": np.ones(3),
            "in_batch_log_q": np.array([2, 1, 1]) / 4,
            "mixed": (4 * np.array([2, 1, 1]) / 4 + 6 / 3) / 10,
            "popularity": np.array([4, 1, 1]) / 6,
        }[negatives]
        total = 0.0
        for u, i in WANTS:
            weight = np.exp(SCORES[u]) / q
            total -= math.log(weight[i] / (weight[i] + sum(weight[j] for j in columns if not KNOWN[u, j])))
        assert vectors(batch).item() == pytest.approx(total / 4, rel=1e-5), negatives


def test_cosines_by_hand() -> None:
    vectors = network(loss="ccl", negatives="uniform", n_negatives=3, margin=0.0, negative_weight=2.0, l2=0.0)
    batch = drawn(vectors.config)(np.arange(4))
    unit = [np.array(part) / np.linalg.norm(part, axis=1, keepdims=True) for part in (P, Q)]
    cosine, total = unit[0] @ unit[1].T, 0.0
    for (u, i), negatives in zip(WANTS, batch.extra["negatives"].tolist(), strict=True):
        kept = [j for j in negatives if not KNOWN[u, j]]
        total += 1 - cosine[u, i] + 2 * (sum(max(0, cosine[u, j]) for j in kept) / len(kept) if kept else 0)
    assert vectors(batch).item() == pytest.approx(total / 4, rel=1e-5)


def test_ratings_by_hand() -> None:
    vectors = network(loss="squared", l2=0.1)
    config = vectors.config
    batch = Drawn(config, np.array([1, 0], np.int32), np.array([2, 0], np.int32), np.array([0.5, -1.0], np.float32), (2, 3), 0)(
        np.arange(2)
    )
    errors = np.square([SCORES[1, 2] - 0.5, SCORES[0, 0] + 1.0]).mean() / 2
    penalty = (SQUARES[0].sum() + SQUARES[1][2] + SQUARES[1][0]) / 2
    assert vectors(batch).item() == pytest.approx(errors + 0.05 * penalty, rel=1e-5)


def test_fold_in_by_hand() -> None:
    """Users whose vectors are a linear map of the mean of their history: the map is found, and serves a history never seen."""
    rng = np.random.default_rng(0)
    items, turn = rng.normal(size=(30, 3)).astype(np.float32), rng.normal(size=(3, 2))
    known = sparse.csr_matrix(np.array([rng.permutation(30) < 6 for _ in range(200)], dtype=np.float32))
    users = (known @ items / 6) @ turn + 1.0
    fold = FoldIn.fit(known, items, users.astype(np.float32), l2=1e-9)
    new = sparse.csr_matrix((np.ones(6), ([0] * 6, [1, 4, 7, 9, 12, 20])), shape=(1, 30))
    np.testing.assert_allclose(fold(new), items[[1, 4, 7, 9, 12, 20]].mean(0, keepdims=True) @ turn + 1.0, rtol=1e-3)


# -- what the papers promise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "negatives", "more"),
    [
        ("softmax", "in_batch_log_q", {}),
        ("softmax", "mixed", {}),
        ("logistic", "uniform", {"n_negatives": 4}),
        ("bpr", "uniform", {"n_negatives": 4}),
        ("hinge", "uniform", {"shared": 64, "margin": 1.0}),
        ("warp", "uniform", {"n_negatives": 20, "margin": 1.0}),
    ],
)
def test_every_loss_learns_what_people_want(loss: str, negatives: str, more: dict[str, Any]) -> None:
    log, queries, wanted = clustered()
    model = MF(width=8, loss=loss, negatives=negatives, l2=0.003, train=FUSED, **more).fit(log, run())
    popular = hit_rate(Popular().fit(log).retrieve(queries, 10), wanted)
    assert hit_rate(model.retrieve(queries, 10), wanted) > 1.5 * popular
    assert model.curves["loss"][-1] < model.curves["loss"][0]


def test_ratings_are_predicted() -> None:
    """Scores are in the units of the ratings; factors find who likes what, biases who is strict and what is good."""
    rng = np.random.default_rng(0)
    users, items = np.divmod(rng.permutation(60 * 40)[:1500], 40)
    strict, good = rng.normal(0, 0.5, 60), rng.normal(0, 0.5, 40)
    taste = 0.8 * rng.normal(size=(60, 2)) @ rng.normal(size=(40, 2)).T
    stars = 3.5 + strict[users] + good[items] + taste[users, items]
    log = log_of(list(zip(users.tolist(), items.tolist(), strict=True)), 60, 40)
    log = replace(log, events=log.events.with_columns(pl.Series("value", stars, dtype=pl.Float32)))
    train, held = log.where(np.arange(1500) < 1200), log.where(np.arange(1500) >= 1200)
    model = MF(width=4, loss="squared", l2=0.02, train={**DENSE, "batch_size": 240, "lr": 0.05, "epochs": 25}).fit(train, run())
    said = model.score(queries_of([[]] * 300, users=held.user_codes.tolist()), held.item_codes[:, None])[:, 0]
    error, spread = np.sqrt(np.mean((said - stars[1200:]) ** 2)), stars.std()
    assert error < 0.6 * spread
    assert abs(said.mean() - stars.mean()) < 0.15


def test_settings_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(ConfigError, match='negatives = "all" is for softmax and logistic; give bpr draws'):
        MF(loss="bpr")
    with pytest.raises(ConfigError, match='negatives = "mixed" takes log q off the logits of a softmax; hinge has none'):
        MF(loss="hinge", negatives="mixed")
    with pytest.raises(ConfigError, match="mf: a network needs a training engine"):
        MF().fit(clustered(users=20)[0])
