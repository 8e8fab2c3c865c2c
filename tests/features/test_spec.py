from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest

from palate.features.spec import Bag, Categorical, Counter, Crossed, FeatureSet, Numeric, Sequence, Vector, suggest
from palate.types import ConfigError, Log


def test_derive_from_the_columns(films: Log) -> None:
    features = FeatureSet.derive(films, history=20)
    kinds = {feature.name: feature.kind for feature in features.features}
    assert kinds == {
        "user": "categorical",
        "item": "categorical",
        "user.age": "numeric",
        "user.job": "categorical",
        "item.year": "numeric",
        "item.genres": "bag",
        "item.vector": "vector",
        "context.device": "categorical",
        "context.hour": "numeric",
        "history": "sequence",
        "item_count": "counter",
        "item_recent_count": "counter",
        "item_age": "counter",
        "user_count": "counter",
        "since_last": "counter",
        "affinity.genres": "counter",
        "affinity.genres.last5": "counter",
    }
    sequence = next(feature for feature in features.features if isinstance(feature, Sequence))
    assert sequence.length == 20
    assert "history" not in FeatureSet.derive(films, history=0).names


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pl.Series([1, 18, 25, 35] * 10), "categorical"),
        (pl.Series(range(40)), "numeric"),
        (pl.Series([0.5, 1.5]), "numeric"),
        (pl.Series([True, False]), "categorical"),
        (pl.Series(["a", "b"]), "categorical"),
        (pl.Series([f"zip {i}" for i in range(100)]), None),
        (pl.Series([f"town {i % 40}" for i in range(100)]), "categorical"),
        (pl.Series([["a"], ["b", "c"]]), "bag"),
        (pl.Series([[1], [2, 3]]), "bag"),
        (pl.Series([[1.0], [2.0]]), "vector"),
        (pl.Series([[1.0, 2.0]], dtype=pl.Array(pl.Float32, 2)), "vector"),
        (pl.Series([[1.0], [2.0, 3.0]]), None),
        (pl.Series([None, None]), None),
        (pl.Series(["2020-01-01"]).str.to_date(), "numeric"),
        (pl.Series(["a", "a"], dtype=pl.Enum(["a"])), "categorical"),
        (pl.Series([b"x"]), None),
    ],
)
def test_the_kind_that_suits_a_column(values: pl.Series, kind: str | None) -> None:
    feature = suggest("item.x", values)
    assert (feature.kind if feature else None) == kind  # type: ignore[attr-defined]


def test_titles_are_left_out() -> None:
    assert suggest("item.title", pl.Series(["a", "a"])) is None


def test_override_and_without() -> None:
    features = FeatureSet(features=(Categorical(source="user"), Numeric(source="user.age")))
    changed = features.override(Numeric(source="user.age", transform="log"), Sequence())
    assert changed.names == ("user", "user.age", "history")
    assert changed.features[1] == Numeric(source="user.age", transform="log")
    assert features.without("user").names == ("user.age",)
    with pytest.raises(ConfigError, match=r"did you mean `user\.age`"):
        features.without("user.aeg")


def test_from_the_tables_of_a_recipe_and_back() -> None:
    features = FeatureSet.of(
        [
            {"kind": "categorical", "source": "item", "min_count": 5},
            {"kind": "bag", "name": "genres", "source": "item.genres", "pooling": "sum"},
            {"kind": "sequence", "length": 10},
            {"kind": "crossed", "of": ["user.age", "item.year"], "buckets": 100},
            {"kind": "counter", "of": "affinity", "source": "item.genres", "length": 3},
            {"kind": "vector", "source": "item.vector"},
            {"kind": "numeric", "source": "context.price", "transform": "log_square"},
        ]
    )
    assert features.names == ("item", "genres", "history", "user.age x item.year", "affinity.genres.last3", "item.vector", "context.price")
    assert FeatureSet.parse(features.model_dump(mode="json"), "features") == features


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"kind": "categorical", "source": "item", "min_cout": 5}, "features.0.min_cout: no such key; did you mean `min_count`?"),
        ({"kind": "categorial", "source": "item"}, "features.0.kind: 'categorial' is none of categorical, bag"),
        ({"kind": "categorical"}, "features.0.source: field required"),
        ({"kind": "numeric", "source": "itme.year"}, "expected user, item, history"),
        ({"kind": "numeric", "source": "context"}, "expected user, item, history"),
        ({"kind": "crossed", "of": ["user.age"]}, "features.0.of"),
        ({"kind": "categorical", "source": "item", "embedding": {"kind": "qr", "collision": 4}}, "no such key; did you mean `collisions`?"),
        ({"kind": "bag", "source": "item.genres", "embedding": {"kind": "hash"}}, "features.0.embedding"),
        ({"kind": "crossed", "of": ["user.age", "history"]}, "single-valued"),
        ({"kind": "counter", "of": "affinity"}, "a list column"),
        ({"kind": "counter", "of": "affinity", "source": "user.tags"}, "a column of the items"),
        ({"kind": "counter", "of": "item_count", "source": "item.genres"}, "to it alone"),
    ],
)
def test_mistakes_in_a_recipe(table: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FeatureSet.of([table])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_must_differ() -> None:
    with pytest.raises(ConfigError, match="two features are named 'user'"):
        FeatureSet.of([{"kind": "categorical", "source": "user"}] * 2)


def test_a_column_that_the_log_lacks(films: Log) -> None:
    columns = {"user": films.users.columns, "item": films.items.columns, "context": films.context}
    FeatureSet.derive(films).check(columns)
    for feature, says in (
        (Categorical(source="user.jbo"), "features.user.jbo: the log has no 'user.jbo': no such key; did you mean `user.job`?"),
        (Bag(name="tags", source="item.genre"), "features.tags: the log has no 'item.genre'"),
        (Crossed(of=("user.job", "context.devise")), "did you mean `context.device`?"),
        (Counter(of="affinity", source="item.genre"), "did you mean `item.genres`?"),
    ):
        with pytest.raises(ConfigError) as caught:
            FeatureSet(features=(feature,)).check(columns)
        assert says in str(caught.value)


def test_sides() -> None:
    assert Categorical(source="context.hour").side == "user"
    assert Vector(source="item.v").side == "item"
    assert Crossed(of=("user.a", "item.b")).side == "pair"
    assert Crossed(of=("item.a", "item.b")).side == "item"
    assert Counter(of="item_count").side == "pair"
    assert Counter(of="since_last").side == "user"


def test_recent_is_shorter_than_ever(log_of: Callable[..., Log]) -> None:
    day = 86_400
    for days, window in ((1000, 30.0), (100, 10.0), (0, 30.0)):
        features = FeatureSet.derive(log_of([("u", "a", 0, "like"), ("u", "b", days * day, "like")]))
        counter = next(f for f in features.features if isinstance(f, Counter) and f.of == "item_recent_count")
        assert counter.window == window
