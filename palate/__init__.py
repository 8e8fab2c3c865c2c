"""Palate: from an event log to a served slate of recommendations, and back.

    import palate
    train, test = palate.split(palate.read("movielens-small"), "leave-last-out")
    rec = palate.Recommender(retrieve=["popular", "ease"], rank="gbdt").fit(train)

Names load when they are first used, so that `import palate` is quick and brings no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palate.config import Training as Training
    from palate.data.log import read as read
    from palate.data.split import split as split
    from palate.errors import PalateError as PalateError
    from palate.features.spec import FeatureSet as FeatureSet
    from palate.funnel import Funnel as Funnel
    from palate.rank.dlrm import DLRM as DLRM
    from palate.rank.gbdt import GBDT as GBDT
    from palate.rank.lr import LR as LR
    from palate.recommender import Recommender as Recommender
    from palate.rerank.constraints import Constraints as Constraints
    from palate.rerank.mmr import MMR as MMR
    from palate.retrieve.ease import EASE as EASE
    from palate.retrieve.graph_filter import GraphFilter as GraphFilter
    from palate.retrieve.item_knn import ItemKNN as ItemKNN
    from palate.retrieve.popular import Popular as Popular
    from palate.retrieve.slim import SLIM as SLIM
    from palate.retrieve.two_tower import TwoTower as TwoTower
    from palate.retrieve.user_knn import UserKNN as UserKNN
    from palate.types import Log as Log
    from palate.types import Request as Request
    from palate.types import Slate as Slate

__version__ = "0.1.0"

_HOME = {
    "DLRM": "palate.rank.dlrm",
    "EASE": "palate.retrieve.ease",
    "GBDT": "palate.rank.gbdt",
    "GraphFilter": "palate.retrieve.graph_filter",
    "LR": "palate.rank.lr",
    "MMR": "palate.rerank.mmr",
    "SLIM": "palate.retrieve.slim",
    "Constraints": "palate.rerank.constraints",
    "FeatureSet": "palate.features.spec",
    "Funnel": "palate.funnel",
    "ItemKNN": "palate.retrieve.item_knn",
    "Log": "palate.types",
    "PalateError": "palate.errors",
    "Popular": "palate.retrieve.popular",
    "Recommender": "palate.recommender",
    "Request": "palate.types",
    "Slate": "palate.types",
    "Training": "palate.config",
    "TwoTower": "palate.retrieve.two_tower",
    "UserKNN": "palate.retrieve.user_knn",
    "read": "palate.data.log",
    "split": "palate.data.split",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"palate has no {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*_HOME, "__version__"])
