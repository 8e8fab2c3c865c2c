"""What every retriever and reranker must do, as pytest classes to inherit. Needs pytest; nothing else of Palate imports this.

class TestEASE(RetrieverContract):
    def make(self) -> EASE:
        return EASE(l2=10)

The contract checks the plumbing (shapes, masks, determinism, saving); that the formula is the paper's is for each model's own tests
to show, on numbers worked out by hand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import ClassVar

import numpy as np
import polars as pl
import pytest

from palate.evaluate import evaluate
from palate.funnel import Funnel
from palate.rerank.base import PROPENSITY, Reranker
from palate.retrieve.base import Retriever
from palate.retrieve.popular import Popular
from palate.types import NOBODY, NOTHING, Candidates, ConfigError, DataError, Log, Queries, Ragged, Request, Run, State

DAY = 86_400_000_000


def log_of(
    events: Sequence[tuple[int, int]],
    n_users: int | None = None,
    n_items: int | None = None,
    items: pl.DataFrame | None = None,
    times: Sequence[int] | None = None,
) -> Log:
    """A log from (user code, item code) pairs, one a day unless times (microseconds) are given. Ids are `u0`, `i0` and so on."""
    n_users = n_users if n_users is not None else 1 + max((user for user, _ in events), default=-1)
    n_items = n_items if n_items is not None else 1 + max((item for _, item in events), default=-1)
    users, codes = [f"u{code}" for code in range(n_users)], [f"i{code}" for code in range(n_items)]
    frame = pl.DataFrame(
        {
            "user": pl.Series([users[user] for user, _ in events], dtype=pl.Enum(users)),
            "item": pl.Series([codes[item] for _, item in events], dtype=pl.Enum(codes)),
            "time": pl.Series(list(times) if times is not None else [DAY * day for day in range(len(events))], dtype=pl.Int64),
            "kind": pl.Series(["want"] * len(events), dtype=pl.Enum(["want"])),
            "value": pl.Series([None] * len(events), dtype=pl.Float32),
        }
    ).with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")))
    table = pl.DataFrame({"item": codes}) if items is None else items
    return Log(frame, pl.DataFrame({"user": users}), table, name="by hand", positive=("want",))


def queries_of(
    histories: Sequence[Sequence[int]], users: Sequence[int] | None = None, blocked: Sequence[Sequence[int]] | None = None
) -> Queries:
    """Queries from item codes, oldest first, one a day; nobody's unless users are given; the history is blocked unless `blocked` is."""
    history = Ragged.of(histories)
    return Queries(
        users=np.full(len(histories), NOBODY, dtype=np.int32) if users is None else np.array(users, dtype=np.int32),
        history=history,
        times=np.concatenate([DAY * np.arange(n, dtype=np.int64) for n in [0, *history.lengths]]),
        now=DAY * (history.lengths + 1),
        blocked=history if blocked is None else Ragged.of(blocked),
    )


