"""Popularity."""

from __future__ import annotations

import numpy as np

from palate.retrieve.popular import Popular
from palate.testing.contracts import DAY, RetrieverContract, log_of, queries_of


class TestPopular(RetrieverContract):
    personal = False

    def make(self) -> Popular:
        return Popular()


class TestRecent(RetrieverContract):
    personal = False

    def make(self) -> Popular:
        return Popular(by="recent", half_life_days=100)


def test_counts_by_hand() -> None:
    log = log_of([(0, 1), (1, 1), (2, 1), (0, 2), (1, 3), (2, 3)], n_items=5)
    candidates = Popular().fit(log).retrieve(queries_of([[], [1]]), 4)
    assert candidates.items.tolist() == [[1, 3, 2, -1], [3, 2, -1, -1]]  # of 0 and 4 nobody ever wanted any
    assert candidates.scores[0].tolist() == [3, 2, 1, -np.inf]


def test_equal_counts_go_to_the_lower_code() -> None:
    log = log_of([(0, 3), (1, 1), (2, 2), (3, 0)])
    assert Popular().fit(log).retrieve(queries_of([[]]), 3).items.tolist() == [[0, 1, 2]]


def test_decay_and_window_by_hand() -> None:
    # item 0: ten and eleven days old; item 1: new; item 2: four days old
    log = log_of([(0, 0), (1, 0), (2, 2), (3, 1)], times=[0, DAY, 7 * DAY, 11 * DAY])
    decayed = Popular(by="recent", half_life_days=10).fit(log)
    np.testing.assert_allclose(decayed.counts, [2**-1.1 + 2**-1.0, 1, 2**-0.4], rtol=1e-6)
    window = Popular(by="recent", half_life_days=None, window_days=10).fit(log)
    assert window.counts.tolist() == [1, 1, 1]  # ten days old is within, eleven is not
    assert Popular(by="all", window_days=10).fit(log).counts.tolist() == [2, 1, 1]
