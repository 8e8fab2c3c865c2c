"""Open Bandit: impressions of a fashion shop under two policies, with the probability of each (Saito, Aihara, Matsutani, Narita 2021,
"Open Bandit Dataset and Pipeline: Towards Realistic and Reproducible Off-Policy Evaluation", NeurIPS datasets track).

For a week two policies served side by side, each its own share of requests: `random` (every item alike) and `bts` (Thompson sampling with
Beta posteriors, which learns as it goes and does not look at the person). So what one policy earns can be estimated from the other's log,
and the truth is in its own. The small version that the authors publish beside their code (10,000 impressions of each policy and campaign)
is looked for in the folder PALATE_DATA/obd, then in the cache; it is not fetched: no licence of the data says that it may be.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from palate.data.sources.download import local_folder
from palate.types import DataError, Longs

Policy = Literal["random", "bts"]
Campaign = Literal["men", "women"]
ITEMS: dict[str, int] = {"men": 34, "women": 46}
PLACES = 3
NAMES = {"timestamp": pl.String, "item_id": pl.Int64, "position": pl.Int64, "click": pl.Int64, "propensity_score": pl.Float64}
PERSON = tuple(f"user_feature_{number}" for number in range(4))


@dataclass(frozen=True)
class Impressions:
    """R impressions in the order of time.

    frame: `time` (Datetime us, UTC), `item` (Int64, 0 ... n_items - 1), `position` (Int64, 0 left, 1 middle, 2 right), `click` (0 or 1),
    `propensity` (that the policy shows this item at this place at this moment), `person` (the four hashed traits as one text: the files
    have no user ids). checksum: sha256 of the file.
    """

    frame: pl.DataFrame
    policy: Policy
    campaign: Campaign
    n_items: int
    checksum: str

    def __len__(self) -> int:
        return self.frame.height

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """A column of numbers as float64 [R]."""
        return self.frame[name].cast(pl.Float64).to_numpy()

    def codes(self, name: str) -> Longs:
        """`item` or `position` as int64 [R]."""
        return self.frame[name].to_numpy().astype(np.int64)


def load(policy: Policy, campaign: Campaign) -> Impressions:
    """One policy's log of one campaign. Raises DataError if the files are not there or damaged. Cost: 0.1 s."""
    if policy not in get_args(Policy) or campaign not in get_args(Campaign):
        raise DataError(f"obd: no such log {policy!r} of {campaign!r}; there are random and bts, of men and women")
    needed = tuple(f"{one}_{other}.csv" for one in get_args(Policy) for other in get_args(Campaign))
    folder = local_folder("obd", (needed,))
    if folder is None:
        raise DataError(
            f"obd: found no folder obd with {', '.join(needed)}; get obd/ of st-tech/zr-obp and set PALATE_DATA to the folder above it"
        )
    return read(folder / f"{policy}_{campaign}.csv", policy, campaign)


def read(path: Path, policy: Policy, campaign: Campaign) -> Impressions:
    """One file of the set."""
    content = path.read_bytes()
    try:
        raw = pl.read_csv(content, columns=[*NAMES, *PERSON], schema_overrides=NAMES | dict.fromkeys(PERSON, pl.String))
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise DataError(f"{path.name}: cannot be read as a log of Open Bandit: {str(error).splitlines()[0]}; get the file again") from None
    moment = pl.col("timestamp").str.strip_suffix("+00:00")
    times = moment.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", time_zone="UTC", strict=False)
    frame = raw.select(
        time=times,
        item="item_id",
        position=pl.col("position") - 1,
        click="click",
        propensity="propensity_score",
        person=pl.concat_str(PERSON, separator="/"),
    )
    sound = {
        "timestamp": pl.col("time").is_not_null(),
        "item_id": pl.col("item").is_between(0, ITEMS[campaign] - 1),
        "position": pl.col("position").is_between(0, PLACES - 1),
        "click": pl.col("click").is_in([0, 1]),
        "propensity_score": (pl.col("propensity") > 0) & (pl.col("propensity") <= 1),
        "user_feature": pl.col("person").is_not_null(),
    }
    for name, rule in sound.items():
        bad = frame.with_row_index().filter(~rule.fill_null(False))["index"]
        if len(bad):
            raise DataError(
                f"{path.name}: row {bad[0] + 1}: column {name} is missing or out of range ({len(bad)} such rows); get the file again"
            )
    ordered = frame.sort("time", maintain_order=True)
    return Impressions(ordered, policy, campaign, ITEMS[campaign], hashlib.sha256(content).hexdigest())
