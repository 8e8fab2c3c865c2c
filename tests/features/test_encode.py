from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.features import encode, transform
from palate.features.encode import Encoded, Encoder
from palate.features.fit import fit_stream
from palate.features.history import History
from palate.features.spec import Bag, Base, Categorical, Counter, Crossed, FeatureSet, Numeric, Sequence, Vector
from palate.types import NOBODY, Compressed, ConfigError, DataError, Log, Queries, Ragged, Request, SparseInput, State

SECOND = 1_000_000


def fitted(log: Log, *features: Base) -> Encoder:
    return Encoder.fit(FeatureSet.parse({"features": features}, "features"), log, History.of(log))


def lists(ragged: Ragged) -> list[list[int]]:
    return [ragged[row].tolist() for row in range(len(ragged))]


def everyone(encoder: Encoder) -> Queries:
    """ann, bob, cid and nobody, after everything."""
    return encoder.history.queries(np.array([0, 1, 2, NOBODY]))


def the_same(one: Encoded, two: Encoded) -> None:
    assert one.inputs == two.inputs
    np.testing.assert_allclose(one.dense, two.dense, rtol=1e-6, atol=1e-7)
    assert one.sparse.keys() == two.sparse.keys()
    for name in one.sparse:
        assert lists(one.sparse[name]) == lists(two.sparse[name])


def test_ids_by_hand(films: Log) -> None:
    encoder = fitted(films, Categorical(source="user"), Categorical(source="item", min_count=2), Sequence(length=3))
    # ann likes 4 times, bob twice: ids 2 and 3. cid never: OOV. Item 1 is liked 3 times, 2 twice, 4 once, 3 never.
    users = encoder.encode_users(everyone(encoder))
    assert lists(users.sparse["user"]) == [[2], [3], [1], [0]]
    assert lists(users.sparse["history"]) == [[3, 1, 2], [2, 3], [], []]
    assert lists(encoder.encode_items(np.array([0, 1, 2, 3, -1])).sparse["item"]) == [[2], [3], [1], [1], [0]]
    assert encoder.inputs().sparse == (
        SparseInput("user", "user", 4, "sum"),
        SparseInput("item", "item", 4, "sum"),
        SparseInput("history", "item", 4, "mean"),
    )


def test_a_history_alone_has_its_own_table(films: Log) -> None:
    encoder = fitted(films, Sequence(length=2, min_count=3, pooling="sum"))
    assert encoder.inputs().sparse == (SparseInput("history", "history", 3, "sum"),)
    assert lists(encoder.encode_users(everyone(encoder)).sparse["history"]) == [[1, 2], [2, 1], [], []]


def test_columns_by_hand(films: Log) -> None:
    encoder = fitted(
        films,
        Categorical(source="user.job"),
        Bag(source="item.genres"),
        Numeric(source="user.age"),
        Numeric(name="raw", source="item.year", transform="none"),
        Numeric(name="log", source="item.year", transform="log"),
        Numeric(name="bucket", source="user.age", transform="log_square"),
        Vector(source="item.vector"),
    )
    users = encoder.encode_users(everyone(encoder))
    # Equals in count are in the order of their names: clerk 2, nurse 3. floor(ln(30)^2) = 11, floor(ln(50)^2) = 15.
    assert lists(users.sparse["user.job"]) == [[3], [0], [2], [0]]
    assert lists(users.sparse["bucket"]) == [[2], [3], [0], [0]]
    assert users.inputs.dense == ("user.age", "user.age.has")
    np.testing.assert_allclose(users.dense, [[-1, 1], [1, 1], [0, 0], [0, 0]])
    items = encoder.encode_items(np.array([0, 1, 2, 3, -1]))
    # Horror twice: 2. Crime and SciFi once: 3 and 4.
    assert lists(items.sparse["item.genres"]) == [[2, 4], [3], [], [2], []]
    assert items.inputs.dense == ("raw", "raw.has", "log", "log.has", "item.vector.0", "item.vector.1", "item.vector.has")
    np.testing.assert_allclose(
        items.dense,
        [
            [1979, 1, np.log(1980), 1, 1, 0, 1],
            [1995, 1, np.log(1996), 1, 0, 1, 1],
            [1988, 1, np.log(1989), 1, 0, 0, 0],
            [0, 0, 0, 0, 0.5, 0.5, 1],
            [0, 0, 0, 0, 0, 0, 0],
        ],
        rtol=1e-6,
    )


