from __future__ import annotations

import numpy as np
import pytest

from palate.data.split import split
from palate.features.history import History
from palate.funnel import Funnel, _without
from palate.rank.gbdt import GBDT
from palate.rerank.mmr import MMR
from palate.retrieve.ease import EASE
from palate.retrieve.item_knn import ItemKNN
from palate.retrieve.popular import Popular
from palate.types import NOTHING, ConfigError, Log, Request, SplitError


@pytest.fixture(scope="module")
def parts(small_log: Log) -> tuple[Log, Log]:
    return split(small_log, "leave-last-out")


@pytest.fixture(scope="module")
def funnel(parts: tuple[Log, Log]) -> Funnel:
    retrievers = [Popular(quota=20), EASE(l2=10, quota=20)]
    return Funnel(retrievers, GBDT(min_rows=5), [MMR(column="genres", beta=0.1)], config=Funnel.Config(candidates=30, cuts=4)).fit(parts[0])


def test_every_stage_keeps_its_promises(funnel: Funnel, parts: tuple[Log, Log]) -> None:
    users = np.unique(parts[1].user_codes)
    queries = funnel.history.queries(users)
    stages = funnel.stages(queries, 5)
    assert list(stages) == ["popular", "ease", "merged", "ranked", "funnel"]
    for name, candidates in stages.items():
        for row in range(len(users)):
            items = candidates.items[row][candidates.items[row] != NOTHING]
            assert len(set(items)) == len(items), name
            assert not set(items) & set(queries.blocked[row]), name
    for row in range(len(users)):
        merged = set(stages["merged"].items[row]) - {NOTHING}
        assert merged == set(stages["ranked"].items[row]) - {NOTHING}
        assert set(stages["funnel"].items[row]) - {NOTHING} <= merged
    probability = stages["ranked"].features["ranker.probability"][stages["ranked"].present]
    assert ((probability >= 0) & (probability <= 1)).all()


def test_the_ranker_beats_retrieval_where_there_is_something_to_learn(funnel: Funnel, parts: tuple[Log, Log]) -> None:
    """Planted tastes: whatever the order of the merged list, the ranker's must be better than popularity's."""
    _, test = parts
    queries = funnel.history.queries(test.user_codes)
    stages = funnel.stages(queries, 10)
    hit = {name: (c.items[:, :10] == test.item_codes[:, None]).any(axis=1).mean() for name, c in stages.items()}
    assert hit["funnel"] > hit["popular"]


def test_labels_come_from_after_the_cut_only(small_log: Log) -> None:
    """Hand-made: the early log holds nothing of a user from that user's first labelled event on."""
    funnel = Funnel([Popular()], GBDT(), config=Funnel.Config(cuts=3))
    funnel._know(small_log)
    from palate.types import Run

    early, queries, happened, groups = funnel._cut(small_log, small_log.positives(), Run())
    assert len(early) == len(small_log) - 3 * small_log.n_users
    assert len(queries) == 3 * small_log.n_users == len(groups)
    for row in range(len(queries)):
        user, target = queries.users[row], small_log.item_codes[happened[row][0]]
        assert len(happened[row]) == 1
        own = early.item_codes[early.user_codes == user]
        assert target not in own
        assert target not in queries.history[row]
        assert set(own) <= set(queries.history[row])
        assert (queries.times[queries.history.offsets[row] : queries.history.offsets[row + 1]] <= queries.now[row]).all()


def test_a_global_cut_labels_what_happened_after_one_moment(small_log: Log) -> None:
    from palate.types import Run

    funnel = Funnel([Popular()], GBDT(), config=Funnel.Config(holdout="time", fraction=0.2))
    funnel._know(small_log)
    early, queries, happened, users = funnel._cut(small_log, small_log.positives(), Run())
    at = early.times.max()
    for row, user in enumerate(users):
        later = small_log.item_codes[(small_log.user_codes == user) & (small_log.times > at)]
        assert sorted(small_log.item_codes[happened[row]]) == sorted(later)
        assert len(queries.history[row]) == ((small_log.user_codes == user) & (small_log.times <= at)).sum()


def test_ties_at_the_cut_keep_log_order(small_log: Log) -> None:
    positives = small_log.positives()
    user = positives.user_codes[0]
    rows = np.flatnonzero(positives.user_codes == user)
    late = np.zeros(len(positives), dtype=bool)
    late[rows[-1]] = True
    early = _without(small_log, positives, late)
    assert len(early) == len(small_log) - 1
    assert (np.diff(early.times) >= 0).all()


def test_slates_are_the_same_alone_and_together(funnel: Funnel) -> None:
    requests = [Request(user="u1", k=5), Request(history=("i0", "Title, 4"), k=5), Request(user="u2", k=3, filters=('genres has "red"',))]
    together = funnel.recommend(requests)
    assert [len(slate) for slate in together] == [5, 5, 3]
    for request, slate in zip(requests, together, strict=True):
        alone = funnel.recommend([request])[0]
        assert alone.items == slate.items
        np.testing.assert_allclose(alone.scores, slate.scores, rtol=1e-6)
    reds = {f"i{item}" for item in range(0, 48, 4)}
    assert set(together[2].items) <= reds
    assert all(reason for slate in together for reason in slate.reasons)


def test_a_newcomer_is_served_from_a_history_of_titles(funnel: Funnel) -> None:
    slate = funnel.recommend([Request(history=("Title, 0", "Title, 4", "Title, 8"), k=4)])[0]
    reds = {f"i{item}" for item in range(0, 48, 4)}
    assert len(set(slate.items) & reds) >= 3
    assert not set(slate.items) & {"i0", "i4", "i8"}
    assert any("Title" in reason for reason in slate.reasons)


def test_a_stranger_gets_what_is_popular(funnel: Funnel) -> None:
    slate = funnel.recommend([Request(user="nobody", k=5)])[0]
    assert len(slate) == 5


def test_history_ends_at_now(funnel: Funnel, parts: tuple[Log, Log]) -> None:
    store = History.of(parts[0])
    queries = store.queries(np.array([0], dtype=np.int32), np.array([5 * 10**11]))
    assert (queries.times <= 5 * 10**11).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Funnel([]), "at least one retriever"),
        (lambda: Funnel([EASE(), EASE()]), "two retrievers are called 'ease'"),
        (lambda: Funnel([ItemKNN(name="merged")]), "name of a stage"),
    ],
)
def test_bad_funnels_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_log_without_wanted_events_is_refused(small_log: Log) -> None:
    from dataclasses import replace

    with pytest.raises(SplitError, match="no event counts as wanted"):
        Funnel([Popular()]).fit(replace(small_log, positive=("purchase",)))