def clustered(
    seed: int = 0, users: int = 120, items: int = 60, clusters: int = 4, events: int = 13, cold: int = 0
) -> tuple[Log, Queries, np.ndarray]:
    """People who want one kind of item nine times in ten, none twice: the log without their last events, their queries, the last items.

    Item i is of genre `g{i % clusters}`; within a genre low codes are wanted more. cold: further items, which nobody ever wanted, and as
    many users, who never wanted anything.
    """
    rng = np.random.default_rng(seed)
    rows: list[list[int]] = []
    for user in range(users):
        own = np.arange(items) % clusters == user % clusters
        weight = np.where(own, 0.9 / own.sum(), 0.1 / (~own).sum()) / (1 + np.arange(items) // clusters) ** 0.3
        rows.append(rng.choice(items, events, replace=False, p=weight / weight.sum()).tolist())
    pairs = [(user, rows[user][place]) for place in range(events - 1) for user in range(users)]
    table = pl.DataFrame(
        {
            "item": [f"i{code}" for code in range(items + cold)],
            "genres": [[f"g{code % clusters}"] + (["common"] if code % 3 == 0 else []) for code in range(items + cold)],
            "year": [1980 + code % 40 for code in range(items + cold)],
        }
    )
    queries = queries_of([row[:-1] for row in rows], users=range(users))
    return log_of(pairs, users + cold, items + cold, table), queries, np.array([row[-1] for row in rows])


COLD = 2
"""Items of the contract's world without any event, the last ones; and as many users."""


@cache
def _world() -> tuple[Log, Queries, np.ndarray]:
    return clustered(cold=COLD)


def hit_rate(candidates: Candidates, wanted: np.ndarray, k: int = 10) -> float:
    """The share of queries whose wanted item (one each) is among the first K."""
    return float((candidates.items[:, :k] == wanted[:, None]).any(axis=1).mean())


def assert_well_formed(candidates: Candidates, b: int, k: int) -> None:
    """Shapes and types, falling scores, nothing twice, NOTHING only at the end."""
    assert candidates.items.shape == candidates.scores.shape == candidates.source.shape == (b, k)
    assert [array.dtype.name for array in (candidates.items, candidates.scores, candidates.source)] == ["int32", "float32", "int8"]
    present = candidates.present
    assert not (present[:, 1:] & ~present[:, :-1]).any(), "an item after NOTHING"
    assert np.isneginf(candidates.scores[~present]).all()
    assert np.isfinite(candidates.scores[present]).all()
    assert (candidates.source[~present] == -1).all()
    assert ((candidates.source[present] >= 0) & (candidates.source[present] < len(candidates.sources))).all()
    assert (candidates.scores[:, 1:] <= candidates.scores[:, :-1]).all(), "scores rise"
    for row, kept in zip(candidates.items, present, strict=True):
        assert len(set(row[kept].tolist())) == int(kept.sum()), "an item twice"


def assert_same(one: Candidates, other: Candidates, tolerance: float) -> None:
    """Equal scores within the tolerance, and equal items but for places whose scores are that close."""
    np.testing.assert_allclose(one.scores, other.scores, rtol=tolerance, atol=tolerance)
    for row in np.flatnonzero((one.items != other.items).any(axis=1)):
        known = dict(zip(other.items[row].tolist(), other.scores[row].tolist(), strict=True))
        last = other.scores[row, -1]
        for item, score in zip(one.items[row].tolist(), one.scores[row].tolist(), strict=True):
            assert np.isclose(known.get(item, last), score, rtol=tolerance, atol=tolerance), (row, item)


def assert_can_be_saved(state: State) -> None:
    """Arrays of plain numbers, frames, and meta that survives JSON."""
    for name, array in state.arrays.items():
        assert isinstance(array, np.ndarray), name
        assert array.dtype.kind in "biuf", f"{name} is {array.dtype}"
    assert json.loads(json.dumps(dict(state.meta))) == dict(state.meta)


class RetrieverContract:
    """Inherit and give `make`.

    personal: whether the answer depends on the history (popularity does not). tolerance: between one query and many (networks: larger).
    gain: how many times popularity's hit rate the retriever must reach on `clustered` data. run: circumstances, for networks with `train`.
    """

    personal: ClassVar[bool] = True
    tolerance: ClassVar[float] = 1e-5
    gain: ClassVar[float] = 1.5
    _fitted: ClassVar[Retriever]

    def make(self) -> Retriever:
        raise NotImplementedError

    def run(self) -> Run:
        return Run()

    @pytest.fixture
    def world(self) -> tuple[Log, Queries, np.ndarray]:
        return _world()

    @pytest.fixture
    def fitted(self, world: tuple[Log, Queries, np.ndarray]) -> Retriever:
        """Fitted once a class."""
        if "_fitted" not in vars(type(self)):
            retriever = self.make()
            assert retriever.fit(world[0], self.run()) is retriever
            type(self)._fitted = retriever
        return type(self)._fitted

    def test_lists_are_well_formed(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        for k in (1, 10):
            candidates = fitted.retrieve(world[1], k)
            assert_well_formed(candidates, len(world[1]), k)
            assert candidates.sources == (fitted.name,)
        assert candidates.present.all()

    def test_never_a_blocked_item(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        log, queries, _ = world
        for given in (queries, replace(queries, blocked=Ragged.of([range(b % 7, log.n_items, 3) for b in range(len(queries))]))):
            items = fitted.retrieve(given, 20).items
            for row in range(len(given)):
                assert not np.isin(items[row], given.blocked[row]).any()

    def test_what_is_not_blocked_may_come(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        log, queries, _ = world
        free = replace(queries, blocked=Ragged.of([[]] * len(queries)))
        assert fitted.retrieve(free, log.n_items).present.sum() > fitted.retrieve(queries, log.n_items).present.sum()

    def test_only_allowed_items(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        log, queries, _ = world
        allowed = np.arange(log.n_items) % 2 == 0
        items = fitted.retrieve(replace(queries, allowed=allowed), 10).items
        assert allowed[items[items != NOTHING]].all()
        assert (items != NOTHING).any()
        none = fitted.retrieve(replace(queries, allowed=np.zeros(log.n_items, dtype=bool)), 10)
        assert_well_formed(none, len(queries), 10)
        assert not none.present.any()

    def test_masks_come_before_the_cut(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        """The best K of what may be shown, not what may be shown of the best K."""
        log, queries, _ = world
        allowed = np.arange(log.n_items) % 2 == 0
        few = fitted.retrieve(replace(queries, allowed=allowed), 5)
        every = fitted.retrieve(queries, log.n_items)
        for row in range(len(queries)):
            expected = [item for item in every.items[row].tolist() if item != NOTHING and allowed[item]][:5]
            count = int(few.present[row].sum())
            assert count == len(expected)
            scores = dict(zip(every.items[row].tolist(), every.scores[row].tolist(), strict=True))
            np.testing.assert_allclose(
                few.scores[row, :count], [scores[item] for item in expected], rtol=self.tolerance, atol=self.tolerance
            )

    def test_a_longer_list_starts_with_the_shorter(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        short, long = fitted.retrieve(world[1], 5), fitted.retrieve(world[1], 20)
        assert np.array_equal(short.items, long.items[:, :5])

    def test_more_than_there_is(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        log, queries, _ = world
        k = log.n_items + 9
        assert fitted.retrieve(queries, 0).items.shape == (len(queries), 0)
        candidates = fitted.retrieve(queries, k)
        assert_well_formed(candidates, len(queries), k)
        assert (candidates.present.sum(axis=1) <= log.n_items - queries.blocked.lengths).all()

    def test_an_unknown_user_is_served_from_the_history(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        """Or not at all, if `serves_new_users` says so. Somebody in the table of users of whom nothing is known is no less unknown."""
        log, queries, _ = world
        for user in (NOBODY, log.n_users - 1):
            candidates = fitted.retrieve(replace(queries, users=np.full(len(queries), user, dtype=np.int32)), 10)
            assert_well_formed(candidates, len(queries), 10)
            if "history" in fitted.serves_new_users:
                assert candidates.present.all()
                if self.personal:
                    assert len(np.unique(candidates.items, axis=0)) > 1
            else:
                assert not candidates.present.any()

    def test_an_empty_history(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        assert fitted.serves_new_users <= {"history", "context"}
        candidates = fitted.retrieve(queries_of([[], []], users=[NOBODY, world[0].n_users - 1]), 10)
        assert_well_formed(candidates, 2, 10)
        assert candidates.present.any(axis=1).tolist() == ["context" in fitted.serves_new_users] * 2

    def test_items_without_events_come_if_it_says_so(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        log, queries, _ = world
        cold = np.arange(log.n_items) >= log.n_items - COLD
        assert fitted.retrieve(replace(queries, allowed=cold), 5).present.any() == fitted.serves_new_items

    def test_score_says_of_given_items_what_retrieve_said(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        log, queries, _ = world
        candidates = fitted.retrieve(queries, 20)
        scores = fitted.score(queries, candidates.items)
        assert (scores.dtype.name, scores.shape) == ("float32", candidates.items.shape)
        np.testing.assert_allclose(scores, candidates.scores, rtol=self.tolerance, atol=self.tolerance)
        items = candidates.items[:, ::-1].copy()
        items[::2, 3:7] = NOTHING
        expected = np.where(items == NOTHING, -np.inf, candidates.scores[:, ::-1])
        # masks are for lists: neither moves a score
        masked = replace(queries, blocked=Ragged.of([range(log.n_items)] * len(queries)), allowed=np.zeros(log.n_items, dtype=bool))
        for given in (queries, masked):
            np.testing.assert_allclose(fitted.score(given, items), expected, rtol=self.tolerance, atol=self.tolerance)

    def test_scores_of_nothing_in_particular(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        two = queries_of([[], [0]])
        assert not np.isnan(fitted.score(two, np.arange(2, dtype=np.int32)[None].repeat(2, 0))).any()
        assert fitted.score(world[1], np.zeros((len(world[1]), 0), dtype=np.int32)).shape == (len(world[1]), 0)
        assert fitted.score(queries_of([]), np.zeros((0, 3), dtype=np.int32)).shape == (0, 3)
        nothing = np.full((len(world[1]), 2), NOTHING, dtype=np.int32)
        assert np.isneginf(fitted.score(world[1], nothing)).all()

    def test_no_queries(self, fitted: Retriever) -> None:
        assert_well_formed(fitted.retrieve(queries_of([]), 10), 0, 10)

    def test_one_query_is_answered_like_many(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        many = fitted.retrieve(world[1], 10)
        for row in (0, 1, 57):
            assert_same(fitted.retrieve(world[1][row : row + 1], 10), many.take(np.array([row])), self.tolerance)

    def test_queries_are_left_as_they_were(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        queries = world[1]
        arrays: list[np.ndarray] = [queries.users, queries.history.values, queries.blocked.values, queries.times, queries.now]
        before = [array.copy() for array in arrays]
        fitted.retrieve(queries, 10)
        assert all(np.array_equal(was, now) for was, now in zip(before, arrays, strict=True))

    def test_fitting_again_forgets_and_repeats(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        again = self.make().fit(clustered(seed=1, users=40)[0], self.run()).fit(world[0], self.run())
        assert_same(again.retrieve(world[1], 10), fitted.retrieve(world[1], 10), self.tolerance)

    def test_state_is_all_there_is(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        state = fitted.state()
        assert_can_be_saved(state)
        other = self.make()
        assert other.restore(state) is other
        one, two = other.retrieve(world[1], 10), fitted.retrieve(world[1], 10)
        assert np.array_equal(one.items, two.items)
        assert np.array_equal(one.scores, two.scores)

    def test_reasons_are_from_the_history(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        queries = world[1]
        items = fitted.retrieve(queries, 10).items
        items[0, 5:] = NOTHING
        because = fitted.because(queries, items)
        if because is None:
            return
        assert because.shape == items.shape
        assert (because[items == NOTHING] == NOTHING).all()
        for row in range(len(queries)):
            told = because[row][because[row] != NOTHING]
            assert np.isin(told, queries.history[row]).all()
        assert (because != NOTHING).mean() > 0.5

    def test_the_same_event_twice_in_the_log_and_in_a_history(self) -> None:
        log, queries, _ = clustered(users=24, items=20)
        twice = log.where(np.repeat(np.arange(len(log)), 2))
        retriever = self.make().fit(twice, self.run())
        doubled = replace(
            queries,
            history=Ragged(queries.history.offsets * 2, np.repeat(queries.history.values, 2)),
            times=np.repeat(queries.times, 2),
        )
        candidates = retriever.retrieve(doubled, 5)
        assert_well_formed(candidates, len(queries), 5)
        assert candidates.present.any()

    def test_codes_that_the_log_does_not_have(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        """A user is a stranger; an item is one line, also after restoring."""
        log, queries, _ = world
        strangers, beyond = (replace(queries, users=np.full(len(queries), user, dtype=np.int32)) for user in (NOBODY, log.n_users + 7))
        assert np.array_equal(fitted.retrieve(strangers, 10).items, fitted.retrieve(beyond, 10).items)
        for retriever in (fitted, self.make().restore(fitted.state())):
            for given in (
                queries_of([[0], [1, log.n_items]]),
                queries_of([[0]], blocked=[[log.n_items]]),
                queries_of([[-1]], blocked=[[]]),
            ):
                with pytest.raises(DataError, match=f"{retriever.name}: .* holds item code .* items 0 to {log.n_items - 1}"):
                    retriever.retrieve(given, 5)
            with pytest.raises(DataError, match=f"`allowed` says of 3 items whether they may come; the log had {log.n_items}"):
                retriever.retrieve(replace(queries, allowed=np.ones(3, dtype=bool)), 5)
            with pytest.raises(DataError, match=f"the items to score hold item code {log.n_items}"):
                retriever.score(queries[:1], np.array([[0, log.n_items]], dtype=np.int32))

    def test_a_history_of_items_without_events(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        """Says nothing, where only events can speak: as an empty one."""
        candidates = fitted.retrieve(queries_of([[world[0].n_items - 1]]), 5)
        assert_well_formed(candidates, 1, 5)
        if not fitted.serves_new_items:
            assert candidates.present.any() == ("context" in fitted.serves_new_users)

    def test_vectors_of_another_dimension_are_refused(self, fitted: Retriever) -> None:
        index = getattr(fitted, "index", None)
        if index is None:
            return
        d = index.dimension
        with pytest.raises(
            ConfigError, match=f"index: its vectors have {d} dimensions, the queries {d + 1}; build the index with this tower"
        ):
            index.search(np.zeros((1, d + 1), dtype=np.float32), 3)

    def test_in_a_funnel_with_requests_and_a_test_that_lack_something(self) -> None:
        """Unknown users and items, an item twice, more asked for than there is; users who want nothing in the test, or nothing new."""
        log = self.small()
        late = np.arange(len(log)) >= 200
        funnel = Funnel([self.make()]).fit(log.where(~late), self.run())
        requests = [Request(user="unheard of", history=("i1", "i1", "i5"), k=5), Request(user="u0", k=500)]
        first, second = funnel.recommend(requests)
        assert len(first) == (5 if "history" in funnel.retrievers[0].serves_new_users else 0)
        assert 0 < len(second) == len(set(second.items)) < log.n_items
        with pytest.raises(DataError, match="item 'no such': no such id or title"):
            funnel.recommend([Request(history=("i1", "no such"), k=5)])
        repeated = log.where(np.flatnonzero((late & (log.user_codes % 2 == 0)) | (np.arange(len(log)) == 1)))
        moved = repeated.events.with_columns(pl.lit(log.events["time"].max()).alias("time"))
        found = evaluate(funnel, replace(repeated, events=moved), ks=(5,), resamples=10)
        assert (found.counts["users"], found.counts["queries"], found.counts["dropped_users"]) == (13, 12, 1)
        assert 0 <= found.stages[funnel.retrievers[0].name]["recall@5"] <= 1

    def small(self) -> Log:
        """24 users, 20 items, 12 events each."""
        return clustered(users=24, items=20)[0]

    def test_a_log_of_which_nothing_can_be_learnt_is_one_line(self) -> None:
        log = clustered(users=8, items=20)[0]
        for empty in (log.where(np.zeros(len(log), dtype=bool)), replace(log, positive=())):
            with pytest.raises(DataError, match="by hand: no event counts as wanted; say which kinds do with `positive`"):
                self.make().fit(empty, self.run())

    def test_a_mistyped_key_names_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match="quota"):
            type(self.make())(quotta=3)

    def test_learns_what_people_want(self, fitted: Retriever, world: tuple[Log, Queries, np.ndarray]) -> None:
        log, queries, wanted = world
        if self.personal:
            popular = hit_rate(Popular().fit(log).retrieve(queries, 10), wanted)
            assert hit_rate(fitted.retrieve(queries, 10), wanted) > self.gain * popular


def lists_to_rerank() -> tuple[Log, Queries, Candidates]:
    """A log, queries, and 30 candidates each with their popularity's rank as a feature; every third list is shorter."""
    log, queries, _ = _world()
    candidates = Popular().fit(log).retrieve(queries, 30)
    gone = (np.arange(len(queries)) % 3 == 0)[:, None] & (np.arange(30) >= 12)
    items = np.where(gone, NOTHING, candidates.items).astype(np.int32)
    candidates = Candidates.of(items, candidates.scores, "popular")
    rank = np.where(gone, np.nan, np.arange(30)).astype(np.float32)
    return log, queries, replace(candidates, features={"popular.rank": rank})


class RerankerContract:
    """Inherit and give `make`. The item table of `world` has the columns genres (list of text) and year (number)."""

    tolerance: ClassVar[float] = 1e-5
    _fitted: ClassVar[Reranker]

    def make(self) -> Reranker:
        raise NotImplementedError

    def run(self) -> Run:
        return Run()

    @pytest.fixture
    def world(self) -> tuple[Log, Queries, Candidates]:
        return lists_to_rerank()

    @pytest.fixture
    def fitted(self, world: tuple[Log, Queries, Candidates]) -> Reranker:
        """Fitted once a class."""
        if "_fitted" not in vars(type(self)):
            reranker = self.make()
            assert reranker.fit(world[0], self.run()) is reranker
            type(self)._fitted = reranker
        return type(self)._fitted

    def test_slates_are_well_formed(self, fitted: Reranker, world: tuple[Log, Queries, Candidates]) -> None:
        _, queries, candidates = world
        for k in (1, 10, 30, 45):
            assert_well_formed(fitted.rerank(queries, candidates, k), len(queries), k)

    def test_never_invents_and_moves_everything_together(self, fitted: Reranker, world: tuple[Log, Queries, Candidates]) -> None:
        _, queries, candidates = world
        slate = fitted.rerank(queries, candidates, 10)
        assert slate.sources == candidates.sources
        for row in range(len(queries)):
            for place in np.flatnonzero(slate.present[row]):
                was = np.flatnonzero(candidates.items[row] == slate.items[row, place])
                assert len(was) == 1
                assert slate.features["popular.rank"][row, place] == candidates.features["popular.rank"][row, was[0]]
                assert slate.source[row, place] == candidates.source[row, was[0]]
        assert np.isnan(slate.features["popular.rank"][~slate.present]).all()

    def test_empty_lists_and_no_queries(self, fitted: Reranker, world: tuple[Log, Queries, Candidates]) -> None:
        empty = Candidates.of(np.full((2, 5), NOTHING, dtype=np.int32), np.zeros((2, 5), dtype=np.float32), "popular")
        assert not fitted.rerank(queries_of([[], []]), empty, 3).present.any()
        assert_well_formed(fitted.rerank(queries_of([]), world[2].take(np.arange(0)), 3), 0, 3)

    def test_one_list_is_treated_like_many(self, fitted: Reranker, world: tuple[Log, Queries, Candidates]) -> None:
        _, queries, candidates = world
        many = fitted.rerank(queries, candidates, 10)
        for row in (0, 1, 57):
            at = np.array([row])
            assert_same(fitted.rerank(queries.take(at), candidates.take(at), 10), many.take(at), self.tolerance)

    def test_candidates_are_left_as_they_were(self, fitted: Reranker, world: tuple[Log, Queries, Candidates]) -> None:
        _, queries, candidates = world
        items, scores = candidates.items.copy(), candidates.scores.copy()
        fitted.rerank(queries, candidates, 10)
        assert np.array_equal(items, candidates.items)
        assert np.array_equal(scores, candidates.scores)

    def test_state_is_all_there_is(self, fitted: Reranker, world: tuple[Log, Queries, Candidates]) -> None:
        state = fitted.state()
        assert_can_be_saved(state)
        other = self.make()
        assert other.restore(state) is other
        one, two = other.rerank(world[1], world[2], 10), fitted.rerank(world[1], world[2], 10)
        assert np.array_equal(one.items, two.items)
        assert np.array_equal(one.scores, two.scores)

    def test_propensities_are_written_by_those_that_draw(self, fitted: Reranker, world: tuple[Log, Queries, Candidates]) -> None:
        slate = fitted.rerank(world[1], world[2], 10)
        assert (PROPENSITY in slate.features) == fitted.draws
        if fitted.draws:
            propensity = slate.features[PROPENSITY]
            assert ((propensity[slate.present] > 0) & (propensity[slate.present] <= 1)).all()
            assert np.isnan(propensity[~slate.present]).all()

    def test_settings_for_one_request(self, fitted: Reranker, world: tuple[Log, Queries, Candidates]) -> None:
        """A copy with other settings shares what was fitted and leaves the original as it was."""
        before = fitted.rerank(world[1], world[2], 10)
        changed = fitted.with_settings(name="other")
        assert (changed.name, changed.state().meta) == ("other", fitted.state().meta)
        assert fitted.name != "other"
        assert np.array_equal(changed.rerank(world[1], world[2], 10).items, before.items)
        with pytest.raises(ConfigError, match="did you mean `name`"):
            fitted.with_settings(nmae="x")

    def test_a_mistyped_key_names_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match="did you mean `name`"):
            type(self.make())(nmae="x")
