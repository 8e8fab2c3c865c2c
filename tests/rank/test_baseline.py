"""Ratings by user and item alone, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from palate.rank.baseline import Baseline, Rated

RATED = Rated(np.array([0, 0, 1], np.int32), np.array([0, 1, 0], np.int32), np.array([5.0, 3.0, 1.0], np.float32))


def test_biases_by_hand() -> None:
    """mu = 3. b_i = (2 - 2) / 27 and 0 / 26; b_u = (2 + 0) / 12 and -2 / 11; nobody rated item 2."""
    found = Baseline.fit(RATED, 3, 3)
    assert (found.mean, found.least, found.most) == (3.0, 1.0, 5.0)
    np.testing.assert_allclose(found.items, np.array([[0, 2], [0, 1], [0, 0]]))
    np.testing.assert_allclose(found.users, np.array([[2 / 12, 2], [-2 / 11, 1], [0, 0]]), rtol=1e-6)
    users, items = np.array([0, 1, 2, -1], np.int32), np.array([0, 1, 2, 0], np.int32)
    np.testing.assert_allclose(found(users, items), [3 + 2 / 12, 3 - 2 / 11, 3, 3], rtol=1e-6)
    np.testing.assert_allclose(found.columns(users, items)[0], [2 / 12, 2, 0, 2], rtol=1e-6)


def test_an_item_is_looked_at_before_its_users_by_hand() -> None:
    """mu = 3, b_i = 2 x 1 / (25 + 2) for item 0; its users have what is left, 1 - b_i, over 11."""
    rated = Rated(np.array([0, 1, 2, 3], np.int32), np.array([0, 0, 1, 1], np.int32), np.array([4.0, 4.0, 2.0, 2.0], np.float32))
    found = Baseline.fit(rated, 4, 2)
    np.testing.assert_allclose(found.items[:, 0], [2 / 27, -2 / 27], rtol=1e-6)
    np.testing.assert_allclose(found.users[0, 0], (1 - 2 / 27) / 11, rtol=1e-6)


def test_nothing_rated_is_no_bias() -> None:
    found = Baseline.fit(Rated.none(), 2, 2)
    np.testing.assert_array_equal(found(np.array([0, -1], np.int32), np.array([1, 0], np.int32)), [0, 0])
    assert found.without_bias().mean == 0


def test_more_ratings_of_known_people_only() -> None:
    """Somebody unknown is left out; user 1 has rated item 0 anew."""
    other = Rated(np.array([-1, 2, 1], np.int32), np.array([1, 1, 0], np.int32), np.array([4.0, 2.0, 1.5], np.float32))
    more = RATED.and_of_known(other)
    assert more.users.tolist() == [0, 0, 1, 2]
    assert more.values.tolist() == [5, 3, 1.5, 2]


def test_it_is_the_same_after_it_was_saved() -> None:
    found = Baseline.fit(RATED, 3, 3)
    again = Baseline.of_arrays("x", found.arrays("x"))
    assert (again.mean, again.least, again.most) == (found.mean, found.least, found.most)
    np.testing.assert_array_equal(again.users, found.users)
    with pytest.raises(KeyError):
        Baseline.of_arrays("y", found.arrays("x"))