def test_context_by_hand(films: Log) -> None:
    encoder = fitted(films, Categorical(source="context.device"), Numeric(source="context.hour", transform="none"))
    # tv 5 times, phone twice.
    requests = [Request(context={"device": "phone", "hour": 3}), Request(context={"device": "fridge"}), Request()]
    queries = encoder.history.resolve(requests)
    users = encoder.encode_users(queries)
    assert lists(users.sparse["context.device"]) == [[3], [1], [0]]
    np.testing.assert_allclose(users.dense, [[3, 1], [0, 0], [0, 0]])
    # Known users in bulk bring no context at all.
    assert lists(encoder.encode_users(everyone(encoder)).sparse["context.device"]) == [[0]] * 4
    both = encoder.encode(queries, np.array([2, 0, 0]), np.array([0, 0, 1]))
    assert lists(both.sparse["context.device"]) == [[0], [3], [3]]


def test_crossed_by_hand(films: Log) -> None:
    feature = Crossed(of=("user.job", "item.year", "context.device"), buckets=1000)
    encoder = fitted(films, feature)
    queries = encoder.history.resolve([Request(user="ann", context={"device": "tv"}), Request(user="bob", context={"device": "tv"})])
    got = lists(encoder.encode(queries, np.array([0, 0, 1]), np.array([0, 3, 0])).sparse[feature.name])
    parts = [transform.hash64(pl.Series([value])) for value in ("nurse", "1979", "tv")]
    # Item 4 has no year, bob no job.
    assert got == [[2 + int(transform.crossed(parts)[0] % np.uint64(1000))], [0], [0]]
    assert encoder.inputs().sparse[0].rows == 1002


def unscaled(encoder: Encoder, name: str, queries: Queries, rows: list[int], items: list[int]) -> np.ndarray:
    """A counter before it is standardised."""
    encoded = encoder.encode(queries, np.array(rows), np.array(items, dtype=np.int32))
    moments = encoder._fitted[name].moments
    assert moments is not None
    values = encoded.dense[:, encoded.inputs.dense.index(name)] * moments.deviation + moments.mean
    if f"{name}.has" in encoded.inputs.dense:
        values = np.where(encoded.dense[:, encoded.inputs.dense.index(f"{name}.has")] == 1, values, np.nan)
    return values


