"""Boosted trees from under 10,000 explicit ratings: the error of what they predict, beside means of users and items.

    python benchmarks/few_ratings.py --seeds 3

Ratings of MovieLens latest-small: of people drawn by the seed, until there are 10,000; the newest fifth of everyone's is held out. The
funnel is `popular` and `item_knn` with a `gbdt` that learns one task, the rating; its trees see everyone's last 20, each with what was
known before it. Errors are root mean squares over the held-out ratings. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import numpy.typing as npt

import palate
from palate.funnel import Funnel
from palate.rank.baseline import Baseline
from palate.rank.gbdt import GBDT
from palate.rank.tasks import Task, ratings
from palate.retrieve.item_knn import ItemKNN
from palate.retrieve.popular import Popular
from palate.types import Log, Run
from palate.versions import versions

TASK = Task(name="rating", kind="rating", events=("rating",))


def drawn(log: Log, count: int, seed: int) -> tuple[Log, Log]:
    """All ratings of people drawn until there are so many: train, and the newest fifth of everyone's as test."""
    counts = np.bincount(log.user_codes, minlength=log.n_users)
    order = np.random.default_rng(seed).permutation(log.n_users)
    some = log.where(np.isin(log.user_codes, order[: np.searchsorted(np.cumsum(counts[order]), count, side="right")]))
    users = some.user_codes
    by_user = np.argsort(users, kind="stable")
    sizes = np.bincount(users, minlength=log.n_users)
    from_end = np.empty(len(users), dtype=np.int64)
    from_end[by_user] = np.repeat(np.cumsum(sizes), sizes) - 1 - np.arange(len(users))
    late = from_end < 0.2 * sizes[users]
    return some.where(~late), some.where(late)


def errors(train: Log, test: Log, seed: int) -> dict[str, float]:
    """The error of each way to predict, and how long the funnel took to fit."""
    start = time.perf_counter()
    funnel = Funnel([Popular(), ItemKNN()], GBDT(tasks=(TASK,), threads=1), config=Funnel.Config(cuts=20)).fit(train, Run(seed=seed))
    seconds = time.perf_counter() - start
    known, held = ratings(TASK, train), ratings(TASK, test)
    queries = funnel.history.queries(held.users, test.times)
    said = funnel.rank_items(queries, held.items[:, None]).features["ranker.rating"][:, 0]
    mean = float(known.values.mean())
    of_users, of_items = (
        _means(codes, known.values, size, mean) for codes, size in ((known.users, train.n_users), (known.items, train.n_items))
    )
    means = of_users[held.users] + of_items[held.items] - mean
    shrunk = Baseline.fit(known, train.n_users, train.n_items)(held.users, held.items)

    def error(predicted: npt.NDArray[np.floating]) -> float:
        return float(np.sqrt(np.mean((np.clip(predicted, known.values.min(), known.values.max()) - held.values) ** 2)))

    return {
        "ratings": len(known.values),
        "held_out": len(held.values),
        "mean": error(np.full(len(held.values), mean)),
        "user mean": error(of_users[held.users]),
        "user and item means": error(means),
        "shrunk user and item means": error(shrunk),
        "gbdt": error(said),
        "seconds": round(seconds, 2),
    }


def _means(codes: npt.NDArray[np.int32], values: npt.NDArray[np.float32], size: int, mean: float) -> npt.NDArray[np.float64]:
    counts = np.bincount(codes, minlength=size)
    return np.where(counts > 0, np.bincount(codes, values, minlength=size) / np.maximum(counts, 1), mean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ratings", type=int, default=10_000)
    given = parser.parse_args()
    log = palate.read("movielens-small")
    found = [errors(*drawn(log, given.ratings, seed), seed) for seed in range(given.seeds)]
    print(json.dumps({"benchmark": "few_ratings", "seeds": found, "checksum": log.checksum, "versions": versions()}))


if __name__ == "__main__":
    main()
