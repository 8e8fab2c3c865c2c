"""The protocol of LightGCN's files: every item that the user has not in train is ranked, and the lists are judged on the test items.

`train.txt` and `test.txt` hold a user and their items on each line. Recall@20 = hits / |test items|, nDCG@20 against the best list of
min(20, |test items|) hits; both are means over the users that have test items. X. He et al. 2020, "LightGCN: Simplifying and Powering
Graph Convolution Network for Recommendation", section 4.1; the figures of BARS (Zhu et al. 2022) are made so too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from palate.data.sources.download import local_folder
from palate.features.history import History
from palate.metrics import ranking
from palate.reproduce.base import Done, Entry, Protocol, Table, md5_of
from palate.reproduce.pairs import (
    check_dense,
    codes,
    find_files,
    lacks_lists,
    lacks_one_plus_99,
    lines,
    log_of,
    retriever_of,
    tried,
    wrong,
)
from palate.retrieve.base import Retriever
from palate.types import DataError, Ints, Log, Longs, Ragged, Run, offsets_of

K = 20
ROWS = 8192
"""Users asked at once."""
SHARE = 0.1
"""Of each user's training items, held out for choosing settings."""


@dataclass(frozen=True)
class Lists:
    """Training events, and test items by user. users: int32 [T], those with test items. test: T rows. checksums: md5 of each file."""

    log: Log
    users: Ints
    test: Ragged
    checksums: dict[str, str]
    notes: tuple[str, ...] = ()


def find(table: Table, folder: Path | None, quiet: bool = False) -> Path:
    """The folder of the files: given, or in PALATE_DATA. Errors: DataError that says what is missing."""
    if folder is not None:
        return find_files(table.name, folder, lacks_lists, {"ncf-ml-1m": lacks_one_plus_99})
    local = local_folder(table.data, [["train.txt", "test.txt"]])
    if local is None:
        raise DataError(f"{table.name}: no folder {table.data!r} with train.txt, test.txt in PALATE_DATA; or give --data DIR")
    return local


def read(folder: Path, table: Table | None = None) -> Lists:
    """Reads both files. table: whose md5 they are held against. Errors: DataError with file and line."""
    paths = {name: folder / name for name in ("train.txt", "test.txt")}
    train_users, train = _lists(paths["train.txt"])
    test_users, test = _lists(paths["test.txt"])
    if not len(train.values):
        raise DataError(f"{paths['train.txt']}: no user has an item")
    n_users, n_items = check_dense(paths["train.txt"], "user", train_users), check_dense(paths["train.txt"], "item", train.values)
    _check_test(paths["test.txt"], test_users, test, train_users, train, n_items)
    some = test.lengths > 0
    if not some.any():
        raise DataError(f"{paths['test.txt']}: no user has a test item")
    checksums = {name: md5_of(path) for name, path in paths.items()}
    notes = [
        f"{name} is not the published file (md5 {checksums[name]}, published {known})"
        for name, known in (table.md5 if table else {}).items()
        if checksums[name] != known
    ]
    if not some.all():
        notes.append(f"{int((~some).sum())} users of test.txt have no test item, and are left out of the means")
    log = log_of(train_users[train.rows], train.values, n_users, n_items, name=folder.name, checksum=checksums["train.txt"])
    return Lists(log, test_users[some].astype(np.int32), test.take(np.flatnonzero(some)), checksums, tuple(notes))


def _lists(path: Path) -> tuple[Longs, Ragged]:
    """Users int64 [L] and the items of each line, int64."""
    users: dict[int, int] = {}
    values: list[int] = []
    lengths = []
    for number, line in enumerate(lines(path), 1):
        words = line.split()
        if not words:
            wrong(path, number, "is empty; each line is a user and their items (a user alone has none)")
        user, *items = codes(path, number, words, ("user", "item"))
        if user in users:
            wrong(path, number, f"user {user} was on line {users[user]} already; put all items of a user on one line")
        if len(set(items)) != len(items):
            again = next(item for place, item in enumerate(items) if item in items[:place])
            wrong(path, number, f"user {user} has item {again} twice")
        users[user] = number
        values += items
        lengths.append(len(items))
    return np.array(list(users), dtype=np.int64), Ragged(offsets_of(np.array(lengths)), np.array(values, dtype=np.int64))


