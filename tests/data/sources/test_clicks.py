"""The planted click log: its truth by hand, the distribution of its ids, its best logloss, and what it writes."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palate.data import shards
from palate.data.sources import clicks as module
from palate.data.sources.clicks import CHUNK, ClickWorld, chance_of, click_world, planted_clicks, skewed, write, write_criteo, write_shards
from palate.metrics import pointwise
from palate.types import DataError, Floats


def column(*values: float) -> Floats:
    return np.array(values, dtype=np.float32)


def test_logits_by_hand() -> None:
    # Fields 0, 1, 2 of two ids; the pair (0, 1) with K = 2, the triple (0, 1, 2) with K = 1, one dense column crossed with field 2.
    pair = (np.array([[1, 2], [3, 4]], dtype=np.float32), np.array([[5, 6], [7, 8]], dtype=np.float32))
    triple = (column(1, 2)[:, None], column(3, 4)[:, None], column(5, 6)[:, None])
    weights = (column(0.1, 0.2), column(0.3, 0.4), column(0.5, 0.6))
    world = ClickWorld((2, 2, 2), 1.0, -1.0, weights, column(10), (((0, 1), pair), ((0, 1, 2), triple)), {(0, 2): column(100, 200)}, 0)
    logits = world.logits(np.array([[0.5], [-1.0]], dtype=np.float32), np.array([[0, 1, 0], [1, 0, 1]], dtype=np.int32))
    # row 1: -1 + .1 + .4 + .5 + 10 x .5 + (1 x 7 + 2 x 8) + 1 x 4 x 5 + .5 x 100 = 98
    # row 2: -1 + .2 + .3 + .6 - 10 + (3 x 5 + 4 x 6) + 2 x 3 x 6 - 200 = -134.9
    np.testing.assert_allclose(logits, [98.0, -134.9], rtol=1e-6)


@pytest.mark.parametrize("skew", [0.5, 1.0, 1.3])
def test_ids_follow_their_law(skew: float) -> None:
    # With s = 1 and n = 3 by hand: log 2, log 3/2, log 4/3 over log 4.
    if skew == 1.0:
        np.testing.assert_allclose(chance_of(3, 1.0), np.log([1, 2, 3 / 2, 4 / 3]) / np.log(4))
    ids = skewed(np.random.default_rng(0).random((200_000, 2)), np.array([7, 40]), skew)
    for place, size in enumerate((7, 40)):
        chances = chance_of(size, skew)
        assert chances.sum() == pytest.approx(1)
        np.testing.assert_allclose(np.bincount(ids[:, place], minlength=size + 1) / len(ids), chances, atol=4 * 0.5 / len(ids) ** 0.5)


def test_the_ends_of_a_table_are_inside() -> None:
    ends = np.array([[0.0], [np.nextafter(1.0, 0.0)]])
    for skew in (0.0, 1.0, 2.0):
        np.testing.assert_array_equal(skewed(ends, np.array([33_000_000]), skew)[:, 0][:1], [1])
        assert skewed(ends, np.array([1000]), skew)[1, 0] == 1000


@pytest.mark.parametrize("order", ["linear", "pairs", "triples"])
def test_parts_have_the_deviation_that_was_set_and_nothing_of_lower_order(order: Any) -> None:
    world = click_world(seed=1, order=order, linear=0.5, interaction=1.5)
    clicks = world.draw(0, 200_000)
    first = world.bias + clicks.dense @ world.dense + sum(w[clicks.ids[:, f]] for f, w in enumerate(world.weights))
    rest = world.logits(clicks.dense, clicks.ids) - first
    assert first.std() == pytest.approx(0.5, rel=0.03)
    assert rest.std() == pytest.approx(0.0 if order == "linear" else 1.5, rel=0.1, abs=1e-5)
    for field, size in enumerate(world.sizes):  # the mean of the interactions given one id is zero
        mass = np.bincount(clicks.ids[:, field], minlength=size + 1)[1:]
        given = np.bincount(clicks.ids[:, field], rest, minlength=size + 1)[1:] / mass
        assert np.abs(given * mass**0.5).max() < 5 * 1.5


def test_best_logloss_and_auc_are_what_the_truth_scores() -> None:
    clicks = planted_clicks(200_000, seed=3)
    assert clicks.labels.mean() == pytest.approx(clicks.probabilities.mean(), abs=0.004)
    assert pointwise.logloss(clicks.labels, clicks.probabilities) == pytest.approx(clicks.best_logloss, rel=0.01)
    assert pointwise.auc(clicks.labels, clicks.probabilities) == pytest.approx(clicks.best_auc, abs=0.005)
    assert clicks.expected_logloss(np.full(len(clicks), 0.3)) > clicks.best_logloss
    assert clicks.expected_logloss(0.99 * clicks.probabilities) > clicks.best_logloss


def test_best_logloss_by_hand() -> None:
    # p = 1/2 and 1/4: entropies ln 2 and (1/4) ln 4 + (3/4) ln (4/3). Expected AUC: pairs (positive i, negative j), p_i (1 - p_j):
    # 1/2 beats 1/4: .5 x .75; ties with itself, half: .5 x .5 / 2, .25 x .75 / 2; over (.75)(1.25).
    two = planted_clicks(2)
    two = type(two)(two.world, two.dense, two.ids, two.labels, column(0.5, 0.25))
    assert two.best_logloss == pytest.approx((np.log(2) + 0.25 * np.log(4) + 0.75 * np.log(4 / 3)) / 2)
    assert two.best_auc == pytest.approx((0.375 + 0.125 + 0.09375) / 0.9375)
    assert two.expected_logloss(np.array([[0.5], [0.5]])) == pytest.approx(np.log(2))


def test_any_part_is_the_same_as_in_the_whole() -> None:
    world = click_world(seed=5, fields=(5, 6), dense=1)
    whole = world.draw(0, CHUNK + 100)
    part = world.draw(CHUNK - 50, CHUNK + 30)
    for name in ("dense", "ids", "labels", "probabilities"):
        np.testing.assert_array_equal(getattr(whole[CHUNK - 50 : CHUNK + 30], name), getattr(part, name))
    assert len(world.draw(0, 0)) == 0
    assert len(world.draw(0, CHUNK)) == CHUNK
    assert len(world.draw(CHUNK, CHUNK + 1)) == 1
    assert not np.array_equal(world.draw(0, 100, stream=1).ids, whole.ids[:100])
    assert not np.array_equal(planted_clicks(100, seed=6, fields=(5, 6), dense=1).ids, whole.ids[:100])


def test_without_dense_columns() -> None:
    clicks = planted_clicks(100, dense=0, order="triples")
    assert clicks.dense.shape == (100, 0)
    assert clicks.inputs.dense == ()
    assert (clicks.ids > 0).all()  # row 0 of a table is nobody's


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fields": (1, 4)}, "at least 2"),
        ({"rate": 0.0}, "0 < rate < 1"),
        ({"order": "cubes"}, "it takes linear, pairs, triples"),
        ({"fields": (4, 4), "order": "triples"}, "at least 3 fields"),
        ({"pairs": [(0, 0)]}, "two different fields"),
        ({"pairs": [(0, 9)]}, "two different fields"),
        ({"pairs": []}, "at least 2 fields"),
    ],
)
def test_settings_that_make_no_world_are_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        click_world(**settings)


def test_shards_hold_the_same_rows(tmp_path: Path) -> None:
    world = click_world(seed=2, fields=(9, 8, 7), dense=3)
    manifest = write_shards(tmp_path, world, {"train": 2500, "test": 700}, shard=1000)
    again = shards.read_manifest(tmp_path)
    assert again == manifest
    assert again.inputs == world.inputs
    parts = shards.open_split(tmp_path, again, "train")
    assert [len(part["labels"]) for part in parts] == [1000, 1000, 500]
    train, test = world.draw(0, 2500), world.draw(0, 700, stream=2)
    np.testing.assert_array_equal(np.concatenate([part["ids"] for part in parts]), train.ids)
    np.testing.assert_array_equal(np.concatenate([part["labels"] for part in parts])[:, 0], train.labels)
    assert again.about["truth"]["train"]["best_logloss"] == pytest.approx(train.best_logloss)
    assert again.about["truth"]["test"]["rate"] == pytest.approx(float(test.labels.mean()))
    with pytest.raises(DataError, match="it takes train, valid, test"):
        write_shards(tmp_path, world, {"trian": 10})


def test_criteo_text_holds_the_same_rows(tmp_path: Path) -> None:
    world = click_world(seed=2, fields=(9,) * 26, dense=13)
    clicks = world.draw(0, 300)
    write_criteo(tmp_path / "a.tsv", world, 300)
    write_criteo(tmp_path / "a.tsv.gz", world, 300)
    text = (tmp_path / "a.tsv").read_bytes()
    assert gzip.decompress((tmp_path / "a.tsv.gz").read_bytes()) == text
    rows = [line.split("\t") for line in text.decode().splitlines()]
    assert len(rows) == 300
    assert all(len(row) == 40 and all(len(field) == 8 for field in row[14:]) for row in rows)
    np.testing.assert_array_equal([int(row[0]) for row in rows], clicks.labels)
    np.testing.assert_array_equal([[int(x) for x in row[1:14]] for row in rows], np.floor(np.exp(1.5 + clicks.dense.astype(np.float64))))
    for field in range(26):  # one text an id and field
        pairs = {(int(clicks.ids[place, field]), row[14 + field]) for place, row in enumerate(rows)}
        assert len({text for _, text in pairs}) == len({number for number, _ in pairs}) == len(pairs)


def test_write_chooses_by_the_name(tmp_path: Path) -> None:
    truth = write(tmp_path / "clicks", 500, fields=(4, 4), dense=1)
    assert {split: said["rows"] for split, said in truth.items()} == {"train": 500, "valid": 50, "test": 50}
    text = write(tmp_path / "day_0.tsv", 500, fields=(4,) * 26, dense=13)
    assert text["train"]["best_logloss"] == pytest.approx(planted_clicks(500, fields=(4,) * 26, dense=13).best_logloss)
    with pytest.raises(DataError, match="13 dense columns and 26 fields, not 1 and 2"):
        write(tmp_path / "day_1.tsv.gz", 500, fields=(4, 4), dense=1)
    with pytest.raises(DataError, match="expected a folder"):
        write(tmp_path / "clicks.parquet", 500)


def test_memory_of_writing_is_that_of_a_chunk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[int] = []
    draw = ClickWorld.draw

    def counted(self: ClickWorld, start: int, stop: int, stream: int = 0) -> Any:
        asked.append(stop - start)
        return draw(self, start, stop, stream)

    monkeypatch.setattr(ClickWorld, "draw", counted)
    monkeypatch.setattr(module, "CHUNK", 64)
    write_criteo(tmp_path / "a.tsv", click_world(fields=(3, 3)), 200)
    assert asked == [64, 64, 64, 8]
