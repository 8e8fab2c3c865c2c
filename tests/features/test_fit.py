from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.features.fit import Summaries, fit_stream
from palate.features.spec import Bag, Categorical, FeatureSet, Numeric, Sequence, Vector
from palate.features.vocab import Vocabulary
from palate.types import ConfigError, DataError

FEATURES = FeatureSet(
    features=(
        Categorical(source="user"),
        Categorical(source="item", min_count=2),
        Categorical(source="context.device"),
        Bag(source="context.tags"),
        Numeric(source="context.price"),
        Numeric(name="bucket", source="context.price", transform="log_square"),
        Categorical(name="hashed", source="context.device", buckets=10),
        Sequence(),
    )
)

row = st.fixed_dictionaries(
    {
        "user": st.sampled_from("uvw"),
        "item": st.sampled_from("abcd"),
        "device": st.one_of(st.none(), st.sampled_from(["tv", "phone"])),
        "tags": st.one_of(st.none(), st.lists(st.sampled_from("xyz"), max_size=3)),
        "price": st.one_of(st.none(), st.floats(-100, 100)),
    }
)
SCHEMA = {"user": pl.String, "item": pl.String, "device": pl.String, "tags": pl.List(pl.String), "price": pl.Float64}


@settings(max_examples=40, deadline=None)
@given(st.lists(row, max_size=30), st.lists(st.integers(0, 30), max_size=4).map(sorted), st.randoms())
def test_any_chunks_merged_in_any_order_are_one_fit(rows: list[dict[str, object]], cuts: list[int], random: object) -> None:
    frame = pl.DataFrame(rows, schema=SCHEMA)
    whole = fit_stream(FEATURES, [frame]).finish()
    edges = [0, *[min(cut, len(rows)) for cut in cuts], len(rows)]
    parts = [fit_stream(FEATURES, [frame[start:end]]) for start, end in itertools.pairwise(edges)]
    random.shuffle(parts)  # type: ignore[attr-defined]
    total = Summaries(FEATURES)
    for part in parts:
        total.merge(part)
    for name, fitted in total.finish().items():
        if isinstance(fitted.vocabulary, Vocabulary):
            assert isinstance(whole[name].vocabulary, Vocabulary)
            assert fitted.vocabulary.frame().equals(whole[name].vocabulary.frame())
        if fitted.moments is not None and whole[name].moments is not None:
            assert fitted.moments.count == whole[name].moments.count
            assert fitted.moments.mean == pytest.approx(whole[name].moments.mean, rel=1e-9, abs=1e-9)
            assert fitted.moments.m2 == pytest.approx(whole[name].moments.m2, rel=1e-9, abs=1e-6)


def test_streams_over_parquet(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "user": ["u", "v", "u"],
            "item": ["a", "a", "b"],
            "device": ["tv", None, "tv"],
            "tags": [["x"], [], None],
            "price": [1.0, 3.0, None],
        }
    )
    frame.write_parquet(tmp_path / "events.parquet")
    fitted = fit_stream(FEATURES, pq.ParquetFile(tmp_path / "events.parquet").iter_batches(batch_size=2)).finish()
    vocabularies = {name: part.vocabulary.values.to_list() for name, part in fitted.items() if isinstance(part.vocabulary, Vocabulary)}
    assert vocabularies["user"] == ["u", "v"]
    assert vocabularies["item"] == ["a"]
    assert vocabularies["context.device"] == ["tv"]
    assert vocabularies["context.tags"] == ["x"]
    # ln(3)^2 = 1.2 and 1 share a bucket.
    assert vocabularies["bucket"] == ["1"]
    assert fitted["hashed"].vocabulary is not None
    assert fitted["hashed"].vocabulary.rows == 12
    moments = fitted["context.price"].moments
    assert moments is not None
    assert (moments.count, moments.mean, moments.m2) == (2, 2.0, 2.0)


def test_tables_are_counted_once_a_row() -> None:
    features = FeatureSet(features=(Categorical(source="user.job"), Numeric(source="item.year")))
    users, items = pl.DataFrame({"user": ["u", "v"], "job": ["a", "a"]}), pl.DataFrame({"item": ["i", "j"], "year": [2000, 2002]})
    fitted = fit_stream(features, [], users, items).finish()
    assert isinstance(fitted["user.job"].vocabulary, Vocabulary)
    assert fitted["user.job"].vocabulary.counts.to_list() == [2]
    assert fitted["item.year"].moments is not None
    assert fitted["item.year"].moments.mean == 2001


def fit_column(feature: Categorical | Numeric | Vector | Bag, values: pl.Series) -> None:
    fit_stream(FeatureSet(features=(feature,)), [pl.DataFrame({"x": values})])


def test_columns_that_do_not_suit_their_kind() -> None:
    with pytest.raises(ConfigError, match="holds lists; use the kind bag"):
        fit_column(Categorical(source="context.x"), pl.Series([["a"]]))
    with pytest.raises(DataError, match="numbers expected in 'x', which holds String"):
        fit_column(Numeric(source="context.x"), pl.Series(["a"]))
    with pytest.raises(DataError, match="infinite at row 1"):
        fit_column(Numeric(source="context.x"), pl.Series([0.0, np.inf]))
    with pytest.raises(DataError, match="lists expected in 'x', which holds String"):
        fit_column(Bag(source="context.x"), pl.Series(["a"]))
    with pytest.raises(DataError, match="vectors of 1 and of 2 numbers"):
        fit_column(Vector(source="context.x"), pl.Series([[1.0], [1.0, 2.0]]))
