"""Off-policy evaluation of single choices: what another policy would have earned, told from the log of the policy that served.

For R logged choices let r_i be the reward, p_i the probability with which the logging policy showed the logged action, pi_i the one
with which the target policy would have, and w_i = pi_i / p_i. With q a prediction of the reward and v_i = sum over a of pi(a | x_i)
q(x_i, a):

    IPS     sum w_i r_i / R                                   Horvitz, Thompson 1952; Li et al. 2011 (WSDM)
    SNIPS   sum w_i r_i / sum w_i                             Swaminathan, Joachims 2015 (NIPS), equation 9
    DM      sum v_i / R                                       Dudik, Langford, Li 2011 (ICML), section 2
    DR      sum v_i / R + sum w_i (r_i - q_i) / R             the same, section 3
    SNDR    sum v_i / R + sum w_i (r_i - q_i) / sum w_i       Thomas, Brunskill 2016 (ICML), section 4

IPS and DR are unbiased where the target policy shows nothing that the logging policy never shows; SNIPS and SNDR only consistent, but
steadier; DM is as good as its model. Clipping, min(w_i, clip), is never done unasked (Ionides 2008): it trades variance for bias, and a
bias downwards where rewards are not negative. Three things are refused (`SupportError`), because no formula could mend them: a row
without a propensity, weights that do not average 1 (their expected mean is the share of the target's choices that the log could hold),
and an effective sample size (sum w)^2 / sum w^2 (Kish 1965; Owen 2013, section 9.3) below a floor.

Every estimator is a sum of ratios of sums over users, and users are what intervals vary (rows of one user are not independent):

    normal     delta method on sums by user, z quantiles (Deng et al. 2018, section 3)
    bootstrap  users drawn with replacement, percentiles (Efron, Tibshirani 1993, chapter 13; Davison, Hinkley 1997, section 3.8)
    bernstein  mean +- sqrt(2 V log(4 / d) / R) + 7 (b - a) log(4 / d) / (3 (R - 1)), d = 1 - level, V the variance, [a, b] the range
               (Maurer, Pontil 2009, theorem 4): holds for every R, for independent rows and weights bounded by `clip` or `largest`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pydantic

from palate import config
from palate.types import DataError, Longs

Doubles = npt.NDArray[np.float64]
Term = tuple[Doubles, Doubles]
"""A numerator and a denominator of each row; the estimate adds the ratios of their sums."""


class SupportError(DataError):
    """The log cannot tell what the target policy would earn: it holds too little, or nothing, of what that policy would show."""


class Settings(config.Config):
    """clip: the largest weight that is let count (None: weights count as they are). interval: see the head of the file; level: its
    coverage. resamples, seed: of the bootstrap. least_ess: refuse below this effective sample size. largest: a bound that the weights
    cannot pass, known beforehand and not read off the log; rewards: their range. Both serve only the Bernstein interval.
    gain: estimate how much more than the logging policy itself, the mean reward of the same rows, the target earns.
    """

    clip: float | None = pydantic.Field(None, gt=0)
    interval: Literal["normal", "bootstrap", "bernstein"] = "normal"
    level: float = pydantic.Field(0.95, gt=0, lt=1)
    resamples: int = pydantic.Field(1000, ge=100)
    seed: int = 0
    least_ess: float = pydantic.Field(100.0, ge=1)
    largest: float | None = pydantic.Field(None, gt=0)
    rewards: tuple[float, float] = (0.0, 1.0)
    gain: bool = False


@dataclass(frozen=True)
class Estimate:
    """A policy's value (mean reward a choice, or a slate), in [low, high] at `level`.

    rows: choices or slates it rests on. users: how many independent groups of rows. ess: effective sample size of the weights (of slates:
    at the place where it is least). largest: the largest weight before clipping. clipped: the share of the weights that were clipped.
    """

    method: str
    value: float
    low: float
    high: float
    level: float
    interval: str
    rows: int
    users: int
    ess: float
    largest: float
    clipped: float

    def covers(self, truth: float) -> bool:
        """Whether the interval holds this value."""
        return self.low <= truth <= self.high

    def __str__(self) -> str:
        interval = f"[{self.low:.5g}, {self.high:.5g}] ({self.level:.0%} {self.interval})"
        return f"{self.method} {self.value:.5g} {interval}, ESS {self.ess:,.0f} of {self.rows:,}"


class Weighed(Protocol):
    """What every estimator looks at: rewards and unclipped weights, a row first, and users."""

    @property
    def rewards(self) -> Doubles: ...

    @property
    def weights(self) -> Doubles: ...

    @property
    def users(self) -> npt.NDArray[Any] | None: ...


@dataclass(frozen=True)
class Logged:
    """R logged choices: rewards, propensity (of the logged action, by the policy that served), target (of the same action, by the policy
    in question), all float64 [R]; users: any ids [R], or None where every row is on its own.
    """

    rewards: Doubles
    propensity: Doubles
    target: Doubles
    users: npt.NDArray[Any] | None = None

    def __post_init__(self) -> None:
        for name in ("rewards", "propensity", "target"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        columns = {"rewards": self.rewards, "propensity": self.propensity, "target": self.target}
        shapes = {name: list(column.shape) for name, column in columns.items()}
        if self.users is not None:
            object.__setattr__(self, "users", np.asarray(self.users))
            shapes["users"] = list(self.users.shape)
        if self.rewards.ndim != 1 or len({tuple(shape) for shape in shapes.values()}) > 1:
            raise DataError(
                f"off-policy: columns must be of one length, got {', '.join(f'{name} {shape}' for name, shape in shapes.items())}"
            )
        if not len(self.rewards):
            raise SupportError("off-policy: the log has no rows; nothing can be estimated from it")
        checked(self.rewards, self.propensity, self.target)

    @classmethod
    def of(cls, frame: pl.DataFrame, *, reward: str = "reward", target: str = "target", user: str | None = "user") -> Self:
        """From a frame with the columns `propensity`, `reward`, `target` and `user` (None: every row is on its own)."""
        names = [reward, "propensity", target, *([user] if user is not None else [])]
        missing = [name for name in names if name not in frame.columns]
        if missing:
            raise DataError(f"off-policy: the log has no column {missing[0]!r}; it has {', '.join(frame.columns)}")
        columns = [frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in names[:3]]
        return cls(columns[0], columns[1], columns[2], None if user is None else _codes(frame[user].to_numpy()))

    @classmethod
    def of_policies(
        cls, actions: Longs, rewards: Doubles, logging: Doubles, target: Doubles, users: npt.NDArray[Any] | None = None
    ) -> Self:
        """From both policies' probabilities of every action, [R, A], and the logged action of each row, int [R].

        SupportError where the target shows what the logging policy never does.
        """
        check_support(logging, target)
        rows = np.arange(len(actions))
        return cls(rewards, logging[rows, actions], target[rows, actions], users)

    @property
    def weights(self) -> Doubles:
        """target / propensity, [R], not clipped."""
        return self.target / self.propensity


@dataclass(frozen=True)
class Predicted:
    """A model's view of the same rows: reward of the logged action, and the expected one of the target's action, both float64 [R]."""

    logged: Doubles
    expected: Doubles

    @classmethod
    def of(cls, rewards: Doubles, target: Doubles, actions: Longs) -> Self:
        """rewards: predicted reward of every action, target: the target's probabilities, both [R, A]; actions: what was logged, int [R]."""
        return cls(rewards[np.arange(len(actions)), actions], np.einsum("ra,ra->r", target, rewards))


