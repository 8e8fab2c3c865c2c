"""What each reranker takes for one request, as a service meets it: one list of 450 candidates, ten places. Prints one JSON line each.

    python benchmarks/rerank.py                        # all of them; the explorers that integrate also with 100 places
    python benchmarks/rerank.py --only dpp,thompson --candidates 500

The items and histories are those of MovieLens latest-small (9,066 films). Each request is another person's, with a list of its own drawn
at random; scores fall. Times are of one thread, elapsed and on the processor, after a warm-up.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

import palate
from palate.features.history import History
from palate.rerank.base import Reranker
from palate.rerank.boltzmann import Boltzmann
from palate.rerank.brought import IMPRESSIONS, with_brought
from palate.rerank.calibrated import Calibrated
from palate.rerank.constraints import Constraints
from palate.rerank.demotion import Demotion
from palate.rerank.dpp import DPP
from palate.rerank.epsilon_greedy import EpsilonGreedy
from palate.rerank.explore_category import ExploreCategory
from palate.rerank.fairness import Fairness
from palate.rerank.freshness import Freshness
from palate.rerank.mmr import MMR
from palate.rerank.objectives import Objectives
from palate.rerank.thompson import Thompson
from palate.rerank.watch_next import WatchNext
from palate.types import Candidates, Log, Queries, Request

CASES: tuple[tuple[Reranker, int], ...] = (
    (Constraints(rules=('genres != "Horror"',), caps={"genres": 4}), 10),
    (Objectives(formulas={"engagement": "click + 0.1 * log1p(watch)", "satisfaction": "rating"}, weights={"satisfaction": 0.5}), 10),
    (WatchNext(probability="ranker.click", time="events"), 10),
    (Freshness(column="year", half_life_days=1000), 10),
    (Demotion(), 10),
    (MMR(), 10),
    (MMR(pool=None, name="mmr, pool of all"), 10),
    (DPP(), 10),
    (DPP(pool=None, name="dpp, pool of all"), 10),
    (Calibrated(), 10),
    (Fairness(column="genres", bounds={"Documentary": (0.1, 1.0), "Drama": (0.0, 0.4)}), 10),
    (EpsilonGreedy(), 10),
    (EpsilonGreedy(), 100),
    (ExploreCategory(), 10),
    (Boltzmann(pool=50, name="boltzmann, pool of 50"), 10),
    (Boltzmann(), 10),
    (Boltzmann(), 100),
    (Thompson(pool=50, name="thompson, pool of 50"), 10),
    (Thompson(), 10),
    (Thompson(), 100),
)


def requests(log: Log, candidates: int, count: int, seed: int) -> Iterator[tuple[Queries, Candidates]]:
    """One query and its list at a time: a person of the log, `candidates` films, some of them seen in vain."""
    rng, history = np.random.default_rng(seed), History.of(log)
    for user in rng.integers(0, log.n_users, count):
        items = rng.permutation(log.n_items)[None, :candidates].astype(np.int32)
        scores = -np.sort(-rng.gamma(1, size=(1, candidates))).astype(np.float32)
        chance = 1 / (1 + np.exp(3 - scores))
        columns = {
            "ranker.click": chance,
            "ranker.watch": 100 * rng.random(scores.shape),
            "ranker.rating": 1 + 4 * rng.random(scores.shape),
        }
        seen = {str(item): 2.0 for item in items[0, : candidates // 10]}
        queries = with_brought(history.queries(np.array([user])), [Request(context={IMPRESSIONS: seen})], int)
        told = Candidates.of(items, scores, "benchmark")
        yield queries, replace(told, features={name: column.astype(np.float32) for name, column in columns.items()})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--candidates", type=int, default=450)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--only", default="", help="names of files, commas between")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    log = palate.read("movielens-small")
    asked = list(requests(log, given.candidates, given.requests, given.seed))
    for reranker, k in CASES:
        file = type(reranker).__module__.rpartition(".")[2]
        if given.only and file not in given.only.split(","):
            continue
        fitted = reranker.fit(log)
        taken, processor = [], time.process_time()
        some = asked if k <= 10 else asked[: max(1, len(asked) // 10)]
        for place, (queries, candidates) in enumerate([some[0], *some]):
            start = time.perf_counter()
            fitted.rerank(queries, candidates, k)
            if place:
                taken.append(time.perf_counter() - start)
        result = {
            "benchmark": "rerank",
            "reranker": reranker.name,
            "candidates": given.candidates,
            "k": k,
            "requests": len(some),
            "p50_ms": round(1e3 * float(np.quantile(taken, 0.5)), 3),
            "p99_ms": round(1e3 * float(np.quantile(taken, 0.99)), 3),
            "processor_ms": round(1e3 * (time.process_time() - processor) / (len(some) + 1), 3),
        }
        print(json.dumps({**result, "python": platform.python_version(), "machine": platform.machine()}), flush=True)


if __name__ == "__main__":
    main()
