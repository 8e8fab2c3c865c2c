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
        {"similarity": "cosine", "neighbours": 100},
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
    Entry("ease", "EASE", "ease", {"l2": 300.0}, note=NONE, random=False, grid=tuple({"l2": l2} for l2 in (100.0, 600.0, 1000.0, 2000.0))),
)

TABLE = Table(
    name="bars-movielens1m",
    title="MovieLens 1M, the split of BARS",
    source="Mao et al. 2021, UltraGCN, on these files",
    protocol="full_ranking",
    data="bars/movielens1m_m1",
    entries=ENTRIES,
    metrics=("recall@20", "ndcg@20"),
    words="Every item that the user has not in train is ranked. Settings are chosen on items held out of train.",
    others=(Published("UltraGCN", {"recall@20": 0.2787, "ndcg@20": 0.2642}),),
)
