"""The protocols of retrieval tables: both file formats by hand, figures by hand, bad files, validation out of train, and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from palate.features.history import History
from palate.reproduce import command, full_ranking, one_plus_99, runs
from palate.reproduce.base import Done, Entry, Published, protocol_of, summary, table_of, tables, winners
from palate.reproduce.pairs import retriever_of
from palate.retrieve.base import Retriever
from palate.retrieve.popular import Popular
from palate.types import Candidates, ConfigError, DataError, Floats, Ints, Log, PalateError, Queries, Run

RETRIEVAL = [table for table in tables().values() if table.protocol != "clicks"]


def lists(folder: Path, train: str, test: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "train.txt").write_text(train)
    (folder / "test.txt").write_text(test)
    return folder


def ncf(folder: Path, train: str, test: str, negative: str, end: str = "pairs") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"a.train.{end}").write_text(train)
    (folder / "a.test.rating").write_text(test)
    (folder / "a.test.negative").write_text(negative)
    return folder


class Says(Retriever):
    """A fixed order of the items for each user, whatever the log."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.rows = np.array(rows, dtype=np.float32)

    def fit(self, log: Log, run: Run = Run()) -> Self:
        return self

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        scores = self.rows[queries.users].copy()
        scores[queries.blocked.rows, queries.blocked.values] = -np.inf
        items = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)
        best = np.take_along_axis(scores, items, 1)
        return Candidates.of(np.where(np.isneginf(best), -1, items).astype(np.int32), best, "says")

    def score(self, queries: Queries, items: Ints) -> Floats:
        return np.take_along_axis(self.rows[queries.users], items, 1)


def test_lists_are_read_by_hand(tmp_path: Path) -> None:
    data = full_ranking.read(lists(tmp_path / "a", "0 2 0\n2 1\n1 3 \n", "0 1\n1\n2 0 3\n"))
    assert (data.log.n_users, data.log.n_items, len(data.log)) == (3, 4, 4)
    pairs = set(zip(data.log.user_codes.tolist(), data.log.item_codes.tolist(), strict=True))
    assert pairs == {(0, 2), (0, 0), (2, 1), (1, 3)}
    assert data.users.tolist() == [0, 2]
    assert [data.test[row].tolist() for row in range(2)] == [[1], [0, 3]]
    assert data.log.items["item"].to_list() == ["0", "1", "2", "3"]
    assert data.notes == ("1 users of test.txt have no test item, and are left out of the means",)
    assert set(data.checksums) == {"train.txt", "test.txt"}
    assert sorted(History.of(data.log).queries(np.array([0], dtype=np.int32)).history.values.tolist()) == [0, 2]


