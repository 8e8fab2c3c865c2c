"""Cold items on MovieLens 1M: a twentieth of the items loses every event, and must be found from title-page facts alone.

    PALATE_DATA=... python benchmarks/cold_items.py [--share 0.05] [--epochs 4] [--seed 0]

Protocol. The last fifth of every user's events is held out; the items are drawn by the seed, and their earlier events are removed as
well, so that training never sees them. A user's query is what is left. Relevant are the held-out events of cold items. Recall at K is
the mean over users of hits / min(K, relevant), first with only the cold items allowed, then among the whole catalogue less what was
seen. Beside the two towers: chance, and two scores that need no events of the item: popularity by genre and decade (the mean count
of the training items that share them; the same for everybody), and the user's share of each genre. "Known popularity" ranks the cold
items by the events that were taken away: no system can know it. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

import palate
from palate.data.log import read
from palate.features.history import History
from palate.retrieve.base import history_matrix
from palate.retrieve.ease import EASE
from palate.retrieve.popular import Popular
from palate.retrieve.topk import answer
from palate.retrieve.two_tower import TwoTower
from palate.train.trainer import Trainer
from palate.types import Candidates, Floats, Log, Queries, Ragged, Run, offsets_of

SLICE, FULL = (5, 10, 20), (10, 50, 200)


def late(log: Log, share: float) -> np.ndarray:
    """bool [E]: the last `share` of each user's events."""
    order = np.argsort(log.user_codes, kind="stable")
    counts = np.bincount(log.user_codes, minlength=log.n_users)
    place = np.empty(len(log), dtype=np.int64)
    place[order] = np.arange(len(log)) - np.repeat(offsets_of(counts)[:-1], counts)
    return place >= np.ceil((1 - share) * counts)[log.user_codes]


def wanted(log: Log) -> tuple[np.ndarray, Ragged]:
    """Users with events in the log, and their items."""
    order = np.argsort(log.user_codes, kind="stable")
    users, counts = np.unique(log.user_codes, return_counts=True)
    return users.astype(np.int32), Ragged(offsets_of(counts), log.item_codes[order])


def recall(candidates: Candidates, relevant: Ragged, ks: tuple[int, ...]) -> dict[str, float]:
    hits = np.array([np.isin(row, items) for row, items in zip(candidates.items, (relevant[b] for b in range(len(relevant))), strict=True)])
    return {f"recall@{k}": round(float((hits[:, :k].sum(1) / np.minimum(k, relevant.lengths)).mean()), 4) for k in ks}


def facts(log: Log) -> tuple[np.ndarray, np.ndarray]:
    """Genres as flags [N, G], and decades [N]."""
    genres = sorted(set(log.items["genres"].explode().drop_nulls()))
    flags = np.array([[genre in row for genre in genres] for row in log.items["genres"].to_list()], dtype=np.float32)
    return flags, log.items["year"].fill_null(0).to_numpy() // 10


def prior_popularity(log: Log, flags: np.ndarray, decades: np.ndarray) -> Floats:
    """[N]: for each genre of the item, the mean count of the training items of that genre and decade; then the mean over its genres."""
    counts = np.bincount(log.item_codes, minlength=log.n_items)
    warm = counts > 0
    score = np.zeros(log.n_items)
    for decade in np.unique(decades):
        inside = decades == decade
        members = flags[inside & warm]
        mean = (members * counts[inside & warm, None]).sum(0) / np.maximum(members.sum(0), 1)
        score[inside] = flags[inside] @ mean / np.maximum(flags[inside].sum(1), 1)
    return score.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--epochs", type=int, default=TwoTower().config.train.epochs)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    log = read("movielens-1m")
    cold = np.zeros(log.n_items, dtype=bool)
    cold[np.random.default_rng(given.seed).choice(log.n_items, round(given.share * log.n_items), replace=False)] = True
    of_cold, held = cold[log.item_codes], late(log, 0.2)
    train, test, warm = log.where(~held & ~of_cold), log.where(held & of_cold), log.where(held & ~of_cold)
    history = History.of(train)
    users, relevant = wanted(test)
    queries = history.queries(users)
    only_cold = replace(queries, allowed=cold)
    flags, decades = facts(log)

    def scorer(score: Callable[[Queries], Floats], asked: Queries, ks: tuple[int, ...]) -> dict[str, float]:
        return recall(answer(score, asked, log.n_items, max(ks), "score"), relevant, ks)

    def genre_share(part: Queries) -> Floats:
        taste = history_matrix(part.history, log.n_items) @ flags / np.maximum(part.history.lengths, 1)[:, None]
        return (taste @ (flags / np.maximum(flags.sum(1, keepdims=True), 1)).T).astype(np.float32)

    def same(score: np.ndarray) -> Callable[[Queries], Floats]:
        return lambda part: np.tile(score.astype(np.float32), (len(part), 1))

    prior, known = prior_popularity(train, flags, decades), np.bincount(log.item_codes[of_cold], minlength=log.n_items)
    within: dict[str, dict[str, float]] = {
        # Popularity in the training log is zero for all of them, so its order is chance.
        "popular, that is chance": {f"recall@{k}": round(k / int(cold.sum()), 4) for k in SLICE},
        "popularity by genre and decade": scorer(same(prior), only_cold, SLICE),
        "genre share": scorer(genre_share, only_cold, SLICE),
        "known popularity": scorer(same(known), only_cold, SLICE),
    }
    everywhere: dict[str, dict[str, float]] = {
        "chance": {f"recall@{k}": round(float((k / (log.n_items - queries.blocked.lengths)).mean()), 4) for k in FULL},
        "popular": recall(Popular().fit(train).retrieve(queries, max(FULL)), relevant, FULL),
        "genre share": scorer(genre_share, queries, FULL),
    }
    warm_users, warm_relevant = wanted(warm)
    warm_queries = history.queries(warm_users)
    warm_recall = {"ease": recall(EASE(l2=500).fit(train).retrieve(warm_queries, max(FULL)), warm_relevant, FULL)}
    seconds = {}
    for name, settings in {"two_tower": {}, "two_tower, id_dropout 0": {"id_dropout": 0.0}}.items():
        start = time.perf_counter()
        tower = TwoTower(**settings, train={"epochs": given.epochs}).fit(train, Run(seed=given.seed, train=Trainer()))
        seconds[name] = round(time.perf_counter() - start, 1)
        within[name] = recall(tower.retrieve(only_cold, max(SLICE)), relevant, SLICE)
        everywhere[name] = recall(tower.retrieve(queries, max(FULL)), relevant, FULL)
        warm_recall[name] = recall(tower.retrieve(warm_queries, max(FULL)), warm_relevant, FULL)
    result = {
        "benchmark": "cold_items",
        "data": {"name": log.name, "checksum": log.checksum, "train": len(train), "test": len(test), "users": len(users)},
        "cold_items": int(cold.sum()),
        "items": log.n_items,
        "seed": given.seed,
        "epochs": given.epochs,
        "cold, among the cold": within,
        "cold, among all": everywhere,
        "warm, among all": warm_recall,
        "fit_seconds": seconds,
        "versions": {"palate": palate.__version__, "torch": torch.__version__},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
