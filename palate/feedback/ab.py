"""A/B tests: who sees what, what came of it, and when it may be believed.

    assign        a user's number in [0, 1), hashed with the layer's salt, falls into the slice of at most one experiment of the layer; a
                  second hash, with the experiment's salt, draws the arm. Layers cross evenly. Tang et al. 2010 (KDD), section 4.
    rate          sum of y / sum of x over n users, by the delta method: variance (s_yy - 2 m s_xy + m^2 s_xx) / (n mean(x)^2) with m the
                  rate. Deng, Knoblich, Lu 2018 (KDD), section 3. Item-level CTR is clicks / items shown, page-level CTR pages with a
                  click / pages: the second does not fall when a slate grows longer, and a first click counts more than a second.
    difference    of two arms, with the fixed interval, right for one look that was planned, and the one that holds at all looks together:
                  se sqrt(2 (n r + 1) / (n r) log(sqrt(n r + 1) / a)), n users of both arms, a = 1 - level, and
                  r = (-2 log a + log(-2 log a) + 1) / narrowest, which makes it narrowest at that many users. Waudby-Smith, Arbour, Sinha,
                  Kennedy, Ramdas 2024 (Annals of Statistics), theorem 2.2 and section 3: the normal mixture of Howard, Ramdas, McAuliffe,
                  Sekhon 2021 (Annals of Statistics) with the variance estimated, so true in the limit: look first at some hundred users.
    sample_ratio  do the arms have the shares that were set? If not, believe nothing else. Chi-squared (Fabijan et al. 2019, KDD), and a
                  p-value that holds at all looks together (Lindon, Malek 2022, NeurIPS: a Dirichlet mixture against the shares set).
    return_days   L7, L28: on how many of the 7 or 28 days after the first one a person came back.

A user is the unit of everything: drawn once, counted once, however many pages he sees. The interval for all looks supposes that a user's
numbers do not change after he was first counted; so count each over a window of fixed length, and only when that is over.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pydantic
from scipy.special import gammaincc

from palate import config
from palate.features.spec import DAY
from palate.types import ConfigError, DataError

Doubles = npt.NDArray[np.float64]
METRICS: Mapping[str, tuple[str, str]] = {"item_ctr": ("clicks", "items"), "page_ctr": ("clicked_pages", "pages")}
"""Numerator and denominator among the columns of `by_user`."""


# -- who sees what --------------------------------------------------------------------------------------------------------------------


class Experiment(config.Config):
    """arms: name and share of each, any positive numbers. start, stop: its slice [start, stop) of the layer's users.

    salt: what its arms are drawn with; None is its name. While it runs leave arms, shares, slice and salt as they are: any change moves
    people from one arm to another.
    """

    name: str = pydantic.Field(min_length=1)
    arms: dict[str, float] = pydantic.Field(min_length=2)
    start: float = pydantic.Field(0.0, ge=0, lt=1)
    stop: float = pydantic.Field(1.0, gt=0, le=1)
    salt: str | None = None

    @pydantic.model_validator(mode="after")
    def _something_to_draw(self) -> Self:
        for arm, share in self.arms.items():
            if not (share > 0 and math.isfinite(share)):
                raise ValueError(f"arms: the share of {arm!r} is {share:g}, it must be above 0; leave out an arm that nobody is to see")
        if self.start >= self.stop:
            raise ValueError(f"start {self.start:g} must lie below stop {self.stop:g}")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Shares that add to 1, by name of the arm in the order of the alphabet (so that the order of a recipe moves nobody)."""
        total = sum(self.arms.values())
        return {arm: self.arms[arm] / total for arm in sorted(self.arms)}

    def arm(self, user: str) -> str:
        """The arm of a user who is in this experiment."""
        number, reached = unit(f"arm:{self.salt or self.name}", user), 0.0
        for arm, share in self.shares.items():
            reached += share
            if number < reached:
                return arm
        return arm  # rounding left the last sum below 1


class Layer(config.Config):
    """Experiments of which a user is in one at most. salt: of the layer; None is its name."""

    name: str = pydantic.Field(min_length=1)
    experiments: tuple[Experiment, ...]
    salt: str | None = None

    @pydantic.model_validator(mode="after")
    def _slices_that_do_not_overlap(self) -> Self:
        names = [experiment.name for experiment in self.experiments]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"experiments: two are called {name!r}")
        ordered = sorted(self.experiments, key=lambda experiment: experiment.start)
        for before, after in pairwise(ordered):
            if after.start < before.stop:
                raise ValueError(
                    f"experiments: {before.name!r} ends at {before.stop:g} and {after.name!r} starts at {after.start:g}: they "
                    "overlap; give them slices apart, or layers of their own"
                )
        return self

    def assign(self, user: str) -> tuple[str, str] | None:
        """The user's experiment and arm, or None if no experiment has him. The same in every process, for ever. Cost: 3 microseconds.

        >>> layer = Layer(name="rerank", experiments=(Experiment(name="mmr", arms={"off": 1, "on": 1}, stop=0.5),))
        >>> [layer.assign(user) for user in ("ann", "bob", "cid")]
        [None, ('mmr', 'off'), ('mmr', 'off')]
        """
        number = unit(f"layer:{self.salt or self.name}", user)
        for experiment in self.experiments:
            if experiment.start <= number < experiment.stop:
                return experiment.name, experiment.arm(user)
        return None