def ips(logged: Logged, settings: Settings = Settings()) -> Estimate:
    """Inverse propensity scoring: unbiased, and of a large variance where the policies differ.

    >>> log = Logged(rewards=[1, 0, 1, 0] * 100, propensity=[0.5, 0.5, 0.25, 0.25] * 100, target=[0.75, 0.75, 0.125, 0.125] * 100)
    >>> print(ips(log))                                      # weights 1.5 and 0.5: (1.5 + 0.5) / 4
    ips 0.5 [0.43991, 0.56009] (95% normal), ESS 320 of 400
    """
    weights, largest = _weights(logged, settings)
    terms = [(weights * logged.rewards, np.ones(len(weights)))]
    low, high = settings.rewards
    bounds = None if largest is None else (min(0.0, largest * low), max(0.0, largest * high))
    return estimate("ips", terms, logged, weights, settings, bounds)


def snips(logged: Logged, settings: Settings = Settings()) -> Estimate:
    """Self-normalised: always within the range of the rewards, unmoved by a constant added to them; a bias of order 1 / ESS."""
    weights, *_ = _weights(logged, settings)
    return estimate("snips", [(weights * logged.rewards, weights)], logged, weights, settings)


def direct(logged: Logged, predicted: Predicted, settings: Settings = Settings()) -> Estimate:
    """The model's word alone. Its interval tells how the contexts vary, and nothing of how wrong the model is."""
    weights, *_ = _weights(logged, settings)
    terms = [(_same(predicted.expected, logged), np.ones(len(weights)))]
    return estimate("dm", terms, logged, weights, settings, settings.rewards)


