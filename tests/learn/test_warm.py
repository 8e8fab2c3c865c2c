"""Networks that go on from an earlier funnel: at step 0 they know what it knew, by id; after a little training what anew takes long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from palate.config import Training
from palate.data.log import read
from palate.data.sources import planted
from palate.features.history import History
from palate.features.vocab import Vocabulary
from palate.funnel import Funnel
from palate.rank.dlrm import DLRM
from palate.rank.multitask import MultiTask
from palate.rank.tasks import Task
from palate.retrieve.als import ALS
from palate.retrieve.base import Retriever, interactions
from palate.retrieve.fold_in import carried_over
from palate.retrieve.mf import MF
from palate.retrieve.ncf import NCF
from palate.retrieve.popular import Popular
from palate.retrieve.rbm import RBM
from palate.retrieve.softmax_dnn import SoftmaxDNN
from palate.retrieve.two_tower import TwoTower
from palate.train.trainer import Trainer
from palate.types import Floats, Log, Queries, Ragged, Run, Warm


def untrained(model: Any, loader: Any, step: Any, training: Training, **more: Any) -> dict[str, list[float]]:
    """An engine that leaves everything as it starts."""
    model.eval()
    return {}


@pytest.fixture(scope="module")
def logs() -> tuple[Log, Log]:
    """A log, and the same with later events, of people and items that it did not have among them. The later one lists ids otherwise."""
    log, truth = planted.plant(200, 80, 14_000, 1)
    words = [pl.col(name).cast(pl.String) for name in ("user", "item", "kind")]
    frame = log.events.select(*words, "time", "value")
    late = {"u190", "u195"}, {"i70", "i75"}
    known = ~(pl.col("user").is_in(list(late[0])) | pl.col("item").is_in(list(late[1])))
    early = frame[:9_000].filter(known)
    whole = pl.concat([early, frame[9_000:]])
    users, items = (table.sample(fraction=1.0, shuffle=True, seed=3) for table in (truth.users, truth.items))
    return (
        read(early, kind="kind", value="value", items=truth.items.filter(~pl.col("item").is_in(list(late[1])))),
        read(whole, kind="kind", value="value", items=items, users=users),
    )


def funnel_of(log: Log, *retrievers: Retriever, ranker: Any = None, train: Any = None) -> Funnel:
    return Funnel(list(retrievers), ranker, config=Funnel.Config(candidates=30, cuts=3)).fit(log, Run(train=train or Trainer().fit))


def warm(funnel: Funnel, **settings: Any) -> Warm:
    return Warm(funnel, funnel.history.latest, **settings)


def words(towers: TwoTower) -> Vocabulary:
    found = towers.encoder._fitted["item"].vocabulary
    assert isinstance(found, Vocabulary)
    return found


def both(before: pl.Series, now: pl.Series) -> tuple[Any, Any]:
    """Codes of the ids that are in both, in the earlier and in the later one."""
    shared = [value for value in before if value in set(now)]
    earlier, later = ({value: code for code, value in enumerate(ids)} for ids in (before, now))
    return np.array([earlier[value] for value in shared], np.int32), np.array([later[value] for value in shared], np.int32)


def test_two_towers_start_with_the_vectors_they_had_by_id(logs: tuple[Log, Log]) -> None:
    early, whole = logs
    before = TwoTower(width=8, train={"epochs": 1})
    funnel = funnel_of(early, before)
    now = TwoTower(width=8, train={"epochs": 1}).fit(whole, Run(train=untrained, warm=warm(funnel)))
    mine, theirs = both(early.items["item"], whole.items["item"])
    assert len(mine) > 70
    learnt = np.isin(mine, early.positives().item_codes)
    np.testing.assert_allclose(now.encode_items(theirs[learnt]), before.encode_items(mine[learnt]), atol=1e-6)
    # The order of the vocabulary is another: the test would be idle otherwise.
    assert words(now).values.to_list() != words(before).values.to_list()
    # A new item stands where OOV stood, told by its features: just what was said of it so far.
    new = whole.items["item"].to_list().index("i70")
    rows = now.encoder.rows_of(before.encoder)["item"]
    row = words(now).ids(pl.Series(["i70"]))[0]
    assert rows[row] == 1
    tables = [tower.network.embeddings.tables()["item"].detach().numpy() for tower in (now, before)]
    np.testing.assert_array_equal(tables[0][row], tables[1][1])
    assert np.isfinite(now.encode_items(np.array([new], np.int32))).all()


@pytest.mark.parametrize("loss", ["softmax", "bpr", "squared"])
def test_mf_starts_with_the_vectors_it_had_by_id(logs: tuple[Log, Log], loss: str) -> None:
    early, whole = logs
    settings: dict[str, Any] = {"width": 8, "loss": loss, "negatives": "uniform" if loss == "bpr" else "all", "train": {"epochs": 2}}
    before = MF(**settings)
    funnel = funnel_of(early, before)
    now = MF(**settings).fit(whole, Run(train=untrained, warm=warm(funnel)))
    width = before.index.vectors.shape[1] - (loss == "squared")  # less the column of the mean
    mine, theirs = both(early.items["item"], whole.items["item"])
    known = before.learnt[mine]
    np.testing.assert_allclose(now.index.vectors[theirs[known], :width], before.index.vectors[mine[known], :width], atol=1e-6)
    mine, theirs = both(early.users["user"], whole.users["user"])
    known = before.there[mine]
    np.testing.assert_allclose(now.users[theirs[known], :width], before.users[mine[known], :width], atol=1e-6)


def test_a_person_new_to_mf_is_folded_in_by_hand(logs: tuple[Log, Log]) -> None:
    """From the items of the history that the earlier one knows, in its codes."""
    early, whole = logs
    before = MF(width=8, train={"epochs": 2})
    funnel = funnel_of(early, before)
    now = MF(width=8, train={"epochs": 2}).fit(whole, Run(train=untrained, warm=warm(funnel)))
    code = whole.users["user"].to_list().index("u190")
    assert "u190" not in set(early.users["user"])
    wanted = whole.positives()
    ids = {whole.items["item"][int(item)] for item in wanted.item_codes[wanted.user_codes == code]}
    codes = sorted({early.items["item"].to_list().index(item) for item in ids if item in set(early.items["item"])})
    codes = [item for item in codes if before.learnt[item]]
    assert codes
    vectors = before.index.vectors[codes].mean(0)
    x = np.concatenate([vectors, vectors * np.sqrt(len(codes)), [np.sqrt(len(codes)), 1.0]])
    np.testing.assert_allclose(now.users[code][:9], (x @ before.fold_in.weights)[:9], atol=1e-4)  # the tenth is the constant 1


@pytest.mark.parametrize("model", ["gmf", "mlp", "neumf"])
def test_ncf_starts_with_the_embeddings_it_had_by_id_and_the_layers(logs: tuple[Log, Log], model: str) -> None:
    early, whole = logs
    fuse = {"epochs": 1, "dense": "sgd", "sparse": "dense"}
    settings: dict[str, Any] = {"model": model, "factors": 4, "train": {"epochs": 1}, "fuse": fuse}
    before = NCF(**settings)
    funnel = funnel_of(early, before)
    now = NCF(**settings).fit(whole, Run(train=untrained, warm=warm(funnel)))
    mine, theirs = both(early.items["item"], whole.items["item"])
    known = before.learnt[mine]
    np.testing.assert_array_equal(now.items[theirs[known]], before.items[mine[known]])
    mine, theirs = both(early.users["user"], whole.users["user"])
    known = before.there[mine]
    np.testing.assert_array_equal(now.users[theirs[known]], before.users[mine[known]])
    for name, weights in before.network.scorer.state_dict().items():
        np.testing.assert_array_equal(now.network.scorer.state_dict()[name].numpy(), weights.numpy())
    new = whole.users["user"].to_list().index("u190")
    vectors, there = carried_over(before, funnel, whole, interactions(whole))
    assert there[new]
    np.testing.assert_array_equal(now.users[new], vectors[new])  # folded in, see MF
    wider = NCF(**{**settings, "factors": 8}).fit(whole, Run(train=Trainer().fit, warm=warm(funnel)))  # of another shape: anew
    assert wider.items.shape[1] > now.items.shape[1]


def test_the_softmax_starts_with_its_rows_and_its_tower(logs: tuple[Log, Log]) -> None:
    early, whole = logs
    settings: dict[str, Any] = {"width": 8, "layers": (8,), "n_negatives": 40, "train": {"epochs": 1}}
    before = SoftmaxDNN(**settings)
    funnel = funnel_of(early, before)
    now = SoftmaxDNN(**settings).fit(whole, Run(train=untrained, warm=warm(funnel)))
    mine, theirs = both(early.items["item"], whole.items["item"])
    known = before.learnt[mine]
    np.testing.assert_array_equal(now.index.vectors[theirs[known]], before.index.vectors[mine[known]])
    for name, weights in before.network.tower.mlp.state_dict().items():
        np.testing.assert_array_equal(now.network.tower.mlp.state_dict()[name].numpy(), weights.numpy())
    # Somebody's history, told in the codes of either log, is one vector.
    vectors = []
    for tower, log, codes in ((before, early, mine), (now, whole, theirs)):
        asked = History.of(log).queries(np.zeros(1, np.int32))
        history = Ragged.of([codes[known][:5].tolist()])
        vectors.append(tower.encode_queries(replace(asked, history=history, now=np.zeros(1, np.int64))))
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


@pytest.mark.parametrize("units", ["binary", "softmax"])
def test_a_machine_starts_with_the_weights_of_its_items(logs: tuple[Log, Log], units: str) -> None:
    early, whole = (
        read(log.events.select(pl.col("user", "item").cast(pl.String), "time", value=pl.Series(log.item_codes % 3 + 1.0)), value="value")
        for log in logs
    )
    settings: dict[str, Any] = {"units": units, "width": 6, "train": {"epochs": 2}}
    before = RBM(**settings)
    funnel = funnel_of(early, before)
    now = RBM(**settings).fit(whole, Run(train=untrained, warm=warm(funnel)))
    ids = [log.items["item"].gather(machine.pool) for log, machine in ((early, before), (whole, now))]
    mine, theirs = both(*ids)
    assert len(mine) > 60
    k = len(now.levels)
    for name in ("weight", "b"):
        was, found = (getattr(each.machine, name).detach().view(-1, k, 6 if name == "weight" else 1).numpy() for each in (before, now))
        np.testing.assert_array_equal(found[theirs], was[mine])
    np.testing.assert_array_equal(now.machine.c.detach().numpy(), before.machine.c.detach().numpy())


def test_als_needs_fewer_rounds_from_where_it_was(logs: tuple[Log, Log]) -> None:
    """The vectors of 3 rounds from an earlier solution are nearer to those of 30 rounds than those of 3 rounds from scratch."""
    early, whole = logs

    def scores(als: ALS) -> Floats:
        return als.users @ als.index.vectors.T

    settings: dict[str, Any] = {"width": 8, "threads": 1}
    funnel = funnel_of(early, ALS(**settings))
    best = scores(ALS(**settings, iterations=30).fit(whole))
    from_there = ALS(**settings).fit(whole, Run(warm=warm(funnel, epochs=0.2)))
    from_scratch = ALS(**settings, iterations=3).fit(whole)
    errors = [float(np.square(scores(als) - best).mean()) for als in (from_there, from_scratch)]
    assert errors[0] < 0.7 * errors[1]


def recall(retriever: Retriever, queries: Queries, targets: Any, k: int = 10) -> float:
    return float((retriever.retrieve(queries, k).items == targets[:, None]).any(1).mean())


def tastes(events: int, seed: int) -> pl.DataFrame:
    """People of 8 tastes, nine of ten events within their own; nothing is known of anybody but ids."""
    rng = np.random.default_rng(seed)
    users, own = rng.integers(0, 300, events), rng.random(events) < 0.9
    items = np.where(own, rng.integers(0, 20, events) * 8 + users % 8, rng.integers(0, 160, events))
    return pl.DataFrame({"user": [f"u{u}" for u in users], "item": [f"i{i}" for i in items], "time": np.arange(events)})


@pytest.mark.parametrize(
    "make",
    [
        lambda epochs: TwoTower(width=16, history=1, recent=0, train={"epochs": epochs, "batch_size": 256, "sparse_lr": 0.05}),
        lambda epochs: MF(width=16, train={"epochs": epochs}),
        lambda epochs: NCF(model="gmf", factors=16, train={"epochs": epochs, "batch_size": 256, "lr": 0.01}),
        lambda epochs: SoftmaxDNN(width=16, history=5, recent=0, layers=(), train={"epochs": epochs, "batch_size": 256, "sparse_lr": 0.02}),
        lambda epochs: RBM(width=32, train={"epochs": epochs, "batch_size": 16}),
    ],
    ids=["two_tower", "mf", "ncf", "softmax_dnn", "rbm"],
)
def test_one_epoch_reaches_what_anew_takes_several_for(make: Callable[[int], Retriever]) -> None:
    frame = tastes(6_400, 0)
    early, whole, late = read(frame[:4_800]), read(frame[:6_000]), frame[6_000:]
    run, many = Run(train=Trainer().fit), 20
    funnel = Funnel([make(many)]).fit(early, run)
    warmed = make(many).fit(whole, replace(run, warm=warm(funnel, epochs=1 / many)))
    assert len(next(iter(warmed.curves.values()))) == 1  # type: ignore[attr-defined]
    codes = {
        ids: {value: code for code, value in enumerate(whole.users["user"] if ids == "user" else whole.items["item"])}
        for ids in ("user", "item")
    }
    queries = History.of(whole).queries(np.array([codes["user"][user] for user in late["user"]], np.int32))
    targets = np.array([codes["item"][item] for item in late["item"]])
    blocked = np.array([target in queries.blocked[row] for row, target in enumerate(targets)])
    models = {"warm": warmed, "one": make(1).fit(whole, run), "many": make(many).fit(whole, run)}
    rows = np.flatnonzero(~blocked)
    found = {name: recall(model, queries.take(rows), targets[rows], 20) for name, model in models.items()}
    assert found["one"] < 0.7 * found["many"], found
    assert found["warm"] > 0.9 * found["many"], found


def trained(log: Log, ranker: Any, **run: Any) -> Funnel:
    return Funnel([Popular(), ALS(width=8, threads=1)], ranker, config=Funnel.Config(candidates=30, cuts=3)).fit(log, Run(**run))


def test_a_ranker_starts_with_tables_layers_and_scale_as_they_were(logs: tuple[Log, Log]) -> None:
    early, whole = logs
    settings: dict[str, Any] = {"width": 4, "bottom": (8,), "top": (8,), "train": {"epochs": 1}}
    before = DLRM(**settings)
    funnel = trained(early, before, train=Trainer().fit)
    now = DLRM(**settings)
    later = trained(whole, now, train=untrained, warm=warm(funnel))
    assert now.inputs.dense == before.inputs.dense
    np.testing.assert_array_equal(now.mean, before.mean)
    np.testing.assert_array_equal(now.prior, before.prior)
    assert later.encoder is not None
    assert funnel.encoder is not None
    for name, feature in {feature.name: feature for feature in later.encoder.features.features}.items():
        moments = later.encoder._fitted[name].moments
        if feature.kind in ("numeric", "counter"):
            assert moments == funnel.encoder._fitted[name].moments
    theirs, mine = before.model.state_dict(), now.model.state_dict()
    layers = [name for name in mine if "embedding_bags" not in name]
    assert layers
    for name in layers:
        np.testing.assert_array_equal(mine[name].numpy(), theirs[name].numpy())
    rows = later.encoder.rows_of(funnel.encoder)
    for table, places in rows.items():
        key = next(name for name in mine if name.endswith(f"embedding_bags.{table.replace('.', '/')}.weight"))
        np.testing.assert_array_equal(mine[key].numpy(), theirs[key].numpy()[places])


def test_a_ranker_learns_from_what_is_new_alone_and_so_sees_no_leak(logs: tuple[Log, Log]) -> None:
    """Its queries lie behind all that the earlier funnel saw, and what retrievers learnt up to the cut holds none of them."""
    early, whole = logs
    funnel = trained(early, DLRM(width=4, train={"epochs": 1}), train=Trainer().fit)
    later = Funnel([Popular()], DLRM(width=4), config=Funnel.Config(cuts=3))
    later._know(whole)
    now = warm(funnel)
    log, queries, _, _ = later._cut(whole, whole.positives(), Run(), now)
    assert queries.now.min() > now.since
    anew = later._cut(whole, whole.positives(), Run())[1]
    assert anew.now.min() <= now.since
    first = np.full(whole.n_users, np.iinfo(np.int64).max)
    np.minimum.at(first, queries.users, queries.now)
    assert (log.times <= first[log.user_codes]).all()


def test_tasks_keep_the_scale_of_their_labels(logs: tuple[Log, Log]) -> None:
    early, whole = logs
    tasks = (Task(name="label"), Task(name="dwell", kind="watch_time", events=("click",)))
    settings: dict[str, Any] = {"width": 4, "tasks": tasks, "expert": (8,), "tower": (4,), "train": {"epochs": 1}}
    before = MultiTask(**settings)
    funnel = trained(early, before, train=Trainer().fit)
    now = MultiTask(**settings)
    trained(whole, now, train=untrained, warm=warm(funnel))
    np.testing.assert_array_equal(now.scale, before.scale)
    np.testing.assert_array_equal(now.prior, before.prior)


def test_what_is_learnt_from_is_new_or_drawn_from_the_old_by_hand() -> None:
    times = np.arange(100, dtype=np.int64)
    chosen = Warm(None, since=89, replay=2.0).chosen(times, seed=1)
    assert (chosen >= 90).sum() == 10
    assert (chosen < 90).sum() == 20
    assert (np.diff(chosen) > 0).all()
    assert len(Warm(None, since=89, replay=0).chosen(times, 1)) == 11  # one at least: a mean of nothing is no number
    assert len(Warm(None, since=1000).chosen(times, 1)) == 10
    assert (Warm(None, 0, epochs=0.2).epochs_of(10), Warm(None, 0, epochs=0.2).epochs_of(1)) == (2, 1)


def test_components_go_on_from_their_own_name_and_class(logs: tuple[Log, Log]) -> None:
    early, _ = logs
    mf, other = MF(width=4, train={"epochs": 1}), MF(width=4, name="other", train={"epochs": 1})
    now = warm(funnel_of(early, mf, other))
    assert now.before(MF(width=8)) is mf
    assert now.before(MF(name="other")) is other
    assert now.before(MF(name="third")) is None
    assert now.before(ALS(name="mf")) is None
