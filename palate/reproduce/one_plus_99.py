"""The protocol of NCF: each user's last item is ranked among 99 items that the user never took.

    HR@10 = 1 if fewer than 10 of the 99 are scored at least as high,    nDCG@10 = ln 2 / ln(2 + how many are), 0 beyond ten places

both as means over users. X. He et al. 2017, "Neural Collaborative Filtering", section 4.1. Files: `*.train.rating` (user, item, rating,
time; only who, what and when are read) or `*.train.pairs` (user, item), `*.test.rating` (a line a user) and `*.test.negative`
(`(user,item)` and the negatives, in the order of `*.test.rating`), with tabs between.

An item that scores the same as the positive stands before it, as in the published code: a model that says the same of everything has 0.
A sampled metric flatters: 10 of 100 is not 10 of thousands; compare figures of this protocol only with each other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from palate.data.sources.download import local_folder
from palate.features.history import History
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
    table,
    tried,
    wrong,
)
from palate.retrieve.base import Retriever
from palate.types import DataError, Floats, Ints, Log, Longs, PalateError, Run

K = 10
ROWS = 1024
"""Users asked at once."""
NEGATIVES = 99
"""Drawn for each user when settings are chosen."""


@dataclass(frozen=True)
class Ranked:
    """Training events; users int32 [T], their positive items int32 [T] and negatives int32 [T, M]. checksums: md5 of each file."""

    log: Log
    users: Ints
    positives: Ints
    negatives: Ints
    checksums: dict[str, str]
    notes: tuple[str, ...] = ()


def find(published: Table, folder: Path | None, quiet: bool = False) -> Path:
    """The folder of the files: given, or in PALATE_DATA. Errors: DataError that says what is missing."""
    if folder is not None:
        return find_files(published.name, folder, lacks_one_plus_99, {"gowalla": lacks_lists})
    ends = [[f"ml-1m{end}", "ml-1m.test.rating", "ml-1m.test.negative"] for end in (".train.rating", ".train.pairs")]
    local = local_folder(published.data, ends)
    if local is None:
        raise DataError(f"{published.name}: no folder {published.data!r} with {', '.join(ends[0])} in PALATE_DATA; or give --data DIR")
    return local


def read(folder: Path, published: Table | None = None) -> Ranked:
    """Reads the three files. published: whose md5 they are held against. Errors: DataError with file and line."""
    train, test, negative = _one(folder, ".train.rating", ".train.pairs"), _one(folder, ".test.rating"), _one(folder, ".test.negative")
    with_times = train.name.endswith(".rating")
    rows = _rows(train, 4 if with_times else 2)
    users, items = rows[:, 0], rows[:, 1]
    n_users, n_items = check_dense(train, "user", users), check_dense(train, "item", items)
    keys = users * n_items + items
    _check_once(train, rows, keys)
    asked = _rows(test, 2)[:, :2]
    _check_test(test, asked, n_users, n_items, train.name, users, keys)
    sampled, own = _negatives(negative, asked, n_items, train.name)
    paths = (train, test, negative)
    checksums = {path.name: md5_of(path) for path in paths}
    notes = [
        f"{name} is not the published file (md5 {checksums[name]}, published {known})"
        if name in checksums
        else f"{name} is not at hand; {train.name} stands in for it"
        for name, known in (published.md5 if published else {}).items()
        if checksums.get(name) != known
    ]
    taken = np.isin(asked[:, :1] * n_items + sampled, keys)
    if taken.any():
        notes.append(f"{int(taken.sum())} of {sampled.size:,} negatives are items that their user has in train; they count as negatives")
    if own:
        notes.append(f"{own} users have their positive among their negatives; it does not compete with itself")
    log = log_of(users, items, n_users, n_items, times=rows[:, 3] if with_times else None, name=folder.name, checksum=checksums[train.name])
    return Ranked(log, asked[:, 0].astype(np.int32), asked[:, 1].astype(np.int32), sampled.astype(np.int32), checksums, tuple(notes))


def _one(folder: Path, *ends: str) -> Path:
    """The file with the first of these ends that there is."""
    for end in ends:
        found = sorted(folder.glob(f"*{end}"))
        if len(found) > 1:
            raise DataError(f"{folder}: {found[0].name} and {found[1].name}; keep each data set in a folder of its own")
        if found:
            return found[0]
    raise DataError(f"{folder}: no file *{ends[0]}")


def _rows(path: Path, columns: int) -> Longs:
    """Whole numbers, int64 [L, columns]. Ratings may have a fraction (they are not used); so may times, which are cut."""
    fast = table(path, columns)
    if fast is not None:
        return fast
    names = ("user", "item", "rating", "time")
    found = []
    for number, line in enumerate(lines(path), 1):
        words = line.split()
        if len(words) < columns:
            wrong(path, number, f"has {len(words)} columns, not {columns}: {', '.join(names[:columns])}" if words else "is empty")
        row = codes(path, number, words[:2], names)
        if columns == 4:
            try:
                row += [0, int(float(words[3]))]
            except (ValueError, OverflowError):
                wrong(path, number, f"the time {words[3]!r} is not a number of seconds")
        found.append(row)
    return np.array(found, dtype=np.int64)


def _check_once(path: Path, rows: Longs, keys: Longs) -> None:
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    if len(same):
        line = int(order[same + 1].min())
        first = int(np.flatnonzero(keys == keys[line])[0])
        wrong(path, line + 1, f"user {rows[line, 0]} has item {rows[line, 1]} already, on line {first + 1}")


def _check_test(path: Path, asked: Longs, n_users: int, n_items: int, train: str, users: Longs, keys: Longs) -> None:
    beyond = asked[:, 1] >= n_items
    if beyond.any():
        place = int(beyond.argmax())
        wrong(path, place + 1, f"item {asked[place, 1]} is out of range: the items of {train} are 0 to {n_items - 1}")
    strangers = ~np.isin(asked[:, 0], users)
    if strangers.any():
        place = int(strangers.argmax())
        wrong(path, place + 1, f"user {asked[place, 0]} has no items in {train}, and could not be told from anybody")
    _, first, counts = np.unique(asked[:, 0], return_index=True, return_counts=True)
    if (counts > 1).any():
        user = asked[first[counts > 1][0], 0]
        place = int(np.flatnonzero(asked[:, 0] == user)[1])
        wrong(path, place + 1, f"user {user} has a test item already; the protocol has one a user")
    again = np.isin(asked[:, 0] * n_items + asked[:, 1], keys)
    if again.any():
        place = int(again.argmax())
        wrong(path, place + 1, f"user {asked[place, 0]} has item {asked[place, 1]} in {train} too")


def _negatives(path: Path, asked: Longs, n_items: int, train: str) -> tuple[Longs, int]:
    """Negatives int64 [T, M], and how many users have their positive among them."""
    rows: list[list[int]] = []
    own = 0
    found = lines(path)
    for number, (line, (user, item)) in enumerate(zip(found, asked.tolist(), strict=False), 1):
        first, *words = line.split() or [""]
        if first.replace(" ", "") != f"({user},{item})":
            wrong(path, number, f"starts with {first!r}, where the test file has ({user},{item}) on this line")
        row = codes(path, number, words, ("negative",)) if words else []
        if not row or (rows and len(row) != len(rows[0])):
            wrong(path, number, f"has {len(row)} negatives" + (f", the lines before have {len(rows[0])}" if rows else ""))
        if max(row) >= n_items:
            wrong(path, number, f"item {max(row)} is out of range: the items of {train} are 0 to {n_items - 1}")
        own += item in row
        rows.append(row)
    if len(found) != len(asked):
        raise DataError(f"{path}: has {len(found)} lines, the test file {len(asked)}; both have one a user, in the same order")
    return np.array(rows, dtype=np.int64), own


def hold_out(data: Ranked, seed: int) -> Ranked:
    """The same kind of data out of train alone: of each user with two items or more, a random one, and 99 others not in train."""
    log, rng = data.log, np.random.default_rng([seed, 1])
    users, items = log.user_codes, log.item_codes
    order = np.lexsort((rng.random(len(users)), users))
    counts = np.bincount(users, minlength=log.n_users)
    starts = np.cumsum(counts) - counts
    chosen = order[starts[counts > 1]]
    # A user who has nearly everything leaves fewer than 99; all users are then given as many as the least.
    room = log.n_items - int(counts.max())
    if room < 1:
        raise DataError(f"{log.name}: user {int(counts.argmax())} has every item; there is no negative to choose settings with")
    negatives = np.empty((len(chosen), min(NEGATIVES, room)), dtype=np.int32)
    for row, user in enumerate(users[chosen].tolist()):
        free = np.ones(log.n_items, dtype=np.bool_)
        free[items[order[starts[user] : starts[user] + counts[user]]]] = False
        negatives[row] = rng.choice(np.flatnonzero(free), negatives.shape[1], replace=False)
    keep = np.ones(len(users), dtype=np.bool_)
    keep[chosen] = False
    return replace(data, log=log.where(keep), users=users[chosen], positives=items[chosen], negatives=negatives)


def places(scores: Floats, items: Ints) -> Longs:
    """From 0, how many items stand before the first one. scores, items: [B, 1 + M]; of equal scores the first one's is last.

    An item that occurs again counts once, as in the published code; so does the first one, which does not compete with itself. A score
    of -inf (no evidence) is as good as any other -inf.
    """
    order = np.argsort(items, axis=1, kind="stable")  # the first one comes first among its like
    sorted_items = np.take_along_axis(items, order, 1)
    again = np.zeros(items.shape, dtype=np.bool_)
    np.put_along_axis(again, order[:, 1:], sorted_items[:, 1:] == sorted_items[:, :-1], 1)
    return ((scores[:, 1:] >= scores[:, :1]) & ~again[:, 1:]).sum(axis=1)


def evaluate(retriever: Retriever, data: Ranked, k: int = K) -> dict[str, float]:
    """HR and nDCG of a fitted retriever, which must be able to score given items."""
    history = History.of(data.log)
    found = []
    for start in range(0, len(data.users), ROWS):
        part = slice(start, start + ROWS)
        items = np.concatenate([data.positives[part, None], data.negatives[part]], axis=1)
        scores = retriever.score(history.queries(data.users[part]), items)
        if np.isnan(scores).any():
            raise PalateError(f"{retriever.name}: scores of user {data.users[part][int(np.isnan(scores).any(axis=1).argmax())]} are NaN")
        found.append(places(scores, items))
    place = np.concatenate(found)
    gains = np.where(place < k, np.log(2) / np.log(place + 2), 0)
    return {f"hr@{k}": float((place < k).mean()), f"ndcg@{k}": float(gains.mean())}


def fit_and_judge(retriever: Retriever, data: Ranked, run: Run) -> dict[str, float]:
    """The metrics, seconds of the fit (`fit_s`) and of the scores (`score_s`)."""
    began = time.perf_counter()
    retriever.fit(data.log, run)
    fitted = time.perf_counter()
    metrics = evaluate(retriever, data)
    return {**metrics, "fit_s": fitted - began, "score_s": time.perf_counter() - fitted}


def train_one(entry: Entry, seed: int, data: Ranked, tune: bool = False) -> Done:
    """Fits one model with one seed on all of train; with `tune`, chooses its settings on items held out of train before."""
    inner = hold_out(data, seed) if tune else None
    on_validation = None if inner is None else lambda retriever, run: fit_and_judge(retriever, inner, run)
    return tried(entry, seed, lambda retriever, run: fit_and_judge(retriever, data, run), on_validation, f"hr@{K}")


PROTOCOL = Protocol(find, lambda published, folder: read(folder, published), retriever_of, train_one, tunes=True)
