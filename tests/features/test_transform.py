from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from palate.features import transform
from palate.features.transform import Moments
from palate.types import Ragged


def test_signed_log_is_log1p_and_odd() -> None:
    values = np.array([0.0, np.e - 1, -(np.e - 1), 99.0])
    np.testing.assert_allclose(transform.signed_log(values), [0, 1, -1, np.log(100)])


def test_log_square_by_hand() -> None:
    # ln(3)^2 = 1.207, ln(10)^2 = 5.302, ln(100)^2 = 21.2; up to 2 the value itself, cut towards zero.
    values = np.array([-1.5, 0.0, 1.0, 2.0, 3.0, 10.0, 100.0])
    assert transform.log_square(values).tolist() == [-1, 0, 1, 2, 1, 5, 21]


def fnv1a(data: bytes) -> int:
    """FNV-1a as its authors write it, one byte at a time."""
    total = 0xCBF29CE484222325
    for byte in data:
        total = ((total ^ byte) * 0x100000001B3) % 2**64
    return total


def fmix64(value: int) -> int:
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value ^= value >> 33
        value = value * multiplier % 2**64
    return value ^ (value >> 33)


def test_fnv_known_answers() -> None:
    # From the FNV authors' published test vectors.
    assert fnv1a(b"") == 0xCBF29CE484222325
    assert fnv1a(b"a") == 0xAF63DC4C8601EC8C
    assert fnv1a(b"foobar") == 0x85944171F73967E8


@given(st.lists(st.one_of(st.none(), st.text(max_size=20)), max_size=20))
def test_hash64_is_fnv1a_then_the_mix(strings: list[str | None]) -> None:
    hashes = transform.hash64(pl.Series("s", strings, dtype=pl.String))
    expected = [0 if s is None else fmix64(fnv1a(s.encode("utf-8", "surrogatepass"))) for s in strings]
    assert hashes.tolist() == expected


def test_hash64_of_a_slice() -> None:
    series = pl.Series(["aa", "b", None, "cccc"])
    assert transform.hash64(series[1:]).tolist() == transform.hash64(series)[1:].tolist()


def test_hash64_never_changes() -> None:
    # Bundles rest on these: a change here makes every hashed embedding meaningless.
    assert transform.hash64(pl.Series(["", "Alien (1979)", "Amélie"])).tolist() == [
        fmix64(fnv1a(b"")),
        fmix64(fnv1a(b"Alien (1979)")),
        fmix64(fnv1a("Amélie".encode())),
    ]


def test_crossing_tells_order_apart() -> None:
    a, b = transform.hash64(pl.Series(["x"])), transform.hash64(pl.Series(["y"]))
    assert transform.crossed([a, b]) != transform.crossed([b, a])


def test_segment_mean() -> None:
    means = transform.segment_mean(np.array([1.0, 3.0, 5.0]), np.array([0, 0, 2]), 4)
    assert means.tolist() == [2.0, 0.0, 5.0, 0.0]


@pytest.mark.parametrize("dense", [True, False])
def test_affinity_by_hand(dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not dense:
        monkeypatch.setattr(transform, "DENSE", 0)
    # Items: 0 is {2, 3}, 1 is {2}, 2 is {}, and the row of nobody.
    bags = Ragged.of([[2, 3], [2], [], []])
    # The first query has seen 0, 1, 1, 2: value 2 in 3 of 4 items, value 3 in 1 of 4. The second has seen nothing.
    history = Ragged.of([[0, 1, 1, 2], []])
    rows, items = np.array([0, 0, 0, 1]), np.array([0, 1, 2, 0], dtype=np.int32)
    shares = transform.value_shares(history, transform.bag_matrix(bags, 4))
    assert isinstance(shares, np.ndarray) == dense
    got = transform.affinity(shares, bags, rows, items)
    np.testing.assert_allclose(got, [(3 / 4 + 1 / 4) / 2, 3 / 4, 0, 0], rtol=1e-6)


def test_moments_by_hand() -> None:
    moments = Moments().partial_fit(np.array([1.0, np.nan, 3.0])).partial_fit(np.array([5.0]))
    assert (moments.count, moments.mean) == (3, 3.0)
    assert moments.deviation == pytest.approx(np.sqrt(8 / 3))
    np.testing.assert_allclose(moments.standardise(np.array([3.0, 3 + np.sqrt(8 / 3)])), [0, 1])


def test_moments_of_nothing_and_of_a_constant() -> None:
    assert Moments().deviation == 1.0
    assert Moments().partial_fit(np.full(3, 1e9 + 0.1)).deviation == 1.0


numbers = hnp.arrays(np.float64, st.integers(0, 30), elements=st.floats(-1e6, 1e6))


@given(st.lists(numbers, max_size=6), st.randoms())
def test_moments_do_not_depend_on_chunks_or_merge_order(chunks: list[np.ndarray], random: object) -> None:
    parts = [Moments().partial_fit(chunk) for chunk in chunks]
    random.shuffle(parts)  # type: ignore[attr-defined]
    total = Moments()
    for part in parts:
        total.merge(part)
    values = np.concatenate([*chunks, np.zeros(0)])
    assert total.count == len(values)
    if len(values):
        assert total.mean == pytest.approx(values.mean(), rel=1e-9, abs=1e-6)
        assert total.m2 == pytest.approx(((values - values.mean()) ** 2).sum(), rel=1e-9, abs=1e-3)
