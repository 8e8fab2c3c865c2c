"""Frappe_x1: app use in context, the smallest of the open CTR benchmark's data sets, and the one where every model has a published figure.

The published figures are those of BARS (Zhu et al. 2022, "BARS: Towards Open Benchmarking for Recommender Systems"; its CTR leaderboard):
`auc` and `logloss` are its headline run (seed 2021), `auc_mean`, `auc_std` and `logloss_mean` its five seeds where it gives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palate.reproduce.base import Entry, Table

DEEP = (400, 400, 400)


def settings(l2: float, **own: Any) -> dict[str, Any]:
    """The recipe that all entries share: dense Adam, L2 over whole tables, a tenth of the rate after a validation without gain."""
    train: dict[str, Any] = {
        "epochs": 100, "batch_size": 4096, "sparse": "dense", "dense": "adam", "lr": 1e-3, "l2": l2, "clip": 10.0, "schedule": "plateau",
        "factor": 0.1, "patience": 2, "monitor": "auc",
    }  # fmt: skip
    return {"width": 10, "init": "normal", "init_std": 1e-4, "train": train | own.pop("train", {}), **own}


def deep(l2: float, dropout: float, *, batch_norm: bool = True, **own: Any) -> dict[str, Any]:
    """The same with the network 400-400-400."""
    return settings(l2, layers=DEEP, dropout=dropout, batch_norm=batch_norm, **own)


def bars(auc: float, logloss: float, auc_mean: float | None = None, auc_std: float = 0.0, logloss_mean: float = 0.0) -> Mapping[str, float]:
    """A line of the leaderboard."""
    seeds = {} if auc_mean is None else {"auc_mean": auc_mean, "auc_std": auc_std, "logloss_mean": logloss_mean}
    return {"auc": auc, "logloss": logloss, **seeds}


CAPPED = "the published run was cut off at 100 epochs, before it had converged"

ENTRIES = (
    Entry("lr", "LR", "lr", settings(1e-5, width=1), bars(0.9356, 0.3076), CAPPED),
    Entry("fm", "FM", "fm", settings(5e-6), bars(0.9671, 0.2065), CAPPED),
    Entry(
        "fnn",
        "FNN",
        "fnn",
        deep(0.05, 0.2, activation="relu", pretrain_epochs=15, pretrain_l2=5e-6),
        note="no published figure on this data",
    ),
    Entry("ipnn", "IPNN", "pnn", deep(0.05, 0.3, batch_norm=False, product="inner"), bars(0.9841, 0.1540)),
    Entry("opnn", "OPNN", "pnn", deep(0.05, 0.3, batch_norm=False, product="outer"), note="no published figure on this data"),
    Entry("pnn", "PNN*", "pnn", deep(0.05, 0.3, batch_norm=False, product="both"), note="no published figure on this data"),
    Entry("wide_deep", "Wide & Deep", "wide_deep", deep(0.1, 0.6), bars(0.9841, 0.1490, 0.9831, 0.0008, 0.1540)),
    Entry("deepfm", "DeepFM", "deepfm", deep(0.05, 0.2), bars(0.9842, 0.1482, 0.9839, 0.0002, 0.1495)),
    Entry("dcn", "DCN", "dcn", deep(0.05, 0.2, cross=3), bars(0.9839, 0.1527, 0.9834, 0.0003, 0.1507)),
    Entry("dcn_v2", "DCN-v2", "dcn_v2", deep(0.05, 0.4, cross=4, structure="parallel"), bars(0.9845, 0.1491, 0.9838, 0.0004, 0.1520)),
    Entry("xdeepfm", "xDeepFM", "xdeepfm", deep(0.1, 0.2, cin=(64,)), bars(0.9845, 0.1466, 0.9841, 0.0004, 0.1461)),
    Entry(
        "autoint",
        "AutoInt+",
        "autoint",
        deep(0.1, 0.1, depth=5, attention=128, heads=4, layer_norm=True, scale=True),
        bars(0.9848, 0.1490),
    ),
    Entry(
        "dlrm",
        "DLRM (cat)",
        "dlrm",
        settings(0.1, interaction="cat", bottom=(), top=DEEP, dropout=0.4, batch_norm=True),
        bars(0.9840, 0.1444),
        "without products: the published DLRM of this table is a plain network",
    ),
    Entry(
        "dlrm_dot",
        "DLRM (dot)",
        "dlrm",
        settings(0.1, interaction="dot", bottom=(), top=DEEP, dropout=0.4, batch_norm=True),
        note="no published figure on this data",
    ),
    Entry(
        "masknet",
        "MaskNet",
        "masknet",
        deep(0.1, 0.1, batch_norm=False, structure="parallel", blocks=(50, 50, 50), ratio=2.0, embedding_norm=False),
        bars(0.9837, 0.1696),
    ),
    Entry(
        "final_mlp",
        "FinalMLP",
        "final_mlp",
        settings(
            0.05,
            mlp1=(400,),
            mlp2=(100,),
            dropout1=0.4,
            dropout2=0.4,
            batch_norm=True,
            heads=5,
            fs_hidden=(400,),
            fs1_context=("user",),
            fs2_context=("item",),
        ),
        bars(0.9861, 0.1484),
    ),
    Entry(
        "wukong",
        "Wukong",
        "wukong",
        settings(0.1, bottom=(), top=DEEP, dropout=0.4, batch_norm=True),
        note="the paper gives .9868 on this data, with wider tables",
    ),
    Entry(
        "dhen",
        "DHEN",
        "dhen",
        settings(0.1, bottom=(), top=DEEP, dropout=0.4, batch_norm=True),
        note="no published figure on any public data",
    ),
)

MD5 = {
    "train.csv": "ba7306e6c4fc19dd2cd84f2f0596d158",
    "valid.csv": "88d51bf2173505436d3a8f78f2a59da8",
    "test.csv": "3470f6d32713dc5f7715f198ca7c612a",
}

TABLE = Table(
    name="frappe-x1",
    title="Frappe_x1",
    source="BARS, CTR leaderboard (5b5e61f), frappe_x1",
    protocol="clicks",
    data="frappe_x1",
    entries=ENTRIES,
    md5=MD5,
    url="https://huggingface.co/datasets/reczoo/Frappe_x1/resolve/main/Frappe_x1.zip",
)
