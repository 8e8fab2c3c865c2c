"""How well and how quickly the retrievers answer: leave-last-one-out, every item ranked, seen items removed. Prints one JSON line.

    python benchmarks/retrieve.py movielens-small [--validation]

With --validation the second last event of each user is the one to find, and the last is left out altogether: for choosing settings.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time

import numpy as np

from palate.data.log import read
from palate.data.split import split
from palate.features.history import History
from palate.retrieve.base import Retriever
from palate.retrieve.ease import EASE
from palate.retrieve.item_knn import ItemKNN
from palate.retrieve.merge import merge
from palate.retrieve.popular import Popular
from palate.retrieve.user_knn import UserKNN
from palate.types import Candidates

K = 200


def retrievers() -> list[Retriever]:
    return [
        Popular(),
        Popular(name="popular, recent", by="recent", half_life_days=180),
        UserKNN(),
        UserKNN(name="user_knn, fading", half_life=10, neighbours=20),
        ItemKNN(),
        ItemKNN(name="item_knn, cosine", similarity="cosine"),
        ItemKNN(name="item_knn, bm25", similarity="bm25"),
        ItemKNN(name="item_knn, fading", half_life=5),
        EASE(),
        EASE(name="ease, fading", l2=500, half_life=5),
        ItemKNN(name="next_item", similarity="sequential"),
    ]


def quality(candidates: Candidates, wanted: np.ndarray) -> dict[str, float]:
    """One wanted item a query."""
    found = candidates.items == wanted[:, None]
    rank = np.where(found.any(axis=1), found.argmax(axis=1), np.iinfo(np.int32).max)
    gain = np.where(rank < 10, 1 / np.log2(np.minimum(rank, 10) + 2.0), 0.0)
    return {
        "hr@10": round(float((rank < 10).mean()), 4),
        "ndcg@10": round(float(gain.mean()), 4),
        "hr@200": round(float((rank < K).mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", default="movielens-small")
    parser.add_argument("--validation", action="store_true")
    arguments = parser.parse_args()
    log = read(arguments.source)
    train, test = split(log, "leave-last-out")
    if arguments.validation:
        train, test = split(train, "leave-last-out")
    queries, wanted = History.of(train).queries(test.user_codes), test.item_codes
    table: dict[str, dict[str, float]] = {}
    lists = []
    for retriever in retrievers():
        start = time.perf_counter()
        retriever.fit(train)
        fitted = time.perf_counter()
        candidates = retriever.retrieve(queries, K)
        answered = time.perf_counter()
        state = retriever.state()
        table[retriever.name] = {
            **quality(candidates, wanted),
            "fit_s": round(fitted - start, 2),
            "retrieve_ms_per_query": round(1000 * (answered - fitted) / len(queries), 3),
            "state_mb": round(sum(array.nbytes for array in state.arrays.values()) / 1e6, 1),
        }
        if retriever.name in ("popular", "ease, fading", "next_item", "item_knn, fading"):
            lists.append(candidates)
    start = time.perf_counter()
    merged = merge(lists, [K] * len(lists), 2 * K)
    table["merged"] = {**quality(merged, wanted), "merge_ms_per_query": round(1000 * (time.perf_counter() - start) / len(queries), 3)}
    print(
        json.dumps(
            {
                "benchmark": "retrieve",
                "source": arguments.source,
                "validation": arguments.validation,
                "checksum": log.checksum,
                "users": len(queries),
                "items": log.n_items,
                "events": len(train),
                "cores": os.cpu_count(),
                "processor": platform.processor() or platform.machine(),
                "table": table,
            }
        )
    )


if __name__ == "__main__":
    main()