def doubly_robust(logged: Logged, predicted: Predicted, settings: Settings = Settings(), *, normalised: bool = False) -> Estimate:
    """The model corrected by weighted residuals: unbiased if the propensities are right, or if the model is.

    The model must not have learnt from the row it predicts, see `cell_means`. normalised: SNDR.
    """
    weights, largest = _weights(logged, settings)
    ones = np.ones(len(weights))
    residuals = weights * (logged.rewards - _same(predicted.logged, logged))
    expected = _same(predicted.expected, logged)
    if normalised:
        return estimate("sndr", [(expected, ones), (residuals, weights)], logged, weights, settings)
    bounds = None
    if largest is not None:  # the model is taken to predict within the range of the rewards
        low, high = settings.rewards
        bounds = (low - largest * (high - low), high + largest * (high - low))
    return estimate("dr", [(expected + residuals, ones)], logged, weights, settings, bounds)


def cell_means(
    cells: Longs,
    actions: Longs,
    rewards: Doubles,
    n_actions: int,
    *,
    users: npt.NDArray[Any] | None = None,
    folds: int = 5,
    prior: float = 10.0,
) -> Doubles:
    """A reward model that needs no training: the mean reward of each action in each cell (a position, a segment), [R, A].

    (sum of rewards + prior x mean of all) / (rows + prior). Cross-fitted: the rows of a user are predicted from those of users in other
    folds (user number modulo `folds`), so that DR stays unbiased (Chernozhukov et al. 2018, section 1). cells, actions: int [R].
    Cost: R x A numbers.
    """
    own = np.arange(len(rewards)) if users is None else _codes(users)
    fold, n_cells = own % folds, int(cells.max(initial=0)) + 1
    predicted = np.empty((len(rewards), n_actions))
    for number in range(folds):
        seen, asked = fold != number, fold == number
        if not seen.any():
            raise SupportError(f"off-policy: all rows are of one user, so {folds} folds leave nothing to learn from")
        flat, size = cells[seen] * n_actions + actions[seen], n_cells * n_actions
        sums = np.bincount(flat, rewards[seen], minlength=size) + prior * rewards[seen].mean()
        predicted[asked] = (sums / (np.bincount(flat, minlength=size) + prior)).reshape(n_cells, n_actions)[cells[asked]]
    return predicted


# -- shared with the estimators of whole slates -------------------------------------------------------------------------------------


def checked(rewards: Doubles, propensity: Doubles, target: Doubles) -> None:
    """Rewards finite, propensities in (0, 1], target probabilities in [0, 1]; the error names the first row at fault."""
    for name, bad, rule in (
        ("propensity", ~np.isfinite(propensity), "a choice logged without its probability has no weight; leave it out, log propensities"),
        ("propensity", propensity <= 0, "what was shown had a probability above 0; log that of the action that was shown"),
        ("propensity", propensity > 1 + 1e-9, "a probability is at most 1"),
        ("target", ~((target >= 0) & (target <= 1 + 1e-9)), "a probability is within [0, 1]"),
        ("reward", ~np.isfinite(rewards), "a reward must be a finite number; wait until it is known, see palate.feedback.join"),
    ):  # fmt: skip
        if bad.any():
            values = {"propensity": propensity, "target": target, "reward": rewards}[name]
            place = tuple(int(part) for part in np.argwhere(bad)[0])
            where = f"row {place[0]}" + (f", position {place[1]}" if len(place) > 1 else "")
            error = SupportError if name == "propensity" else DataError
            raise error(f"off-policy: {name} of {where} is {values[place]:g} ({bad.sum()} such): {rule}")


