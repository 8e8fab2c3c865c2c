"""The loop closed on the planted world, with exploration and without: page-level click rate and coverage of the long tail, round by round.

    python benchmarks/closed_loop.py --seeds 8

Prints one JSON line for each world and policy. Everything a service does is done: slates and events go through a real store, and each round
ends with `palate learn`. What people click is known; what the policies know is what they saw clicked.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import tempfile
import time
from pathlib import Path

import palate
from palate.feedback import ab
from palate.rerank.base import Reranker
from palate.rerank.thompson import Thompson
from palate.testing.simulator import closed_loop, scene


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--visits", type=int, default=400)
    parser.add_argument("--deviation", type=float, default=0.3)
    given = parser.parse_args()
    policies: dict[str, list[Reranker]] = {"thompson": [Thompson(relevance="rank", deviation=given.deviation)], "none": []}
    for seed in range(given.first, given.first + given.seeds):
        start = scene(given.users, given.items, seed=seed)
        for name, rerank in policies.items():
            began = time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                retrieve = [palate.Popular(quota=given.items), palate.EASE(l2=30, quota=given.items)]
                bundle = palate.Recommender(retrieve, rerank=rerank, candidates=given.items).fit(start.log).save(Path(folder) / "site")
                laps = closed_loop(bundle, Path(folder) / "events.db", start, rounds=given.rounds, visits=given.visits, seed=seed)
            gain = ab.difference(laps[-1].pages, laps[0].pages)
            result = {
                "benchmark": "closed_loop",
                "seed": seed,
                "exploration": name,
                "page_ctr": [round(lap.pages.value, 3) for lap in laps],
                "tail_shown": [round(lap.shown, 3) for lap in laps],
                "tail_clicked": [round(lap.clicked, 3) for lap in laps],
                "learn": [lap.action for lap in laps],
                "last_minus_first": [round(value, 3) for value in (gain.value, gain.low, gain.high)],
                "processor_s": round(time.process_time() - began, 1),
            }
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
