"""The comparison of the DeepFM paper, its nine models, on Frappe_x1.

Guo et al. 2017, "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", table 2. The paper's own figures are on Criteo
and on a private data set; on this data the models of BARS have figures, which are shown where there are some.
"""

from __future__ import annotations

from dataclasses import replace

from palate.reproduce.base import Entry, Table
from palate.reproduce.frappe_x1 import ENTRIES, MD5, deep
from palate.reproduce.frappe_x1 import TABLE as FRAPPE

_OF = {entry.key: entry for entry in ENTRIES}

TABLE = Table(
    name="deepfm-paper",
    title="The DeepFM paper's comparison, on Frappe_x1",
    source="Guo et al. 2017, table 2 (models); BARS, frappe_x1 (figures)",
    protocol="clicks",
    data=FRAPPE.data,
    entries=(
        *(_OF[key] for key in ("lr", "fm", "fnn", "ipnn", "opnn", "pnn")),
        replace(_OF["wide_deep"], key="lr_dnn", model="LR & DNN"),
        Entry("fm_dnn", "FM & DNN", "wide_deep", deep(0.1, 0.6, wide_part="fm"), note="the FM has tables of its own"),
        _OF["deepfm"],
    ),
    md5=MD5,
    url=FRAPPE.url,
)
