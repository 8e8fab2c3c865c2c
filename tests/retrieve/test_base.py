"""What all retrievers share: the matrix of interactions, and how events weigh."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from palate.retrieve.base import EventWeights, Retriever, interactions, wanted, weighted_interactions
from palate.testing.contracts import DAY, clustered, log_of, queries_of
from palate.types import Candidates, ConfigError, DataError, Log, Queries, Run


def shop() -> Log:
    """u0: view 0, buy 0, view 1; u1: rate 1 with 5, rate 0 with 2; u2: hide 2. One event a day, but for u1's, four days apart."""
    events = [(0, 0), (0, 0), (0, 1), (1, 1), (1, 0), (2, 2)]
    log = log_of(events, times=[0, DAY, 2 * DAY, 3 * DAY, 7 * DAY, 8 * DAY])
    kinds = pl.Series("kind", ["view", "buy", "view", "rate", "rate", "hide"], dtype=pl.Enum(["buy", "hide", "rate", "view"]))
    values = pl.Series("value", [None, None, None, 5.0, 2.0, None], dtype=pl.Float32)
    events_table = log.events.with_columns(kinds, values)
    return replace(log, events=events_table, positive=("buy", "rate"), negative=("hide",), positive_value=None)


def test_no_weights_is_what_it_always_was() -> None:
    log, _, _ = clustered(users=20)
    twice = log.where(np.repeat(np.arange(len(log)), 2))
    plain, weighted = interactions(twice), weighted_interactions(twice, EventWeights())
    assert (plain != weighted).nnz == 0
    assert set(weighted.data) == {1.0}
    assert weighted.has_sorted_indices


def test_kinds_by_hand() -> None:
    log = shop()
    weights = weighted_interactions(log, EventWeights(event_weights={"buy": 1, "view": 0.25, "rate": 2}))
    assert weights.toarray().tolist() == [[1, 0.25, 0], [2, 2, 0], [0, 0, 0]]
    summed = weighted_interactions(log, EventWeights(event_weights={"buy": 1, "view": 0.25, "rate": 2}, repeats="sum"))
    assert summed.toarray().tolist() == [[1.25, 0.25, 0], [2, 2, 0], [0, 0, 0]]
    assert weighted_interactions(log, EventWeights(event_weights={"view": 3, "buy": 0})).toarray()[0].tolist() == [3, 3, 0]


def test_a_low_value_stays_out_by_hand() -> None:
    """Of `positive_value` 4: the rating of 2 does not count. Views have no value and are no positive kind: it does not bear on them."""
    log = replace(shop(), positive=("rate",), positive_value=4.0)
    assert weighted_interactions(log, EventWeights(event_weights={"rate": 1, "view": 0.5})).toarray().tolist() == [
        [0.5, 0.5, 0],
        [0, 1, 0],
        [0, 0, 0],
    ]


def test_time_by_hand() -> None:
    """Half-life two days, counted from the newest event that counts (day 7, not the hiding of day 8)."""
    weights = weighted_interactions(shop(), EventWeights(half_life_days=2))
    np.testing.assert_allclose(weights.toarray(), [[2**-3, 0, 0], [1, 2**-2, 0], [0, 0, 0]], rtol=1e-6)
    ancient = weighted_interactions(shop(), EventWeights(half_life_days=0.01))
    assert (ancient.data > 0).all()
    assert ancient.nnz == 3


def test_bad_weights_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"event_weights\.veiw: no such key; did you mean `view`"):
        weighted_interactions(shop(), EventWeights(event_weights={"veiw": 1}))
    with pytest.raises(DataError, match="no event has a weight above 0; event_weights names buy"):
        weighted_interactions(shop(), EventWeights(event_weights={"buy": 0}))
    with pytest.raises(DataError, match="no event has a weight above 0; event_weights names no kind"):
        weighted_interactions(shop(), EventWeights(event_weights={}))
    with pytest.raises(ConfigError, match="greater than or equal to 0"):
        EventWeights.parse({"event_weights": {"buy": -1}}, "ease")
    # a kind that only occurs later in the whole log is no mistake
    early = shop().where(pl.col("kind").cast(pl.String) != "view")
    assert weighted_interactions(early, EventWeights(event_weights={"view": 1, "buy": 1})).nnz == 1


def test_nothing_wanted_is_one_line() -> None:
    with pytest.raises(DataError, match=r"by hand: no event counts as wanted; say .* \(the log has buy, hide, rate, view\)"):
        wanted(replace(shop(), positive=()))
    with pytest.raises(DataError, match="the log has no events at all"):
        wanted(log_of([], 1, 1))


class _Silent(Retriever):
    def fit(self, log: Log, run: Run = Run()) -> _Silent:
        return self

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        raise NotImplementedError


def test_what_a_retriever_says_of_itself_unless_it_knows_better() -> None:
    silent = _Silent(name="silent")
    assert silent.serves_new_users == {"history"}
    assert not silent.serves_new_items
    with pytest.raises(ConfigError, match="silent: cannot score given items"):
        silent.score(queries_of([[0]]), np.zeros((1, 1), dtype=np.int32))
