"""Gowalla check-ins in LightGCN's split, every item ranked: 29,858 users, 40,981 items, 810,128 training and 217,242 test pairs.

The published figures are those of BARS (Zhu et al. 2022, "BARS: Towards Open Benchmarking for Recommender Systems"; its matching
leaderboard of November 2024), which reports one run of each model, settings chosen on the test items. Lines that BARS lacks say where
they were read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from palate.reproduce.base import Entry, Published, Table


def bars(recall: float, ndcg: float) -> Mapping[str, float]:
    """A line of the leaderboard: Recall@20, nDCG@20."""
    return {"recall@20": recall, "ndcg@20": ndcg}


SECOND_HAND = "read in a later paper, not at the source"


def neighbours(similarities: Sequence[str], counts: Sequence[int]) -> tuple[Mapping[str, Any], ...]:
    """Every similarity with every number of neighbours."""
    return tuple({"similarity": similarity, "neighbours": count} for similarity in similarities for count in counts)


NEAR_ITEMS = neighbours(("cosine", "jaccard", "tfidf", "bm25"), (20, 50, 100, 400))
NEAR_USERS = neighbours(("cosine", "jaccard", "tfidf"), (50, 100, 400))

ENTRIES = (
    Entry("popular", "Popular", "popular", {}, note="no published figure on this data", random=False),
    Entry(
        "item_knn",
        "ItemCF",
        "item_knn",
        {"similarity": "cosine", "neighbours": 100},
        bars(0.1570, 0.1214),
        random=False,
        grid=NEAR_ITEMS,
    ),
    Entry(
        "user_knn",
        "UserCF",
        "user_knn",
        {"similarity": "cosine", "neighbours": 100},
        note="no published figure on this data",
        random=False,
        grid=NEAR_USERS,
    ),
    Entry(
        "ease",
        "EASE",
        "ease",
        {"l2": 80.0, "max_items": 50_000},
        bars(0.1765, 0.1467),
        random=False,
        grid=tuple({"l2": l2} for l2 in (40.0, 150.0, 300.0, 600.0)),
    ),
)

OTHERS = (
    Published("MF-BPR", bars(0.1627, 0.1378)),
    Published("SLIM", bars(0.1699, 0.1382)),
    Published("Item2Vec", bars(0.1326, 0.1057)),
    Published("CML", bars(0.1670, 0.1292)),
    Published("YoutubeDNN", bars(0.1754, 0.1473)),
    Published("NeuMF", bars(0.1399, 0.1212), "as reported by the authors of NGCF"),
    Published("Mult-VAE", bars(0.1641, 0.1335)),
    Published("NGCF", bars(0.1570, 0.1327)),
    Published("LightGCN", bars(0.1820, 0.1547)),
    Published("UltraGCN", bars(0.1862, 0.1580)),
    Published("SimpleX", bars(0.1872, 0.1557)),
    Published("GF-CF", bars(0.1849, 0.1518)),
    Published("NESCL", bars(0.1917, 0.1617), SECOND_HAND),
    Published("BSPM-EM", bars(0.1920, 0.1597), SECOND_HAND),
)

TABLE = Table(
    name="gowalla",
    title="Gowalla",
    source="BARS, matching leaderboard (November 2024), gowalla_m1",
    protocol="full_ranking",
    data="gowalla",
    entries=ENTRIES,
    metrics=("recall@20", "ndcg@20"),
    words="LightGCN's split; every item that the user has not in train is ranked. Settings are chosen on items held out of train.",
    others=OTHERS,
)