def test_the_catalogue_is_that_of_train(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test\.txt: line 1: item 4 is out of range: the items of train\.txt are 0 to 3"):
        full_ranking.read(lists(tmp_path / "a", "0 0 3\n", "0 4\n"))


def test_figures_of_full_ranking_by_hand(tmp_path: Path) -> None:
    data = full_ranking.read(lists(tmp_path / "a", "0 0\n1 1\n2 5\n", "0 1 2 3\n1 4 5\n"))
    # User 0 is shown 5, 2, 4 (0 is masked): of 1, 2, 3 one is found, in place 2. User 1: 0, 5, 4 after 1 is masked.
    said = Says([[9, 1, 7, 2, 6, 8], [8, 9, 1, 2, 6, 7], [0] * 6])
    found = full_ranking.evaluate(said, data, k=3)
    assert found["recall@3"] == pytest.approx((1 / 3 + 2 / 2) / 2)
    best3, best2 = 1 + 1 / np.log2(3) + 1 / 2, 1 + 1 / np.log2(3)  # min(3, |test|) hits first
    assert found["ndcg@3"] == pytest.approx((1 / np.log2(3) / best3 + (1 / np.log2(3) + 1 / 2) / best2) / 2)


def test_figures_of_one_plus_99_by_hand(tmp_path: Path) -> None:
    train = "".join(f"{user}\t{item}\n" for user in range(4) for item in (12, 13))
    test = "0\t0\t5\t0\n1\t0\t5\t0\n2\t0\t5\t0\n3\t0\n"
    negatives = "\t".join(map(str, range(1, 12)))
    data = one_plus_99.read(ncf(tmp_path / "a", train, test, "".join(f"({user},0)\t{negatives}\n" for user in range(4))))
    rows = [[-5.0 - item for item in range(14)] for _ in range(4)]
    rows[0][0] = 1  # before all 11 negatives
    rows[1][0] = rows[1][2]  # behind 1 and, of equals, behind 2
    rows[2][0] = rows[2][10]  # behind ten: not among the first ten
    rows[3] = [0.0] * 14  # the same of everything: behind all
    found = one_plus_99.evaluate(Says(rows), data)
    assert found["hr@10"] == pytest.approx(2 / 4)
    assert found["ndcg@10"] == pytest.approx((1 + 1 / np.log2(4)) / 4)


def test_items_that_occur_again_count_once() -> None:
    items = np.array([[3, 7, 7, 3, 8]], dtype=np.int32)
    assert one_plus_99.places(np.array([[1, 2, 2, 1, 0]], dtype=np.float32), items).tolist() == [1]
    assert one_plus_99.places(np.full((1, 5), -np.inf, dtype=np.float32), items).tolist() == [2]


def test_times_order_the_events_where_there_are_some(tmp_path: Path) -> None:
    train = "0\t2\t5\t30\n0\t0\t3.5\t10\n0\t1\t4\t20\n1\t0\t4\t5\n"
    data = one_plus_99.read(ncf(tmp_path / "a", train, "1\t1\n", "(1,1)\t2\n", end="rating"))
    assert History.of(data.log).queries(np.array([0], dtype=np.int32)).history.values.tolist() == [0, 1, 2]
    assert data.negatives.tolist() == [[2]]


TRAIN, TEST = "0 0 1 2\n1 1 2\n", "0 3\n1 0\n"


@pytest.mark.parametrize(
    ("train", "test", "says"),
    [
        ("0 0 1\n\n1 1\n", "0 1\n", r"train\.txt: line 2: is empty; each line is a user and their items"),
        ("0 0 x\n", "0 1\n", r"train\.txt: line 1: the item 'x' is not a whole number from 0"),
        ("u0 0 1\n", "0 1\n", r"train\.txt: line 1: the user 'u0' is not a whole number"),
        ("0 0 -1\n", "0 1\n", r"train\.txt: line 1: the item '-1' is not a whole number from 0"),
        ("0 0 1.5\n", "0 1\n", r"train\.txt: line 1: the item '1\.5' is not"),
        ("0 0 1 0\n", "0 1\n", r"train\.txt: line 1: user 0 has item 0 twice"),
        ("0 0\n1 1\n0 2\n", "0 1\n", r"train\.txt: line 3: user 0 was on line 1 already"),
        ("", "0 1\n", r"train\.txt: has no lines"),
        ("0\n1\n", "0 1\n", r"train\.txt: no user has an item"),
        ("0 0 1\n", "0\n", r"test\.txt: no user has a test item"),
        ("0 0 1\n2 0\n", "0 2\n", r"test\.txt: line 1: item 2 is out of range: the items of train\.txt are 0 to 1"),
        ("0 0 1\n1\n", "0\n1 0\n", r"test\.txt: line 2: user 1 has no items in train\.txt"),
        ("0 0 1\n", "0 1\n", r"test\.txt: line 1: user 0 has item 1 in train\.txt too"),
        ("0 0 99999999\n", "0 1\n", r"train\.txt: the largest item is 99999999, but only 2 different ones occur; number items from 0"),
    ],
)
def test_bad_lists(tmp_path: Path, train: str, test: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        full_ranking.read(lists(tmp_path / "a", train, test))


PAIRS, ASKED, NEGATIVES = "0\t0\n0\t1\n1\t2\n1\t3\n", "0\t2\n1\t0\n", "(0,2)\t3\n(1,0)\t1\n"


@pytest.mark.parametrize(
    ("train", "test", "negative", "says"),
    [
        ("0\t0\n0\n", ASKED, NEGATIVES, r"a\.train\.pairs: line 2: has 1 columns, not 2: user, item"),
        ("0\t0\n\n1\t0\n", ASKED, NEGATIVES, r"a\.train\.pairs: line 2: is empty"),
        ("0\tzero\n", ASKED, NEGATIVES, r"a\.train\.pairs: line 1: the item 'zero' is not a whole number"),
        (PAIRS + "0\t1\n", ASKED, NEGATIVES, r"a\.train\.pairs: line 5: user 0 has item 1 already, on line 2"),
        (PAIRS, "0\t2\n1\t9\n", NEGATIVES, r"a\.test\.rating: line 2: item 9 is out of range: the items of a\.train\.pairs are 0 to 3"),
        (PAIRS, "0\t2\n7\t0\n", NEGATIVES, r"a\.test\.rating: line 2: user 7 has no items in a\.train\.pairs"),
        (PAIRS, "0\t2\n0\t3\n", NEGATIVES, r"a\.test\.rating: line 2: user 0 has a test item already"),
        (PAIRS, "0\t1\n1\t0\n", NEGATIVES, r"a\.test\.rating: line 1: user 0 has item 1 in a\.train\.pairs too"),
        (PAIRS, ASKED, "(0,2)\t3\n(1,1)\t1\n", r"a\.test\.negative: line 2: starts with '\(1,1\)', where the test file has \(1,0\)"),
        (PAIRS, ASKED, "(0,2)\t3\n(1,0)\t9\n", r"a\.test\.negative: line 2: item 9 is out of range"),
        (PAIRS, ASKED, "(0,2)\t3\t1\n(1,0)\t1\n", r"a\.test\.negative: line 2: has 1 negatives, the lines before have 2"),
        (PAIRS, ASKED, "(0,2)\n(1,0)\n", r"a\.test\.negative: line 1: has 0 negatives"),
        (PAIRS, ASKED, "(0,2)\t3\n", r"a\.test\.negative: has 1 lines, the test file 2"),
    ],
)
def test_bad_files_of_ncf(tmp_path: Path, train: str, test: str, negative: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        one_plus_99.read(ncf(tmp_path / "a", train, test, negative))


def test_bad_times(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: the time 'noon' is not a number of seconds"):
        one_plus_99.read(ncf(tmp_path / "a", "0\t0\t5\tnoon\n", "0\t1\n", "(0,1)\t2\n", end="rating"))


def test_the_files_say_which_table_they_are_for(tmp_path: Path) -> None:
    gowalla, ncf_ml_1m = table_of("gowalla"), table_of("ncf-ml-1m")
    some, other = lists(tmp_path / "lists", TRAIN, TEST), ncf(tmp_path / "ncf", PAIRS, ASKED, NEGATIVES)
    assert protocol_of(gowalla).find(gowalla, some, True) == some
    with pytest.raises(DataError, match=r"lacks train\.txt, test\.txt; its files are for `palate reproduce ncf-ml-1m --data"):
        protocol_of(gowalla).find(gowalla, other, True)
    with pytest.raises(DataError, match=r"lacks \*\.train\.rating .*; its files are for `palate reproduce gowalla --data"):
        protocol_of(ncf_ml_1m).find(ncf_ml_1m, some, True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"lacks train\.txt, test\.txt, which the protocol of gowalla needs"):
        protocol_of(gowalla).find(gowalla, tmp_path / "empty", True)
    with pytest.raises(DataError, match="no such folder"):
        protocol_of(gowalla).find(gowalla, tmp_path / "nowhere", True)
    (some / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"train\.txt: not a text file"):
        full_ranking.read(some)
    (other / "b.test.rating").write_text("0\t1\n")
    with pytest.raises(DataError, match=r"a\.test\.rating and b\.test\.rating; keep each data set in a folder of its own"):
        one_plus_99.read(other)


def test_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_DATA", str(tmp_path))
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    for table in RETRIEVAL:
        with pytest.raises(DataError, match=rf"{table.name}: no folder '{table.data}' with .* in PALATE_DATA; or give --data DIR"):
            protocol_of(table).find(table, None, True)


def test_validation_comes_out_of_train_alone(tmp_path: Path) -> None:
    folder = world(tmp_path / "a", ncf_files=True)
    whole = full_ranking.read(folder)
    inner = full_ranking.hold_out(whole, seed=0)
    before = set(zip(whole.log.user_codes.tolist(), whole.log.item_codes.tolist(), strict=True))
    kept = set(zip(inner.log.user_codes.tolist(), inner.log.item_codes.tolist(), strict=True))
    held = {(user, item) for row, user in enumerate(inner.users.tolist()) for item in inner.test[row].tolist()}
    assert kept | held == before
    assert not kept & held
    counts = np.bincount(whole.log.user_codes)
    assert inner.test.lengths.tolist() == [max(1, round(0.1 * count)) for count in counts[inner.users]]
    again = full_ranking.hold_out(whole, seed=0)
    assert np.array_equal(again.test.values, inner.test.values)
    assert not np.array_equal(full_ranking.hold_out(whole, seed=1).test.values, inner.test.values)

    ranked = one_plus_99.read(folder)
    inside = one_plus_99.hold_out(ranked, seed=0)
    kept = set(zip(inside.log.user_codes.tolist(), inside.log.item_codes.tolist(), strict=True))
    held = set(zip(inside.users.tolist(), inside.positives.tolist(), strict=True))
    assert kept | held == before
    assert len(held) == len(inside.users) == ranked.log.n_users
    for user, negatives in zip(inside.users.tolist(), inside.negatives.tolist(), strict=True):
        assert len(set(negatives)) == len(negatives)
        assert not {(user, item) for item in negatives} & before


def world(folder: Path, users: int = 60, items: int = 150, clusters: int = 5, *, ncf_files: bool = False) -> Path:
    """Users who want one kind of item: in both formats, if asked, with the same train."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    train, test, pairs, asked, negatives = [], [], [], [], []
    for user in range(users):
        own = rng.permutation(np.flatnonzero(np.arange(items) % clusters == user % clusters))[:15]
        others = np.setdiff1d(np.arange(items), own)
        if not user:
            own = np.append(own, items - 1)  # so that the catalogue is whole
        train.append(f"{user} " + " ".join(map(str, own[3:])))
        test.append(f"{user} " + " ".join(map(str, own[:3])))
        pairs += [f"{user}\t{item}" for item in own[3:]]
        asked.append(f"{user}\t{own[0]}\t5\t0")
        negatives.append(f"({user},{own[0]})\t" + "\t".join(map(str, rng.choice(others, 99, replace=False))))
    lists(folder, "\n".join(train) + "\n", "\n".join(test) + "\n")
    if ncf_files:
        ncf(folder, "\n".join(pairs) + "\n", "\n".join(asked) + "\n", "\n".join(negatives) + "\n")
    return folder


@pytest.mark.parametrize("name", ["gowalla", "ncf-ml-1m"])
def test_runs_are_kept_and_neighbours_beat_popularity(tmp_path: Path, name: str) -> None:
    folder, out = world(tmp_path / "world", ncf_files=True), tmp_path / "out"
    done = command.reproduce(name, ["popular", "item_knn"], 2, folder, out, quiet=True, command="test")
    metric = done.table.metrics[0]
    popular, knn = (row["ours"][metric][0] for row in done.rows)
    assert knn > 2 * popular
    assert done.said == f"Winner of these runs: {done.rows[1]['model']}, {command.headings([metric], published=False)[1]} {knn:.4f}."
    assert [row["seeds"] for row in done.rows] == [[0], [0]]  # the same for every seed
    kept = list((out / f"{name}-world").glob("item_knn-0-*.json"))
    assert len(kept) == 1
    record = json.loads(kept[0].read_text())
    entry = next(entry for entry in done.table.entries if entry.key == "item_knn")
    assert record["run"]["settings"]["similarity"] == entry.settings["similarity"]
    assert record["run"]["validation"] == []
    stamp = kept[0].stat().st_mtime_ns
    again = command.reproduce(name, ["popular", "item_knn"], 2, folder, out, quiet=True)
    assert kept[0].stat().st_mtime_ns == stamp
    assert again.rows == done.rows
    text = (out / f"{name}-world" / "table.md").read_text()
    assert "Winner of these runs" in text
    assert text.startswith(f"# {name}-world\n\nOther data by the protocol of {name}.\n")
    assert "Best published" not in text


def test_settings_are_chosen_on_validation_and_kept(tmp_path: Path) -> None:
    table, folder = table_of("gowalla"), world(tmp_path / "world")
    entry = Entry("knn", "kNN", "item_knn", {"neighbours": 1}, grid=({"neighbours": 40},), random=False)
    found, _ = runs.run(table, [entry], [0], folder, tmp_path, tune=True)
    (run,) = found["knn"]
    assert [attempt["settings"] for attempt in run.validation] == [{"neighbours": 1}, {"neighbours": 40}]
    assert run.validation[1]["metrics"]["recall@20"] > run.validation[0]["metrics"]["recall@20"]
    assert run.settings["neighbours"] == 40
    (record,) = tmp_path.glob("knn-0-*.json")
    assert len(json.loads(record.read_text())["run"]["validation"]) == 2
    with pytest.raises(ConfigError, match=r"--tune: the protocol of frappe-x1 has its own validation rows"):
        runs.run(table_of("frappe-x1"), [], [0], folder, tmp_path, tune=True)
    wrong = replace(entry, grid=({"neighbors": 40},))
    with pytest.raises(ConfigError, match=r"item_knn\.neighbors: no such key; did you mean `neighbours`"):
        runs.run(table, [wrong], [0], folder, tmp_path)


def test_every_entry_is_a_retriever_with_settings_that_exist() -> None:
    for table in RETRIEVAL:
        assert len({entry.key for entry in table.entries}) == len(table.entries)
        for entry in table.entries:
            for changes in ({}, *entry.grid):
                assert isinstance(retriever_of(entry, {**entry.settings, **changes}), Retriever), entry.key
    with pytest.raises(ConfigError, match="no component 'mmr'"):
        retriever_of(Entry("mmr", "MMR", "mmr", {}))
    with pytest.raises(ConfigError, match=r"mmr: palate\.rerank\.mmr:MMR is no retriever"):
        retriever_of(Entry("mmr", "MMR", "palate.rerank.mmr:MMR", {}))


def test_scores_that_are_nan_are_an_error(tmp_path: Path) -> None:
    data = one_plus_99.read(ncf(tmp_path / "a", PAIRS, ASKED, NEGATIVES))
    with pytest.raises(PalateError, match="scores of user 1 are NaN"):
        one_plus_99.evaluate(Says([[1, 2, 3, 4], [np.nan] * 4]), data)


def test_winners_by_hand() -> None:
    table = replace(table_of("gowalla"), others=(Published("Best", {"recall@20": 0.2}),))
    entry = table.entries[1]
    row = summary(entry, [Done("item_knn", 0, {"recall@20": 0.19, "ndcg@20": 0.1}, 1, 1.0, 0)], table.metrics, published=True)
    assert winners(table, [row]) == [
        f"Winner of these runs: {entry.model}, Recall@20 0.1900.",
        "Best published figure: Best, Recall@20 0.2000; ours is -0.0100 from it.",
    ]
    others = command.Reproduced(
        table, (row,), (), {"environment": {"versions": {}}, "precision": "float32", "command": "c", "out": "o"}, table.others
    )
    assert "Published, not run here (Recall@20 / nDCG@20): Best 0.2000." in others.text


def test_the_command(tmp_path: Path) -> None:
    folder = world(tmp_path / "world")
    base = [sys.executable, "-m", "palate.cli", "reproduce"]
    arguments = ["gowalla", "--models", "popular", "--data", str(folder), "--out", str(tmp_path / "out"), "--json"]
    found = subprocess.run([*base, *arguments], capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(found.stdout)
    assert answer["winner"].startswith("Winner of these runs: Popular")
    assert len(answer["rows"][0]["ours"]["recall@20"]) == 2
    (folder / "test.txt").write_text("0 0 nothing\n")
    wrong = subprocess.run([*base, *arguments], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert wrong.stderr == f"palate: {folder}/test.txt: line 1: the item 'nothing' is not a whole number from 0\n"


@pytest.mark.parametrize("table", RETRIEVAL, ids=lambda table: table.name)
def test_the_published_files(table: Any) -> None:
    if not os.environ.get("PALATE_DATA"):
        pytest.skip("PALATE_DATA is not set: no published files")
    protocol = protocol_of(table)
    data = protocol.read(table, protocol.find(table, None, True))
    sizes = {"gowalla": (29858, 40981, 810128), "bars-movielens1m": (6022, 3043, 796244), "ncf-ml-1m": (6040, 3706, 994169)}
    assert (data.log.n_users, data.log.n_items, len(data.log)) == sizes[table.name]
    if table.name == "ncf-ml-1m":
        found = one_plus_99.evaluate(Popular().fit(data.log), data)
        assert found["hr@10"] == pytest.approx(0.4535, abs=0.002)  # the published figure of popularity: the evaluator is the same
        assert found["ndcg@10"] == pytest.approx(0.2543, abs=0.002)
