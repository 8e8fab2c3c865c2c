"""Long-term value: what a click is worth with what people went on to watch after it.

G. Shani, D. Heckerman, R. I. Brafman, "An MDP-based recommender system" (JMLR 2005): consumption as a Markov chain learnt from sequences,
an item worth its own reward and the discounted value of where it leads (section 4). Here, for each item i of the log,

    table(i, j)   how often j was next after i, the pause not above `pause_minutes`, over how often i occurred: the rest are ends of a visit
    time(j)       the mean seconds of the events of j, or 1 where each event counts alike
    follow(i)     sum over j of table(i, j) (time(j) + discount x follow(j)), `steps` steps ahead

    score(i) = p(click i) + p(click i) x follow(i) / unit

Items with few events are drawn towards the mean: (n(i) follow(i) + prior x mean) / (n(i) + prior), so that one long evening does not make
a hit.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pydantic
from scipy import sparse

from palate.config import unknown_key
from palate.rerank.base import Reranker
from palate.rerank.places import by
from palate.types import Candidates, ConfigError, Floats, Log, Queries, Run, State

_MINUTE = 60_000_000


class WatchNext(Reranker):
    """Raises what people go on from. Needs probabilities, so a ranker, or another stage that writes the column `probability`.

    Fit: O(events), and `steps` sparse products. Cost: O(candidates) a query. Learnt from wanted events alone, in order of time by user.
    """

    fixed = frozenset({"time", "kinds", "pause_minutes", "steps", "discount", "prior"})

    class Config(Reranker.Config):
        """probability: the feature with p(click). time: the `values` of events, in seconds, or 1 for each of the `events`. kinds: whose
        values are seconds; a rating's are not. weight: of the second term; 0 leaves the first. unit: the follow-on time that is worth a
        click (None: the mean over the log's events, so that an average item doubles). pause_minutes: longer pauses end a visit. steps,
        discount: how far ahead, and what each further step is worth. prior: so many events of the mean are added to every item.
        """

        probability: str = "ranker.probability"
        time: Literal["values", "events"] = "values"
        kinds: tuple[str, ...] = ("play", "watch")
        weight: float = pydantic.Field(1.0, ge=0)
        unit: float | None = pydantic.Field(None, gt=0)
        pause_minutes: float = pydantic.Field(60.0, gt=0)
        steps: int = pydantic.Field(3, ge=1)
        discount: float = pydantic.Field(0.9, ge=0, le=1)
        prior: float = pydantic.Field(20.0, ge=0)

    config: Config

    def fit(self, log: Log, run: Run = Run()) -> WatchNext:
        wanted = log.positives()
        order = np.lexsort((np.arange(len(wanted)), wanted.times, wanted.user_codes))
        users, items, times = wanted.user_codes[order], wanted.item_codes[order], wanted.times[order]
        n = log.n_items
        count = np.bincount(items, minlength=n).astype(np.float64)
        time = self._seconds(wanted)
        follows = (users[1:] == users[:-1]) & (times[1:] - times[:-1] <= self.config.pause_minutes * _MINUTE)
        pairs = (np.ones(int(follows.sum())), (items[:-1][follows], items[1:][follows]))
        table = sparse.diags_array(1 / np.maximum(count, 1)) @ sparse.coo_array(pairs, shape=(n, n)).tocsr()
        follow = np.zeros(n)
        for _ in range(self.config.steps):
            follow = table @ (time + self.config.discount * follow)
        typical = float((follow * count).sum() / max(count.sum(), 1))
        weight = count + self.config.prior
        self.follow: Floats = np.where(
            weight > 0, (count * follow + self.config.prior * typical) / np.maximum(weight, 1e-9), typical
        ).astype(np.float32)
        self.typical = typical
        return self

    def _seconds(self, wanted: Log) -> npt.NDArray[np.float64]:
        """time(j) of every item [N]; where none of its events tells, the mean of those that do."""
        if self.config.time == "events":
            return np.ones(wanted.n_items)
        told = wanted.where(pl.col("kind").cast(pl.String).is_in(list(self.config.kinds)) & pl.col("value").is_finite())
        if not len(told):
            there = ", ".join(sorted(map(str, wanted.events["kind"].unique()))) or "none"
            raise ConfigError(
                f"watch_next.time: no wanted event of {' or '.join(self.config.kinds) or 'any kind'} has a value, which would be seconds "
                f'(kinds of wanted events: {there}); say time = "events", or name in `kinds` those whose values are seconds'
            )
        values, heard = told.events["value"].to_numpy().astype(np.float64), np.bincount(told.item_codes, minlength=told.n_items)
        total = np.bincount(told.item_codes, weights=values, minlength=told.n_items)
        return np.where(heard > 0, total / np.maximum(heard, 1), values.mean())

    def rerank(self, queries: Queries, candidates: Candidates, k: int) -> Candidates:
        present = candidates.present
        if not present.any():
            return by(candidates, candidates.scores, k)
        name = self.config.probability
        if name not in candidates.features:
            hint = unknown_key(name, candidates.features)
            raise ConfigError(
                f"watch_next.probability: the candidates carry no {name!r} ({hint}); give the funnel a ranker that predicts it"
            )
        chance = np.where(present, candidates.features[name], 0)
        if not np.isfinite(chance).all():
            raise ConfigError(f"watch_next.probability: {name!r} is not known of every candidate; take a column that the ranker writes")
        unit = self.config.unit if self.config.unit is not None else max(self.typical, 1e-9)
        follow = self.follow[np.where(present, candidates.items, 0)]
        return by(candidates, chance + self.config.weight * chance * follow / unit, k)

    def state(self) -> State:
        return State(arrays={"follow": self.follow}, meta={"typical": self.typical})

    def restore(self, state: State) -> WatchNext:
        self.follow, self.typical = state.arrays["follow"], float(state.meta["typical"])
        return self