def _check_test(path: Path, users: Longs, test: Ragged, train_users: Longs, train: Ragged, n_items: int) -> None:
    """Every test user has training items, every test item is one of train's, and none is the user's own already."""
    lines_of = np.repeat(np.arange(len(users)) + 1, test.lengths)
    beyond = test.values >= n_items
    if beyond.any():
        place = int(beyond.argmax())
        wrong(path, int(lines_of[place]), f"item {test.values[place]} is out of range: the items of train.txt are 0 to {n_items - 1}")
    strangers = (test.lengths > 0) & ~np.isin(users, train_users[train.lengths > 0])
    if strangers.any():
        place = int(strangers.argmax())
        wrong(path, place + 1, f"user {users[place]} has no items in train.txt, and could not be told from anybody")
    known = train_users[train.rows] * n_items + train.values
    again = np.isin(users[test.rows] * n_items + test.values, known)
    if again.any():
        place = int(again.argmax())
        line = int(lines_of[place])
        wrong(path, line, f"user {users[line - 1]} has item {test.values[place]} in train.txt too; seen items are never listed")


def hold_out(data: Lists, seed: int) -> Lists:
    """The same kind of data out of train alone: of each user with two items or more, a tenth of them (one at least) becomes the test."""
    log, rng = data.log, np.random.default_rng([seed, 1])
    users = log.user_codes
    order = np.lexsort((rng.random(len(users)), users))  # each user's events in a random order
    counts = np.bincount(users, minlength=log.n_users)
    held = np.where(counts > 1, np.maximum(1, np.round(SHARE * counts)), 0).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    chosen = order[np.arange(len(users)) - starts[users[order]] < held[users[order]]]
    keep = np.ones(len(users), dtype=np.bool_)
    keep[chosen] = False
    asked = np.flatnonzero(held).astype(np.int32)
    return replace(data, log=log.where(keep), users=asked, test=Ragged(offsets_of(held[asked]), log.item_codes[chosen]))


def evaluate(retriever: Retriever, data: Lists, k: int = K) -> dict[str, float]:
    """Recall and nDCG of a fitted retriever. Users are asked `ROWS` at a time, so that memory does not grow with their number."""
    history = History.of(data.log)
    recalls, gains = [], []
    for start in range(0, len(data.users), ROWS):
        part = slice(start, start + ROWS)
        relevant = data.test.take(np.arange(start, min(start + ROWS, len(data.users))))
        found = retriever.retrieve(history.queries(data.users[part]), k)
        hits = ranking.hits(found.items, relevant)
        recalls.append(ranking.recall(hits, relevant.lengths, k))
        gains.append(ranking.ndcg(hits, relevant.lengths, k))
    return {f"recall@{k}": float(np.concatenate(recalls).mean()), f"ndcg@{k}": float(np.concatenate(gains).mean())}


def fit_and_judge(retriever: Retriever, data: Lists, run: Run) -> dict[str, float]:
    """The metrics, seconds of the fit (`fit_s`) and of the lists (`recommend_s`)."""
    began = time.perf_counter()
    retriever.fit(data.log, run)
    fitted = time.perf_counter()
    metrics = evaluate(retriever, data)
    return {**metrics, "fit_s": fitted - began, "recommend_s": time.perf_counter() - fitted}


def train_one(entry: Entry, seed: int, data: Lists, tune: bool = False) -> Done:
    """Fits one model with one seed on all of train; with `tune`, chooses its settings on items held out of train before."""
    inner = hold_out(data, seed) if tune else None
    on_validation = None if inner is None else lambda retriever, run: fit_and_judge(retriever, inner, run)
    return tried(entry, seed, lambda retriever, run: fit_and_judge(retriever, data, run), on_validation, f"recall@{K}")


PROTOCOL = Protocol(find, lambda table, folder: read(folder, table), retriever_of, train_one, tunes=True)
