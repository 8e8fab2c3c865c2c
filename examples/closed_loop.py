"""The loop closed in small: people of a planted world are served, click, and are learnt from; with exploration and without."""

from pathlib import Path

import palate
from palate.rerank.thompson import Thompson
from palate.testing.simulator import closed_loop, scene

# A site that showed everybody the same twenty of 120 items for a month. Some found other items by themselves.
start = scene(users=800, items=120, shown=20, visits=60, found=120, seed=4)
print(f"{len(start.log.positives())} clicks to begin with; {len(start.tail)} of {start.log.n_items} items were never shown to anybody\n")

for name, rerank in (("explore", [Thompson(relevance="rank")]), ("exploit", [])):
    retrieve = [palate.Popular(quota=120), palate.EASE(l2=30, quota=120)]
    bundle = palate.Recommender(retrieve, rerank=rerank, candidates=120).fit(start.log).save(Path(name))
    print(f"{name:8} pages clicked     tail shown  tail clicked  palate learn")
    for lap in closed_loop(bundle, f"{name}.db", start, rounds=2, visits=200):
        pages = f"{lap.pages.value:.0%} +- {1.96 * lap.pages.error:.0%}"
        print(f"round {lap.number}  {pages:16} {lap.shown:11.0%} {lap.clicked:13.0%}  {lap.action}")
    print()
