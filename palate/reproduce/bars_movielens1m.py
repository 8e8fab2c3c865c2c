"""MovieLens 1M in the split of BARS (movielens1m_m1), every item ranked: 6,022 users, 3,043 items, 796,244 training and 99,455 test pairs.

Published: UltraGCN's figures on these very files (Mao et al. 2021, "UltraGCN: Ultra Simplification of Graph Convolutional Networks for
Recommendation").
"""

from __future__ import annotations

from palate.reproduce.base import Entry, Published, Table
from palate.reproduce.gowalla import NEAR_ITEMS, NEAR_USERS

NONE = "no published figure on these files"

ENTRIES = (
    Entry("popular", "Popular", "popular", {}, note=NONE, random=False),
    Entry(
        "item_knn",
        "ItemCF",
        "item_knn",
        {"similarity": "tfidf", "neighbours": 100},
        note=NONE,
        random=False,
        grid=NEAR_ITEMS,
    ),
    Entry(
        "user_knn",
        "UserCF",
        "user_knn",
        {"similarity": "cosine", "neighbours": 100},
        note=NONE,
        random=False,
        grid=NEAR_USERS,
    ),
    Entry("ease", "EASE", "ease", {"l2": 600.0}, note=NONE, random=False, grid=tuple({"l2": l2} for l2 in (100.0, 300.0, 1200.0))),
    Entry(
        "slim",
        "SLIM",
        "slim",
        {"l1": 1.0, "l2": 200.0, "neighbours": None},
        note=NONE,
        random=False,
        grid=tuple({"l1": l1, "l2": l2} for l1 in (1.0, 5.0) for l2 in (100.0, 500.0)),
    ),
    Entry("gf_cf", "GF-CF", "graph_filter", {"sharpen": 0.0, "rank": 128}, note=NONE, grid=({"ideal": 0.1}, {"ideal": 0.5})),
    Entry("bspm", "BSPM", "graph_filter", {"sharpen": 2.5, "rank": 448}, note=NONE, grid=({"sharpen": 1.0}, {"ideal": 0.3})),
    Entry(
        "ials",
        "iALS",
        "als",
        {"width": 128, "alpha": 10.0, "l2": 100.0},
        note=NONE,
        grid=tuple({"alpha": alpha, "l2": l2} for alpha in (3.0, 10.0, 30.0) for l2 in (30.0, 100.0, 300.0)),
    ),
    Entry(
        "mf_softmax",
        "MF, softmax",
        "mf",
        {"width": 128, "loss": "softmax", "negatives": "all", "l2": 0.08, "train": {"epochs": 40, "schedule": "linear"}},
        note=NONE,
        grid=({"l2": 0.05}, {"l2": 0.07}, {"l2": 0.1}),
    ),
)

TABLE = Table(
    name="bars-movielens1m",
    title="MovieLens 1M, the split of BARS",
    source="Mao et al. 2021, UltraGCN, on these files",
    protocol="full_ranking",
    data="bars/movielens1m_m1",
    entries=ENTRIES,
    metrics=("recall@20", "ndcg@20"),
    words="Every item that the user has not in train is ranked. `--tune` chooses settings on items held out of train.",
    others=(Published("UltraGCN", {"recall@20": 0.2787, "ndcg@20": 0.2642}),),
)
