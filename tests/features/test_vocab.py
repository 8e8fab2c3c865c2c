from __future__ import annotations

from collections import Counter as Tally

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from palate.features.vocab import OOV, PAD, Buckets, Counts, Vocabulary, as_strings


def test_order_is_count_then_name() -> None:
    vocabulary = Counts().partial_fit(pl.Series(["b", "c", "a", "c", None, "rare"])).finish()
    assert vocabulary.values.to_list() == ["c", "a", "b", "rare"]
    assert vocabulary.counts.to_list() == [2, 1, 1, 1]
    assert vocabulary.rows == 6


def test_pad_and_oov_are_apart() -> None:
    vocabulary = Counts().partial_fit(pl.Series(["a", "a", "b"])).finish(min_count=2)
    assert vocabulary.ids(pl.Series(["a", "b", None, "new"])).tolist() == [2, OOV, PAD, OOV]
    assert vocabulary.ids(pl.Series([], dtype=pl.String)).tolist() == []
    assert vocabulary.ids(pl.Series([None, None])).tolist() == [PAD, PAD]


def test_an_empty_vocabulary_knows_nothing() -> None:
    vocabulary = Counts().finish()
    assert vocabulary.rows == 2
    assert vocabulary.ids(pl.Series(["a", None])).tolist() == [OOV, PAD]


def test_the_type_of_a_column_does_not_matter() -> None:
    vocabulary = Counts().partial_fit(pl.Series([1, 1, 25])).finish()
    for values in (pl.Series([25, 1, None]), pl.Series([25.0, 1.0, None]), pl.Series(["25", "1", None])):
        assert vocabulary.ids(values).tolist() == [3, 2, PAD]
    assert vocabulary.ids(pl.Series(["25"], dtype=pl.Enum(["1", "25"]))).tolist() == [3]
    assert as_strings(pl.Series([True, None])).to_list() == ["true", None]
    assert as_strings(pl.Series([0.5, float("nan"), 3.0])).to_list() == ["0.5", None, "3"]


def test_lists_count_their_elements() -> None:
    vocabulary = Counts().partial_fit(pl.Series([["x", "y"], [], None, ["x"]])).finish()
    assert dict(zip(vocabulary.values, vocabulary.counts, strict=True)) == {"x": 2, "y": 1}


def test_frames_go_there_and_back() -> None:
    vocabulary = Counts().partial_fit(pl.Series(["b", "a", "b"])).finish()
    frame = vocabulary.frame()
    assert frame.to_dict(as_series=False) == {"value": ["b", "a"], "id": [2, 3], "count": [2, 1]}
    assert Vocabulary.of_frame(frame).ids(pl.Series(["a"])).tolist() == [3]


values = st.one_of(st.none(), st.text(max_size=3), st.sampled_from(["a", "b", "c", "Ä", ""]))


@given(st.lists(st.lists(values, max_size=20), max_size=8), st.integers(1, 3), st.data())
def test_any_chunking_and_merge_order_gives_the_same_vocabulary(chunks: list[list[str | None]], least: int, data: st.DataObject) -> None:
    parts = [Counts() for _ in range(data.draw(st.integers(1, 3)))]
    for chunk in chunks:
        data.draw(st.sampled_from(parts)).partial_fit(pl.Series(chunk, dtype=pl.String))
    total = Counts()
    for part in data.draw(st.permutations(parts)):
        total.merge(part)
    vocabulary = total.finish(least)
    tally = Tally(value for chunk in chunks for value in chunk if value is not None)
    expected = sorted((value for value, count in tally.items() if count >= least), key=lambda value: (-tally[value], value.encode()))
    assert vocabulary.values.to_list() == expected
    assert vocabulary.counts.to_list() == [tally[value] for value in expected]
    asked = [value for chunk in chunks for value in chunk]
    ids = vocabulary.ids(pl.Series(asked, dtype=pl.String))
    known = {value: place + 2 for place, value in enumerate(expected)}
    assert ids.tolist() == [PAD if value is None else known.get(value, OOV) for value in asked]


@given(st.lists(values, max_size=20), st.integers(1, 100))
def test_buckets_stay_in_range_and_depend_on_the_value_alone(strings: list[str | None], count: int) -> None:
    buckets = Buckets(count)
    ids = buckets.ids(pl.Series(strings, dtype=pl.String))
    assert ids.dtype == np.int32
    for value, found in zip(strings, ids.tolist(), strict=True):
        assert found == PAD if value is None else 2 <= found < buckets.rows
        assert buckets.ids(pl.Series([value], dtype=pl.String))[0] == found


def test_buckets_spread() -> None:
    ids = Buckets(100).ids(pl.Series([str(i) for i in range(10_000)]))
    sizes = np.bincount(ids, minlength=102)[2:]
    # A fair throw of 10,000 into 100 has deviation 10: five of them on either side.
    assert sizes.min() > 50
    assert sizes.max() < 150


def test_merge_leaves_the_other_alone() -> None:
    one, two = Counts().partial_fit(pl.Series(["a"])), Counts().partial_fit(pl.Series(["b"]))
    one.merge(two)
    assert two.finish().values.to_list() == ["b"]