def check_support(logging: Doubles, target: Doubles) -> None:
    """Both [R, A], probabilities of every action. SupportError where target > 0 and logging = 0; DataError where they do not add to 1."""
    if logging.ndim != 2 or logging.shape != target.shape:
        raise DataError(f"off-policy: logging {list(logging.shape)} and target {list(target.shape)} must both be [R, A]")
    for name, policy in (("logging", logging), ("target", target)):
        off = np.abs(policy.sum(axis=1) - 1)
        if not (policy >= 0).all() or not (off < 1e-6).all():
            row = int(np.argmax((off >= 1e-6) | ~(policy >= 0).all(axis=1)))
            raise DataError(
                f"off-policy: the {name} probabilities of row {row} add to {policy[row].sum():g}; they must be 0 or more and add to 1"
            )
    bare = (target > 0) & (logging <= 0)
    if bare.any():
        row, action = (int(part) for part in np.argwhere(bare)[0])
        raise SupportError(
            f"off-policy: in row {row} the target shows action {action} with chance {target[row, action]:g}, the logging policy never; "
            f"{float((target * bare).sum(axis=1).mean()):.2%} of the target's choices are such: explore them first, or leave them out"
        )


def check_weights(weights: Doubles, users: npt.NDArray[Any] | None, where: str = "") -> None:
    """Weights average 1 when the log could hold all that the target shows. SupportError if off by over 5 % and over 4 standard errors."""
    codes = np.arange(len(weights)) if users is None else _codes(users)
    value, error = _normal([(weights, np.ones(len(weights)))], codes)
    if abs(value - 1) <= max(0.05, 4 * error):
        return
    said = f"off-policy: the weights{where} average {value:.3f} (standard error {error:.3f}) where 1 is expected: "
    if value < 1:
        raise SupportError(
            said
            + f"about {1 - value:.0%} of the target's choices are (nearly) never in the log; explore more, or take a policy nearer to it"
        )
    raise SupportError(said + "the logged propensities are too small, or the target's probabilities too large; check both")


