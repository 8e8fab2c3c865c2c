from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.data.log import read
from palate.features.history import History, bisect, joined, only
from palate.types import NOBODY, NOTHING, ConfigError, DataError, Log, Queries, Ragged, Request

SECOND = 1_000_000


def lists(ragged: Ragged) -> list[list[int]]:
    return [ragged[row].tolist() for row in range(len(ragged))]


def by_row(queries: Queries) -> list[list[int]]:
    return lists(Ragged(queries.history.offsets, queries.times))


def test_before_by_hand(films: Log) -> None:
    history = History.of(films)
    # Positive events: ann 1 @10, bob 1 @20, ann 2 @30, ann 4 @30, bob 2 @60, ann 1 @70; bob hides 4 @40.
    queries = history.before(np.arange(6))
    assert queries.users.tolist() == [0, 1, 0, 0, 1, 0]
    assert lists(queries.history) == [[], [], [0], [0, 1], [0], [0, 1, 3]]
    assert by_row(queries) == [[], [], [10 * SECOND], [10 * SECOND, 30 * SECOND], [20 * SECOND], [10 * SECOND, 30 * SECOND, 30 * SECOND]]
    assert (queries.now // SECOND).tolist() == [10, 20, 30, 30, 60, 70]
    assert lists(queries.blocked) == [[], [], [0], [0, 1], [0, 3], [0, 1, 3]]
    assert queries.context is not None
    assert queries.context["hour"].to_list() == [1, 2, 3, 4, 7, 8]


def test_queries_by_hand(films: Log) -> None:
    history = History.of(films)
    after = history.queries(np.array([1, 2, NOBODY, 0]))
    assert lists(after.history) == [[0, 1], [], [], [0, 1, 3, 0]]
    assert lists(after.blocked) == [[0, 1, 3], [], [], [0, 1, 3, 0]]
    assert set((after.now // SECOND).tolist()) == {71}
    # `now` itself is not before now.
    earlier = history.queries(np.array([0, 0, 1, 1]), np.array([30, 31, 40, 41]) * SECOND)
    assert lists(earlier.history) == [[0], [0, 1, 3], [0], [0]]
    assert lists(earlier.blocked) == [[0], [0, 1, 3], [0], [0, 3]]


def test_counts_by_hand(films: Log) -> None:
    history = History.of(films)
    items, now = np.array([0, 0, 0, 1, 2, NOTHING]), np.array([10, 11, 71, 60, 99, 99]) * SECOND
    assert history.item_counts(items, now).tolist() == [0, 1, 3, 1, 0, 0]
    assert history.item_counts(items, now, window=51 * SECOND).tolist() == [0, 1, 2, 1, 0, 0]
    assert history.user_counts(np.array([0, 0, 1, NOBODY]), np.array([30, 31, 99, 99]) * SECOND).tolist() == [1, 3, 2, 0]
    assert history.item_first(np.array([0, 1])).tolist() == [10 * SECOND, 30 * SECOND]
    assert history.item_first(np.array([2, NOTHING])).tolist() == [np.iinfo(np.int64).max] * 2
    np.testing.assert_array_equal(history.since_last(history.before(np.array([0, 2, 5]))), [np.nan, 20 * SECOND, 40 * SECOND])


def test_resolve_by_hand(films: Log) -> None:
    history = History.of(films)
    requests = [
        Request(user="bob", history=("Alien (1979)", "3"), exclude=("Heat (1995)",), context={"device": "fridge"}),
        Request(user="bob", seen=True),
        Request(user="nobody knows", history=("2",), now=5 * SECOND, context={"hour": 7}),
        Request(user="bob", now=30 * SECOND),
        Request(),
    ]
    queries = history.resolve(requests)
    assert queries.users.tolist() == [1, 1, NOBODY, 1, NOBODY]
    assert lists(queries.history) == [[0, 1, 0, 2], [0, 1], [1], [0], []]
    assert [[time // SECOND for time in row] for row in by_row(queries)] == [[20, 60, 71, 71], [20, 60], [5], [20], []]
    assert lists(queries.blocked) == [[0, 1, 0, 2, 3, 1], [3], [1], [0], []]
    assert (queries.now // SECOND).tolist() == [71, 71, 5, 30, 71]
    assert queries.context is not None
    assert queries.context["device"].to_list() == ["fridge", None, None, None, None]
    assert queries.context["hour"].to_list() == [None, None, 7, None, None]


@pytest.mark.parametrize(
    ("request_", "error", "says"),
    [
        (Request(history=("Alien (1978)",)), DataError, "did you mean 'Alien (1979)'?"),
        (Request(history=("Twins",)), DataError, "2 items have this title; give the id: one of '3', '4'"),
        (Request(exclude=("zzzzzzz",)), DataError, "item 'zzzzzzz': no such id or title"),
        (Request(context={"devise": "tv"}), ConfigError, "request.context.devise: no such key; did you mean `device`?"),
        (Request(context={"hour": "late"}), ConfigError, "request.context.hour: Int64 expected, got 'late'"),
    ],
)
def test_requests_that_cannot_be_read(films: Log, request_: Request, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        History.of(films).resolve([request_])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_titles_the_nearest_id_is_named(log_of: Callable[..., Log]) -> None:
    history = History.of(log_of([("u", "apple", 1, "like")]))
    with pytest.raises(DataError, match="did you mean 'apple'"):
        history.resolve([Request(history=("aple",))])
    assert history.resolve([Request()]).context is None
    with pytest.raises(ConfigError, match="it takes none"):
        history.resolve([Request(context={"hour": 1})])


def test_a_log_out_of_order_is_refused(log_of: Callable[..., Log]) -> None:
    with pytest.raises(DataError, match="not in order of time"):
        History.of(log_of([("u", "a", 2, "like"), ("u", "b", 1, "like")]))


def test_an_empty_log(log_of: Callable[..., Log]) -> None:
    users, items = pl.DataFrame({"user": ["u"]}), pl.DataFrame({"item": ["a"]})
    history = History.of(log_of([], users, items))
    assert lists(history.queries(np.array([0, NOBODY])).history) == [[], []]
    assert history.item_counts(np.array([0, 0]), np.array([5, 5])).tolist() == [0, 0]
    assert history.user_counts(np.array([0]), np.array([5])).tolist() == [0]
    assert len(history.before(np.zeros(0, dtype=np.int64))) == 0
    assert len(history.resolve([])) == 0


def test_state_there_and_back(films: Log) -> None:
    history = History.of(films)
    again = History.restore(history.state())
    request = [Request(user="bob", history=("Alien (1979)",), context={"device": "tv"})]
    for one, two in ((history.resolve(request), again.resolve(request)), (history.queries(np.arange(3)), again.queries(np.arange(3)))):
        assert lists(one.history) == lists(two.history)
        assert lists(one.blocked) == lists(two.blocked)
        assert one.now.tolist() == two.now.tolist()
    with pytest.raises(DataError, match=r"use History\.of\(log\)"):
        again.before(np.arange(2))


events = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from("abcd"), st.integers(0, 6), st.sampled_from(["like", "hide", "view"])), max_size=25
).map(lambda rows: sorted(rows, key=lambda row: row[2]))
USERS, ITEMS = pl.DataFrame({"user": list("uvwx")}), pl.DataFrame({"item": list("abcde")})


@settings(max_examples=60, deadline=None)
@given(events, st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 8)), max_size=8), st.integers(1, 4))
def test_against_the_plain_definition(
    log_of: Callable[..., Log], rows: list[tuple[str, str, int, str]], asked: list[tuple[int, int]], window: int
) -> None:
    history = History.of(log_of(rows, USERS, ITEMS))
    likes = [place for place, row in enumerate(rows) if row[3] == "like"]
    item = {name: code for code, name in enumerate("abcde")}

    queries = history.before(np.arange(len(likes)))
    for row, place in enumerate(likes):
        user, _, time, _ = rows[place]
        past = [r for r in rows[:place] if r[0] == user]
        seen = [item[r[1]] for r in past if r[3] == "like"]
        assert "uvwx"[queries.users[row]] == user
        assert queries.history[row].tolist() == seen
        assert queries.blocked[row].tolist() == seen + [item[r[1]] for r in past if r[3] == "hide"]
        assert queries.now[row] == time * SECOND
        # No item of the history is later than now, and none at all comes from the future of the log.
        assert all(t <= time * SECOND for t in by_row(queries)[row])

    codes = np.array([code for code, _ in asked], dtype=np.int32)
    now = np.array([time for _, time in asked], dtype=np.int64) * SECOND
    queries = history.queries(codes, now)
    for row, (code, time) in enumerate(asked):
        past = [r for r in rows if code >= 0 and r[0] == "uvwx"[code] and r[2] < time]
        seen = [item[r[1]] for r in past if r[3] == "like"]
        assert queries.history[row].tolist() == seen
        assert queries.blocked[row].tolist() == seen + [item[r[1]] for r in past if r[3] == "hide"]
        assert history.user_counts(codes, now)[row] == len(seen)
        counted = [r[2] for r in rows if code >= 0 and r[1] == "abcd"[code] and r[3] == "like" and r[2] < time]
        assert history.item_counts(codes, now)[row] == len(counted)
        assert history.item_counts(codes, now, window * SECOND)[row] == sum(t >= time - window for t in counted)
    # Many rows of one moment take another way to the same counts.
    many, moment = np.array([-1, 0, 1, 2, 3, 4, 0, 1], dtype=np.int32), np.full(8, 4 * SECOND)
    expected = [sum(code >= 0 and r[1] == "abcde"[code] and r[3] == "like" and r[2] < 4 for r in rows) for code in many]
    assert history.item_counts(many, moment).tolist() == expected


@given(st.lists(st.lists(st.integers(0, 9), max_size=6).map(sorted), min_size=1, max_size=5), st.data())
def test_bisect_is_searchsorted_in_each_stretch(groups: list[list[int]], data: st.DataObject) -> None:
    ragged = Ragged.of(groups)
    targets = np.array([data.draw(st.integers(-1, 10)) for _ in groups])
    expected = [ragged.offsets[row] + np.searchsorted(groups[row], targets[row]) for row in range(len(groups))]
    assert bisect(ragged.values, ragged.offsets[:-1], ragged.offsets[1:], targets).tolist() == expected


rows_of_ints = st.lists(st.integers(0, 9), max_size=4)


@given(st.lists(st.tuples(rows_of_ints, rows_of_ints, st.booleans()), max_size=6))
def test_joined_and_only(rows: list[tuple[list[int], list[int], bool]]) -> None:
    first, second = Ragged.of([row[0] for row in rows]), Ragged.of([row[1] for row in rows])
    assert lists(joined(first, second)) == [one + two for one, two, _ in rows]
    keep = np.array([row[2] for row in rows], dtype=bool)
    assert lists(only(first, keep)) == [one if kept else [] for one, _, kept in rows]


def test_counts_of_one_moment_are_those_of_a_search() -> None:
    """Requests ask about nearly the same moments: what is kept between them gives what the search gives, whatever the order."""
    rng = np.random.default_rng(0)
    events, items = 3000, 50
    frame = pl.DataFrame(
        {
            "user": [f"u{code}" for code in rng.integers(0, 20, events)],
            "item": [f"i{code}" for code in rng.integers(0, items, events)],
            "time": np.sort(rng.integers(0, 1000, events)),
        }
    )
    history = History.of(read(frame))
    asked = rng.integers(-1, history.n_items, 40).astype(np.int32)
    moments = [500, 500, 501, 499, 520, 480, 500, 900, 901, 900, 100, 5000, 0, 501, 902]
    for moment in moments:
        now = np.full(len(asked), moment * 1_000_000, dtype=np.int64)
        by_hand = [0 if code < 0 else int((history.event_items[history.event_times < moment * 1_000_000] == code).sum()) for code in asked]
        assert history.item_counts(asked, now).tolist() == by_hand
        recent = history.item_counts(asked, now, 30_000_000)
        earlier = [
            0 if code < 0 else int((history.event_items[history.event_times < (moment - 30) * 1_000_000] == code).sum()) for code in asked
        ]
        assert recent.tolist() == [all_ - old for all_, old in zip(by_hand, earlier, strict=True)]