def test_counters_by_hand(films: Log) -> None:
    day = 86_400 * SECOND
    window = 21 * SECOND / day
    encoder = fitted(
        films,
        Counter(of="item_count"),
        Counter(of="item_recent_count", window=window),
        Counter(of="item_age"),
        Counter(of="user_count"),
        Counter(of="since_last"),
        Counter(of="affinity", source="item.genres"),
        Counter(of="affinity", source="item.genres", length=1),
    )
    queries = encoder.history.queries(np.array([0, 2]), np.array([61, 61]) * SECOND)
    rows, items = [0, 0, 0, 1], [0, 1, 2, 3]
    # Before second 61: item 1 at 10 and 20, item 2 at 30 and 60, item 3 never, item 4 at 30. ann saw 1, 2, 4, the last at 30.
    expected = {
        "item_count": np.log1p([2, 2, 0, 1]),
        "item_recent_count": np.log1p([0, 1, 0, 0]),
        "item_age": np.log1p(np.array([51, 31, np.nan, 31]) * SECOND / day),
        "user_count": np.log1p([3, 3, 3, 0]),
        "since_last": np.log1p(np.array([31, 31, 31, np.nan]) * SECOND / day),
        # Horror in 2 of 3, SciFi and Crime in 1 of 3.
        "affinity.genres": np.array([(2 / 3 + 1 / 3) / 2, 1 / 3, 0, 0]),
        "affinity.genres.last1": np.array([1 / 2, 0, 0, 0]),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(unscaled(encoder, name, queries, rows, items), values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_sides_are_parts_of_the_whole(films: Log) -> None:
    encoder = Encoder.fit(FeatureSet.derive(films), films, History.of(films))
    queries = everyone(encoder)
    rows, items = np.repeat(np.arange(4), 4), np.tile(np.arange(4, dtype=np.int32), 4)
    both, users, some = encoder.encode(queries, rows, items), encoder.encode_users(queries), encoder.encode_items(items)
    assert both.dense.shape == (16, len(encoder.inputs().dense))
    assert both.dense.dtype == np.float32
    assert len(both) == 16
    assert not np.isnan(both.dense).any()
    for side, at in ((users, rows), (some, np.arange(16))):
        for place, name in enumerate(side.inputs.dense):
            np.testing.assert_array_equal(both.dense[:, both.inputs.dense.index(name)], side.dense[at, place])
        for name, values in side.sparse.items():
            assert lists(both.sparse[name]) == lists(values.take(at))
    pairs = set(both.inputs.dense) - set(users.inputs.dense) - set(some.inputs.dense)
    assert pairs == {"item_count", "item_recent_count", "item_age", "item_age.has", "affinity.genres", "affinity.genres.last5"}
    for sparse in both.inputs.sparse:
        values = both.sparse[sparse.name].values
        assert values.dtype == np.int32
        assert values.min(initial=0) >= 0
        assert values.max(initial=0) < sparse.rows


def test_the_same_queries_again_and_others_in_between(films: Log) -> None:
    features = FeatureSet.derive(films).override(Crossed(of=("item.year", "context.device")), Categorical(source="context.device"))
    encoder, fresh = (Encoder.fit(features, films, History.of(films)) for _ in range(2))
    one = encoder.history.resolve([Request(user="ann", context={"device": "tv"}), Request(user="bob", context={"device": "phone"})])
    two = encoder.history.resolve([Request(user="bob"), Request(history=("1",), context={"device": "tv"})])
    for queries, rows, items in ((one, [0, 1], [0, 1]), (one, [1, 1], [3, 0]), (two, [0, 1], [0, 3]), (one, [0, 0], [2, 3])):
        pairs = np.array(rows), np.array(items, dtype=np.int32)
        # `take` makes other Queries of the same content, which nothing is remembered about.
        the_same(encoder.encode(queries, *pairs), fresh.encode(queries.take(np.arange(2)), *pairs))


def test_chunks_do_not_matter(films: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    features = FeatureSet.derive(films)
    whole = Encoder.fit(features, films, History.of(films))
    monkeypatch.setattr(encode, "CHUNK", 3)
    monkeypatch.setattr(encode, "BLOCK", 2)
    parts = Encoder.fit(features, films, History.of(films))
    rows = np.zeros(4, dtype=np.int64)
    the_same(whole.encode(everyone(whole), rows, np.arange(4)), parts.encode(everyone(parts), rows, np.arange(4)))


def test_built_from_a_stream(films: Log) -> None:
    features = FeatureSet(features=(Categorical(source="user"), Categorical(source="context.device"), Numeric(source="item.year")))
    summaries = fit_stream(features, [films.positives().events], films.users, films.items)
    encoder = Encoder.build(features, summaries.finish(), films.users, films.items, History.of(films))
    assert lists(encoder.encode_users(everyone(encoder)).sparse["user"]) == [[2], [3], [1], [0]]


def through_files(state: State, folder: Path) -> State:
    """As a bundle keeps it: safetensors, Parquet, JSON."""
    safetensors.numpy.save_file(dict(state.arrays), folder / "arrays.safetensors")
    frames = {}
    for place, (name, frame) in enumerate(state.frames.items()):
        frame.write_parquet(folder / f"{place}.parquet")
        frames[name] = pl.read_parquet(folder / f"{place}.parquet")
    return State(safetensors.numpy.load_file(folder / "arrays.safetensors"), frames, state.meta)


def test_state_there_and_back(films: Log, tmp_path: Path) -> None:
    features = FeatureSet.derive(films).override(
        Categorical(name="hashed", source="user.job", buckets=7),
        Crossed(of=("user.job", "item.year")),
        Numeric(name="squared", source="context.hour", transform="log_square"),
    )
    encoder = Encoder.fit(features, films, History.of(films))
    (tmp_path / "history").mkdir()
    history = History.restore(through_files(encoder.history.state(), tmp_path / "history"))
    again = Encoder.restore(through_files(encoder.state(), tmp_path), history)
    requests = [Request(user="ann", context={"device": "tv", "hour": 3}), Request(history=("Alien (1979)",))]
    rows, items = np.array([0, 1, 1]), np.array([0, 2, 3], dtype=np.int32)
    the_same(encoder.encode(encoder.history.resolve(requests), rows, items), again.encode(history.resolve(requests), rows, items))
    assert again.features == features


def test_another_history(films: Log, log_of: Callable[..., Log]) -> None:
    early = films.where(np.arange(3))
    encoder = Encoder.fit(FeatureSet.derive(films), early, History.of(early))
    later = encoder.with_history(History.of(films))
    assert later.inputs() == encoder.inputs()
    assert len(encoder.history) == 3
    assert len(later.history) == 6
    with pytest.raises(DataError, match="other users or items"):
        encoder.with_history(History.of(log_of([("u", "a", 1, "like")])))


def test_a_missing_column_is_named(films: Log) -> None:
    with pytest.raises(ConfigError, match=r"did you mean `item\.genres`"):
        fitted(films, Bag(source="item.genre"))


USERS, ITEMS = (
    pl.DataFrame({"user": list("uvw")}),
    pl.DataFrame({"item": list("abcd"), "genres": [["x"], ["x", "y"], [], ["z"]], "year": [1, 2, None, 4]}),
)
EVENTS = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from("abcd"), st.integers(0, 5), st.sampled_from(["like", "like", "hide"])),
    min_size=1,
    max_size=20,
).map(lambda rows: sorted(rows, key=lambda row: row[2]))
SHARED = FeatureSet(
    features=(
        Categorical(source="item"),
        Bag(source="item.genres"),
        Numeric(source="item.year"),
        Sequence(length=3),
        Categorical(source="context.device"),
        Crossed(of=("item.year", "context.device")),
        Counter(of="item_count"),
        Counter(of="item_recent_count", window=2 / 86_400),
        Counter(of="item_age"),
        Counter(of="user_count"),
        Counter(of="affinity", source="item.genres"),
        Counter(of="affinity", source="item.genres", length=2),
    )
)


def with_devices(log_of: Callable[..., Log], rows: list[tuple[str, str, int, str]]) -> Log:
    devices = pl.DataFrame({"device": [["tv", None, "phone"][place % 3] for place in range(len(rows))]}, schema={"device": pl.String})
    return log_of(rows, USERS, ITEMS, devices)


@settings(max_examples=40, deadline=None)
@given(EVENTS)
def test_a_training_row_and_a_request_are_encoded_alike(log_of: Callable[..., Log], rows: list[tuple[str, str, int, str]]) -> None:
    log = with_devices(log_of, rows)
    history = History.of(log)
    encoder = Encoder.fit(SHARED, log, history)
    offline = history.before(np.arange(len(history)))
    assert offline.context is not None
    requests = [
        Request(
            user="someone else",
            history=tuple("abcd"[item] for item in offline.history[row]),
            now=int(offline.now[row]),
            context={"device": offline.context["device"][row]},
        )
        for row in range(len(offline))
    ]
    online = history.resolve(requests)
    assert lists(online.history) == lists(offline.history)
    each = np.arange(len(history))
    the_same(encoder.encode(offline, each, history.event_items), encoder.encode(online, each, history.event_items))


@settings(max_examples=40, deadline=None)
@given(EVENTS, st.data())
def test_the_future_changes_nothing(log_of: Callable[..., Log], rows: list[tuple[str, str, int, str]], data: st.DataObject) -> None:
    """A training row is encoded alike whether or not the events after it ever happened."""
    log = with_devices(log_of, rows)
    features = SHARED.override(Counter(of="since_last"), Categorical(source="user"))
    encoder = Encoder.fit(features, log, History.of(log))
    likes = [place for place, row in enumerate(rows) if row[3] == "like"]
    if not likes:
        return
    event = data.draw(st.integers(0, len(likes) - 1))
    cut = encoder.with_history(History.of(log.where(np.arange(likes[event] + 1))))
    items = encoder.history.event_items[[event]]
    at = np.array([event])
    the_same(
        encoder.encode(encoder.history.before(at), np.zeros(1, dtype=np.int64), items),
        cut.encode(cut.history.before(at), np.zeros(1, dtype=np.int64), items),
    )


def test_compressed_tables_are_declared_once_for_all_who_share_them(films: Log) -> None:
    small = {"kind": "qr", "collisions": 3, "operation": "add", "threshold": 0}
    tables = [{"kind": "categorical", "source": "item", "embedding": small}, {"kind": "sequence", "length": 5}]
    tables += [{"kind": "crossed", "of": ["user", "item.year", "context.device"], "embedding": {"kind": "bloom", "rows": 50}}]
    encoder = Encoder.fit(FeatureSet.of(tables), films, History.of(films))
    item, history, crossed = encoder.inputs().sparse
    assert item.embedding == history.embedding == Compressed("qr", collisions=3, operation="add", threshold=0)
    assert crossed.embedding == Compressed("bloom", rows=50, hashes=2)
    tables[1]["embedding"] = {"kind": "bloom"}
    with pytest.raises(ConfigError, match="it shares the table of 'item'; set `embedding` there"):
        Encoder.fit(FeatureSet.of(tables), films, History.of(films))


def test_crossing_lists_is_an_error(films: Log) -> None:
    with pytest.raises(ConfigError, match="holds lists"):
        Encoder.fit(FeatureSet.of([{"kind": "crossed", "of": ["user", "item.genres"]}]), films, History.of(films))