def effective_size(weights: Doubles) -> float:
    """(sum w)^2 / sum w^2: as many rows of equal weight would have this variance. 0 if every weight is.

    >>> effective_size(np.array([1.0, 1.0, 0.0, 0.0]))
    2.0
    """
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def estimate(
    method: str,
    terms: Sequence[Term],
    logged: Weighed,
    weights: Doubles,
    settings: Settings,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """The sum of ratios with its interval. weights: as they count, [R] or [R, M]; `logged` holds the rewards, unclipped weights, users.

    bounds: what one row may add, for the Bernstein interval; None where no bound is known.
    """
    columns = weights.reshape(len(weights), -1)
    sizes = [effective_size(column) for column in columns.T]
    if min(sizes) < settings.least_ess:
        raise SupportError(
            f"off-policy: the effective sample size is {min(sizes):.1f} of {len(weights)} rows, below {settings.least_ess:g}: "
            "a few rows would decide; log more, evaluate a policy nearer to the one that served, clip, or lower least_ess"
        )
    terms = list(terms)
    if settings.gain:
        terms.append((-logged.rewards.reshape(len(weights), -1).sum(axis=1), np.ones(len(weights))))
    codes = _codes(logged.users) if logged.users is not None else np.arange(len(weights))
    value, error = _normal(terms, codes)
    if settings.interval == "bootstrap":
        low, high = _bootstrap(terms, codes, settings)
    elif settings.interval == "bernstein":
        low, high = _bernstein(method, terms, codes, settings, bounds)
    else:
        reach = NormalDist().inv_cdf((1 + settings.level) / 2) * error
        low, high = value - reach, value + reach
    raw = logged.weights
    return Estimate(
        method=method,
        value=value,
        low=low,
        high=high,
        level=settings.level,
        interval=settings.interval,
        rows=len(weights),
        users=int(codes.max()) + 1,
        ess=min(sizes),
        largest=float(raw.max()),
        clipped=0.0 if settings.clip is None else float((raw > settings.clip).mean()),
    )


def clip(weights: Doubles, settings: Settings) -> Doubles:
    """min(weight, clip), or the weights as they are."""
    return weights if settings.clip is None else np.minimum(weights, settings.clip)


def bound(settings: Settings) -> float | None:
    """What no weight can pass: the lesser of `clip` and `largest`, None if neither is set."""
    known = [limit for limit in (settings.clip, settings.largest) if limit is not None]
    return min(known) if known else None


def _weights(logged: Logged, settings: Settings) -> tuple[Doubles, float | None]:
    """Weights as they count, [R], and what they cannot pass; refuses those that do not average 1."""
    raw = logged.weights
    if settings.largest is not None and raw.max() > settings.largest:
        raise DataError(f"off-policy: a weight is {raw.max():g}, above largest = {settings.largest:g}; it must bound every weight")
    check_weights(raw, logged.users)
    return clip(raw, settings), bound(settings)


def _same(column: Doubles, logged: Logged) -> Doubles:
    column = np.asarray(column, dtype=np.float64)
    if column.shape != logged.rewards.shape or not np.isfinite(column).all():
        raise DataError(f"off-policy: predictions {list(column.shape)} must be finite, one for each of the {len(logged.rewards)} rows")
    return column


def _codes(users: npt.NDArray[Any]) -> Longs:
    """Any ids to 0 ... G - 1. int64 [R]."""
    return np.unique(users, return_inverse=True)[1].astype(np.int64)


def _by_user(terms: Sequence[Term], codes: Longs) -> Doubles:
    """Numerators and denominators summed by user: float64 [2 J, G]."""
    return np.stack([np.bincount(codes, column) for term in terms for column in term])


def _normal(terms: Sequence[Term], codes: Longs) -> tuple[float, float]:
    """The value, and its standard error by the delta method: each user's pull on the value is sum over terms of (N_u - ratio D_u) / D."""
    sums = _by_user(terms, codes)
    totals = sums.sum(axis=1)
    ratios = totals[::2] / totals[1::2]
    pulls = ((sums[::2] - ratios[:, None] * sums[1::2]) / totals[1::2, None]).sum(axis=0)
    groups = sums.shape[1]
    if groups < 2:
        raise SupportError(
            "off-policy: the log has a single user, so nothing tells how sure the estimate is; log more, or treat rows as independent"
        )
    return float(ratios.sum()), float(np.sqrt(groups / (groups - 1) * (pulls**2).sum()))


def _bootstrap(terms: Sequence[Term], codes: Longs, settings: Settings) -> tuple[float, float]:
    """Percentiles over resampled users. Cost: resamples x users."""
    sums = _by_user(terms, codes)
    groups = sums.shape[1]
    rng = np.random.default_rng(settings.seed)
    values = np.empty(settings.resamples)
    size = max(1, (1 << 22) // groups)
    for start in range(0, settings.resamples, size):
        count = min(size, settings.resamples - start)
        drawn = rng.integers(0, groups, size=(count, groups)) + np.arange(count)[:, None] * groups
        times = np.bincount(drawn.ravel(), minlength=count * groups).reshape(count, groups)
        totals = times @ sums.T
        if (totals[:, 1::2] == 0).any():
            raise SupportError(
                "off-policy: some resamples hold no weight at all: too few rows count; log more, or take the normal interval"
            )
        values[start : start + count] = (totals[:, ::2] / totals[:, 1::2]).sum(axis=1)
    low, high = np.quantile(values, [(1 - settings.level) / 2, (1 + settings.level) / 2])
    return float(low), float(high)


def _bernstein(
    method: str, terms: Sequence[Term], codes: Longs, settings: Settings, bounds: tuple[float, float] | None
) -> tuple[float, float]:
    """Empirical Bernstein, of independent rows that each add something within `bounds`."""
    rows = len(codes)
    if bounds is None:
        raise DataError(
            f"off-policy: the Bernstein interval needs bounded terms, and those of {method} have no known bound: "
            'set clip or largest with ips, iips, rips, dr, or take interval = "bootstrap"'
        )
    if int(codes.max()) + 1 < rows:
        raise DataError(
            'off-policy: the Bernstein interval takes independent rows, and some users have several; take interval = "bootstrap"'
        )
    low, high = bounds
    if settings.gain:
        low, high = low - settings.rewards[1], high - settings.rewards[0]
    each = sum((numerator for numerator, _ in terms), start=np.zeros(rows))
    if each.min() < low - 1e-9 or each.max() > high + 1e-9:
        raise DataError(
            f"off-policy: a row adds {each.min():g} to {each.max():g}, outside [{low:g}, {high:g}]; set `rewards` to their true range"
        )
    log_term = float(np.log(4 / (1 - settings.level)))
    reach = np.sqrt(2 * each.var(ddof=1) * log_term / rows) + 7 * (high - low) * log_term / (3 * (rows - 1))
    return float(each.mean() - reach), float(each.mean() + reach)