def layers(given: Sequence[Layer]) -> tuple[Layer, ...]:
    """Layers that cross evenly. ConfigError if two have one salt (their users would move together), or if an experiment is in two."""
    for what, names in (
        ("salt", [layer.salt or layer.name for layer in given]),
        ("experiment", [experiment.name for layer in given for experiment in layer.experiments]),
    ):
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"layers: two have the {what} {name!r}; give each its own")
    return tuple(given)


def unit(salt: str, user: str) -> float:
    """A number in [0, 1), evenly spread: 53 bits of BLAKE2b (RFC 7693). The salt's length keeps "a", "bc" and "ab", "c" apart."""
    digest = hashlib.blake2b(f"{len(salt)}:{salt}{user}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


# -- what came of it ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rate:
    """sum of y / sum of x, its standard error over users, and how many they are."""

    value: float
    error: float
    users: int


@dataclass(frozen=True)
class Difference:
    """arm - base. [low, high]: for one planned look. [ever_low, ever_high]: for all looks together."""

    arm: Rate
    base: Rate
    value: float
    low: float
    high: float
    ever_low: float
    ever_high: float
    level: float

    @property
    def decided(self) -> bool:
        """Whether the interval for all looks leaves 0 out: the test may stop, whenever this is first seen."""
        return not self.ever_low <= 0 <= self.ever_high

    def __str__(self) -> str:
        fixed, ever = f"[{self.low:+.5g}, {self.high:+.5g}]", f"[{self.ever_low:+.5g}, {self.ever_high:+.5g}]"
        rates = f"{self.arm.value:.5g} ({self.arm.users:,} users) against {self.base.value:.5g} ({self.base.users:,})"
        return f"{rates}: {self.value:+.5g}, {self.level:.0%} {fixed} at one look, {ever} at all looks"


def by_user(rows: pl.DataFrame, *, clicked: str = "clicked") -> pl.DataFrame:
    """Counts by user and arm: `items`, `clicks`, `pages`, `clicked_pages`.

    rows: an item shown each, with `user`, `arm`, `recommendation` (the page) and `clicked`, as `palate.feedback.join` makes them. Rows
    without an arm or a user (outside the experiment, nobody known) are left out. DataError for a user with two arms: he was drawn twice.
    """
    for name in ("user", "arm", "recommendation", clicked):
        if name not in rows.columns:
            raise DataError(f"ab: the rows have no column {name!r}; they have {', '.join(rows.columns)}")
    rows = rows.drop_nulls(["user", "arm"])
    pages = rows.group_by("user", "arm", "recommendation", maintain_order=True).agg(
        items=pl.len(), clicks=pl.col(clicked).cast(pl.Int64).sum()
    )
    users = pages.group_by("user", "arm", maintain_order=True).agg(
        pl.col("items", "clicks").sum(), pages=pl.len(), clicked_pages=(pl.col("clicks") > 0).sum()
    )
    twice = users.filter(pl.col("user").is_duplicated())
    if twice.height:
        user = twice["user"][0]
        arms = ", ".join(users.filter(pl.col("user") == user)["arm"].cast(pl.String).to_list())
        raise DataError(
            f"ab: user {user!r} is in the arms {arms} ({twice['user'].n_unique()} such users); keep arms and salts while a test runs"
        )
    return users


def rate(y: npt.ArrayLike, x: npt.ArrayLike) -> Rate:
    """Of a numerator and a denominator by user, [n] each.

    >>> rate([1, 0, 3], [2, 1, 3])                           # 4 / 6; errors y - m x are -1/3, -2/3, 1
    Rate(value=0.6666666666666666, error=0.2545875386086578, users=3)
    """
    y, x = np.asarray(y, dtype=np.float64), np.asarray(x, dtype=np.float64)
    if y.ndim != 1 or y.shape != x.shape or not (np.isfinite(y).all() and np.isfinite(x).all()):
        raise DataError(f"ab: numerators {list(y.shape)} and denominators {list(x.shape)} must be finite, one a user")
    if len(y) < 2 or x.sum() <= 0:
        raise DataError(f"ab: {len(y)} users with a denominator of {x.sum():g} in all give no rate; wait for more")
    value = float(y.sum() / x.sum())
    rest = y - value * x
    return Rate(value, float(np.sqrt((rest**2).sum() / (len(y) - 1) / len(y)) / x.mean()), len(y))


def difference(arm: Rate, base: Rate, *, level: float = 0.95, narrowest: int = 10_000) -> Difference:
    """Both intervals. narrowest: the number of users (of both arms) for which the one for all looks is made as narrow as can be."""
    if not 0 < level < 1 or narrowest < 1:
        raise ConfigError(f"ab: level {level:g} must be within (0, 1) and narrowest {narrowest} at least 1")
    value, error, users = arm.value - base.value, math.hypot(arm.error, base.error), arm.users + base.users
    fixed = NormalDist().inv_cdf((1 + level) / 2) * error
    ever = error * always_valid(users, level=level, narrowest=narrowest)
    return Difference(arm, base, value, value - fixed, value + fixed, value - ever, value + ever, level)


def always_valid(users: int, *, level: float = 0.95, narrowest: int = 10_000) -> float:
    """How many standard errors the interval for all looks reaches to each side; z is the same for one look.

    >>> round(always_valid(10_000), 3), round(always_valid(100), 3), round(always_valid(1_000_000), 3)
    (3.035, 8.675, 3.576)
    """
    alpha = 1 - level
    spread = users * (-2 * math.log(alpha) + math.log(-2 * math.log(alpha)) + 1) / narrowest
    return math.sqrt(2 * (spread + 1) / spread * math.log(math.sqrt(spread + 1) / alpha))


def compare(users: pl.DataFrame, metric: str, *, arm: str, base: str, level: float = 0.95, narrowest: int = 10_000) -> Difference:
    """Two arms by a metric: one of METRICS, or a column of `users` (then its mean by user, as for `L7`). users: as by `by_user`."""
    top, bottom = METRICS.get(metric, (metric, ""))
    for name in (top, bottom or top, "arm"):
        if name not in users.columns:
            known = ", ".join([*METRICS, *(column for column in users.columns if column not in ("user", "arm"))])
            raise ConfigError(f"ab: nothing by user is called {name!r}; metrics are {known}")
    rates = []
    for name in (arm, base):
        theirs = users.filter(pl.col("arm") == name)
        if theirs.height < 2:
            raise DataError(f"ab: the arm {name!r} has {theirs.height} users; wait for more, or check its name")
        rates.append(rate(theirs[top].to_numpy(), theirs[bottom].to_numpy() if bottom else np.ones(theirs.height)))
    return difference(rates[0], rates[1], level=level, narrowest=narrowest)


def sample_ratio(counts: Mapping[str, int], shares: Mapping[str, float], *, strength: float = 100.0) -> tuple[float, float]:
    """p-values that users fell into the arms by their shares: for one look (chi-squared), and for all looks together.

    strength: of the Dirichlet prior around the shares; any value is valid, larger ones find small shifts sooner. Below 0.001 something is
    broken (an arm crashes, a redirect loses people, bots), and no result of the test may be believed.

    >>> tuple(round(p, 4) for p in sample_ratio({"a": 5050, "b": 4950}, {"a": 1, "b": 1}))
    (0.3173, 1.0)
    """
    if set(counts) != set(shares) or len(shares) < 2 or min(shares.values()) <= 0 or min(counts.values()) < 0:
        raise DataError(
            f"ab: counts of {sorted(counts)} do not go with the shares of {sorted(shares)}; give a count (0 is one) for every arm"
        )
    total = sum(counts.values())
    if not total:
        return 1.0, 1.0
    whole, squares, log_factor = sum(shares.values()), 0.0, math.lgamma(strength) - math.lgamma(strength + total)
    for arm, count in counts.items():
        share = shares[arm] / whole
        squares += (count - total * share) ** 2 / (total * share)
        log_factor += math.lgamma(strength * share + count) - math.lgamma(strength * share) - count * math.log(share)
    return float(gammaincc((len(shares) - 1) / 2, squares / 2)), math.exp(min(0.0, -log_factor))


def return_days(visits: pl.DataFrame, starts: pl.DataFrame, days: int, *, now: Any) -> pl.DataFrame:
    """On how many of the days 1 ... `days` after the start a user visited: columns of `starts` and `L{days}`.

    visits: `user`, `time` (Datetime us, UTC). starts: `user`, `start` (when he was first exposed) and whatever else, a row a user. A day is
    24 hours from the start; day 0 does not count. Users whose last day is not over at `now` (datetime) are left out: no window is cut.
    """
    for frame, name, columns in ((visits, "visits", ("user", "time")), (starts, "starts", ("user", "start"))):
        missing = [column for column in columns if column not in frame.columns]
        if missing:
            raise DataError(f"ab: {name} has no column {missing[0]!r}; it has {', '.join(frame.columns)}")
    if starts["user"].is_duplicated().any():
        raise DataError("ab: starts has a user twice; give each user one start, the first")
    if days < 1:
        raise ConfigError(f"ab: return visits on {days} days; take 7 or 28")
    over = starts.filter(pl.col("start").dt.epoch("us") + (days + 1) * DAY <= pl.lit(now, dtype=pl.Datetime("us", "UTC")).dt.epoch("us"))
    day = (pl.col("time").dt.epoch("us") - pl.col("start").dt.epoch("us")).floordiv(DAY)
    seen = (
        visits.select("user", "time")
        .join(over.select("user", "start"), on="user")
        .select("user", day=day)
        .filter(pl.col("day").is_between(1, days))
        .group_by("user")
        .agg(pl.col("day").n_unique().cast(pl.Int64).alias(f"L{days}"))
    )
    return over.join(seen, on="user", how="left", maintain_order="left").with_columns(pl.col(f"L{days}").fill_null(0))
