"""The text format of Avazu's click-through-rate challenge: `train.gz`, ten days of October 2014 in order, with a header.

A line is an impression: id, click, hour (YYMMDDHH), then 21 categorical values, as numbers or hashes, separated by commas. The id is left
out; the hour becomes three features: hour of the day, day of the week (0 is Monday), and whether that is a weekend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from palate.data.clicks import Format, Keys
from palate.data.fields import Split, integers

CATEGORIES = (
    "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category", "device_id", "device_ip",
    "device_model", "device_type", "device_conn_type", "C14", "C15", "C16", "C17", "C18", "C19", "C20", "C21",
)  # fmt: skip
HOUR = 2
FROM_THE_HOUR = ("hour", "weekday", "is_weekend")


@dataclass(frozen=True)
class AvazuFormat(Format):
    """Avazu's lines, with the features that are made of the hour before the others."""

    @property
    def sparse_names(self) -> tuple[str, ...]:
        return (*FROM_THE_HOUR, *super().sparse_names)

    def keys(self, piece: Split) -> Keys:
        """Those of the columns, after hour + 1, weekday + 1 and is_weekend + 1 (0 is a missing value)."""
        rest = super().keys(piece)
        made, bad = hour_features(piece, HOUR)
        return Keys(
            np.concatenate([made, rest.keys], axis=1),
            np.concatenate([np.zeros(made.shape, dtype=np.bool_), rest.missing], axis=1),
            bad[:, None],
            (HOUR,),
            "not a moment as YYMMDDHH",
        )


def hour_features(piece: Split, column: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[Any]]:
    """uint64 [R, 3], and which are no moments. A moment is looked up once for all rows that share it."""
    values, bad = integers(piece, [column])
    moments, which = np.unique(values, return_inverse=True)
    month = 200_000 + moments // 10_000
    day, hour = moments // 100 % 100, moments % 100
    sound = (moments >= 1_000_000) & (month // 100 < 2100) & (month % 100 >= 1) & (month % 100 <= 12) & (day >= 1) & (hour < 24)
    months = np.where(sound, (month // 100 - 1970) * 12 + month % 100 - 1, 0)
    days = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) + day - 1
    sound &= days < (months + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    weekday = (days + 3) % 7  # the first of January 1970 was a Thursday
    made = np.stack([hour, weekday, weekday >= 5], axis=1).astype(np.int64) + 1
    return made[which].astype(np.uint64), bad | ~sound[which]


AVAZU = AvazuFormat(
    "avazu", ("id", "click", "hour", *CATEGORIES), 1, (), tuple(range(3, 24)), separator=",", header="maybe", days=10, hex_keys=False
)
