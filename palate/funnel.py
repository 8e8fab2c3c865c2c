"""The funnel: Request -> retrieve -> merge -> rank -> rerank -> Slate. Read this file first.

    funnel = Funnel([Popular(), EASE()], GBDT(), [MMR()]).fit(train)
    funnel.recommend([Request(user="42", k=10)])

How it is fitted (the order matters):

    1. the retrievers are fitted on the log up to a cut;
    2. they bring candidates for queries after the cut, and what then happened labels them;
    3. the ranker learns from those labelled candidates, one label a task, and its probabilities are calibrated on queries kept apart;
    4. the retrievers are fitted again on the whole log.

So the ranker sees in training just what it will see in service: candidates that these retrievers bring, with their scores.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from typing import Any, Literal, Self

import numpy as np
import polars as pl
import pydantic

from palate import config
from palate.features.encode import Encoder
from palate.features.history import History
from palate.features.spec import DAY, FeatureSet
from palate.progress import Steps
from palate.rank.base import Examples, Labelled, Ranker
from palate.rank.blend import Blend
from palate.rank.calibrate import Calibrator
from palate.rank.tasks import WANTED, Task, aftermath, check, label, ratings, says
from palate.rerank.base import LOG_SLATE, PROPENSITY, Reranker
from palate.rerank.brought import set_aside, with_brought
from palate.rerank.rules import allowed
from palate.retrieve.base import Retriever, nothing_wanted
from palate.retrieve.merge import behind, merge, together
from palate.types import (
    NOBODY,
    NOTHING,
    Bools,
    Candidates,
    ConfigError,
    Floats,
    Ints,
    Log,
    Longs,
    Queries,
    Ragged,
    Request,
    Run,
    Slate,
    SplitError,
    Warm,
    offsets_of,
)

WEEK = 7 * DAY
"""Microseconds."""
MASKS = 32
"""So many filters, with what passes them, are remembered."""


class Funnel:
    """Retrievers, a ranker, rerankers, and what they need to know of the past.

    Cost of a request: one retrieval per retriever, then `candidates` items encoded and scored.
    """

    class Config(config.Config):
        """candidates: length of the merged list. new_items: so many of its places are kept for items without events, brought by the
        retrievers that can (0: such items must win their places). holdout: where the ranker's cut lies: `last` holds out the last `cuts`
        events of every user, each a query of its own labelled by that event (next-item protocols); `time` cuts the log at one moment, the
        last `fraction` of events labels one query a user (protocols with a global time).
        queries: at most so many training queries (drawn by the run's seed). validation: share of users kept apart for early stopping and
        calibration. calibration: how scores become probabilities.
        """

        candidates: int = pydantic.Field(400, ge=1)
        new_items: int = pydantic.Field(0, ge=0)
        holdout: Literal["last", "time"] = "last"
        cuts: int = pydantic.Field(8, ge=1)
        fraction: float = pydantic.Field(0.1, gt=0, lt=1)
        queries: int = pydantic.Field(20_000, ge=1)
        validation: float = pydantic.Field(0.2, gt=0, lt=1)
        calibration: Literal["isotonic", "platt"] = "platt"

        @pydantic.model_validator(mode="after")
        def _new_items_leave_room(self) -> Self:
            if self.new_items >= self.candidates:
                raise ValueError(f"new_items must leave room among {self.candidates} candidates, got {self.new_items}")
            return self

    def __init__(
        self,
        retrievers: Sequence[Retriever],
        ranker: Ranker | None = None,
        rerankers: Sequence[Reranker] = (),
        features: FeatureSet | None = None,
        config: Config | None = None,
    ) -> None:
        if not retrievers:
            raise ConfigError("retrieve: a funnel needs at least one retriever")
        names = [retriever.name for retriever in retrievers]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"retrieve: two retrievers are called {name!r}; give one a `name` of its own")
            if name in ("merged", "ranked", "funnel"):
                raise ConfigError(f"retrieve: {name!r} is the name of a stage; choose another `name`")
        self.config = config or Funnel.Config()
        self.retrievers = tuple(retrievers)
        self.ranker = ranker
        self.tasks: tuple[Task, ...] = (ranker.config.tasks or WANTED) if ranker else ()
        self.blend = Blend.parse(ranker.config.blend, [task.name for task in self.tasks]) if ranker and ranker.config.blend else None
        self.rerankers = _in_order(rerankers)
        self.features = features
        self.curves: dict[str, dict[str, list[float]]] = {}
        self.verb = "chose"

    # -- learning ---------------------------------------------------------------------------------------------------------------

    def fit(self, log: Log, run: Run = Run(), more: Callable[[Funnel, Log], Labelled | None] | None = None) -> Self:
        """Fits every stage on the log. Cost: each retriever twice if there is a ranker, once if not.

        more: further examples for the ranker, of what was shown, say. It is given the funnel as it stands at the cut and the log up to the
        cut, in which nothing may stand that its queries ask for.
        Where `run.warm` holds a ranker to go on from, the cut lies within what is new to that: the earlier networks saw all the rest, and
        what they say of things they have seen would teach a ranker to trust them too far.
        """
        positives = log.positives()
        if not len(positives):
            raise SplitError(nothing_wanted(log))
        self.curves = {}
        self._know(log)
        steps = Steps((2 * len(self.retrievers) + 2) if self.ranker else len(self.retrievers), quiet=run.quiet)
        with steps:
            if self.ranker is not None:
                self._fit_ranker(log, positives, run, steps, more)
            for retriever in self.retrievers:
                with steps.step(f"retrieve: {retriever.name}"):
                    self._fit_one(retriever, log, run)
            for reranker in self.rerankers:
                reranker.fit(log, run)
        if self.config.new_items and not any(retriever.serves_new_items for retriever in self.retrievers):
            names = ", ".join(retriever.name for retriever in self.retrievers)
            raise ConfigError(f"new_items: keeps places for items without events, but none of {names} can bring such; add two_tower, say")
        return self

    def _know(self, log: Log) -> None:
        for derived in ("names", "_in_fashion", "_masks"):
            self.__dict__.pop(derived, None)
        wanted = log.positives().events["kind"].unique().cast(pl.String).to_list()
        self.verb = VERBS.get(wanted[0], "chose") if len(wanted) == 1 else "chose"
        self.items = log.items
        self.users = log.users
        self.item_ids: list[str] = log.items["item"].to_list()
        self.history = History.of(log)
        self.popularity: Floats = np.bincount(log.positives().item_codes, minlength=log.n_items).astype(np.float32)
        self.encoder: Encoder | None = None
        self.calibrators: dict[str, Calibrator] = {}

    def _fit_one(self, component: Retriever, log: Log, run: Run) -> None:
        component.fit(log, run)
        curves = getattr(component, "curves", None)
        if curves:
            self.curves[component.name] = {metric: list(values) for metric, values in curves.items()}

    def _fit_ranker(self, log: Log, positives: Log, run: Run, steps: Steps, more: Callable[[Funnel, Log], Labelled | None] | None) -> None:
        assert self.ranker is not None
        warm = run.warm if run.warm is not None and self.ranker.goes_on(run.warm) else None
        early, queries, happened, groups = self._cut(log, positives, run, warm)
        for retriever in self.retrievers:
            with steps.step(f"retrieve: {retriever.name}, up to the cut"):
                retriever.fit(early, replace(run, folder=run.folder / "cut" if run.folder else None, warm=warm))
        with steps.step("label the candidates"):
            before: Encoder | None = warm.funnel.encoder if warm else None
            features = self.features or (before.features if before else FeatureSet.derive(log))
            self.encoder = Encoder.fit(features, log, self.history, before)
            merged = self.candidates(queries, np.bincount(early.positives().item_codes, minlength=log.n_items) == 0)[1]
            labels = label(self.tasks, log, happened, merged.items)
            own = len(queries)
            for others in (self._rated(log, early, run.seed), more(self, early) if more else None):
                if others is not None and len(others.queries):
                    queries, merged, labels = _above(Labelled(queries, merged, labels), others)
                    groups = np.concatenate([groups, others.queries.users])
            check(self.tasks, labels, log.name)
            found: Bools = np.asarray((labels[:, :, 0] > 0).any(axis=1))
            validation = _share(groups, self.config.validation, run.seed)
            if not found[validation].any() or not found[~validation].any():
                validation = np.arange(len(queries)) % 5 == 0
            names, before_cut = tuple(task.name for task in self.tasks), {task.name: ratings(task, early) for task in self._ratings}
            examples = Examples(self.encoder, queries, merged, labels, validation, names, before_cut)
        with steps.step(f"rank: {self.ranker.name}"):
            self.ranker.fit(examples, run)
            if getattr(self.ranker, "curves", None):
                self.curves[self.ranker.name] = {metric: list(values) for metric, values in self.ranker.curves.items()}  # type: ignore[attr-defined]
            kept = np.flatnonzero(validation[:own])  # probabilities are of what retrievers bring, whatever else was shown
            held_queries, held, held_labels = queries.take(kept), merged.take(kept), labels[kept]
            scores = self.ranker.score(held_queries, held, self.encoder)
            for place, task in enumerate(self.tasks):
                if task.kind == "click":
                    column, truth = scores[:, :, place][held.present], held_labels[:, :, place][held.present]
                    self.calibrators[task.name] = Calibrator(self.config.calibration).fit(column, truth)
            self._order(scores, held)  # so that a blend which is no number is found now, and not by a request

    @property
    def _ratings(self) -> tuple[Task, ...]:
        return tuple(task for task in self.tasks if task.kind == "rating")

    def _rated(self, log: Log, early: Log, seed: int) -> Labelled | None:
        """Ratings after the cut, each with a list of its item alone: a rating tells, whether or not the retrievers bring what was rated."""
        last = np.full(log.n_users, np.iinfo(np.int64).min)
        np.maximum.at(last, early.user_codes, early.times)
        told = np.zeros(len(log), dtype=np.bool_)
        for task in self._ratings:
            told |= says(task, log) & log.events["value"].is_not_null().to_numpy()
        rows = np.flatnonzero(told & (log.times > last[log.user_codes]))
        if not len(rows):
            return None
        if len(rows) > self.config.queries:
            rows = np.sort(np.random.default_rng(seed).choice(rows, self.config.queries, replace=False))
        queries = self.history.queries(log.user_codes[rows], log.times[rows])
        if log.context:
            queries = replace(queries, context=log.events.select(log.context)[rows])
        items, happened = log.item_codes[rows][:, None], Ragged(np.arange(len(rows) + 1, dtype=np.int64), rows)
        labels = label(self.tasks, log, happened, items)
        labels[:, :, [task.kind != "rating" for task in self.tasks]] = np.nan  # what a rating says of anything else is said elsewhere
        return Labelled(queries, self._given(queries, items), labels)

    def _cut(self, log: Log, positives: Log, run: Run, warm: Warm | None = None) -> tuple[Log, Queries, Ragged, Ints]:
        """The log before the cut; queries after it; for each query the rows of the log that tell what then happened, and its user.

        warm: only what is new to it lies after the cut.
        """
        users = positives.user_codes
        order = np.argsort(users, kind="stable")
        lengths = np.bincount(users, minlength=log.n_users)
        ends = np.cumsum(lengths)
        rng = np.random.default_rng(run.seed)
        if self.config.holdout == "last":
            # place of each event counted from its user's last: 0 is the last
            from_end = np.empty(len(users), dtype=np.int64)
            from_end[order] = np.repeat(ends, lengths) - 1 - np.arange(len(users))
            late = (from_end < self.config.cuts) & (from_end < lengths[users] - 1)
            if warm is not None:
                late &= positives.times > warm.since
            events = np.flatnonzero(late)
            if not len(events):
                raise SplitError(f"{log.name}: no user has two wanted events, so nothing can label a ranker; leave the ranker out")
            if len(events) > self.config.queries:
                events = np.sort(rng.choice(events, self.config.queries, replace=False))
            queries = self.history.before(events)
            happened = aftermath(log, np.flatnonzero(says(WANTED[0], log)), events)
            early = _without(log, positives, late)
            return early, queries, happened, users[events]
        times = positives.times
        at = max(int(np.quantile(times, 1 - self.config.fraction, method="lower")), warm.since if warm else 0)
        late = times > at
        early = log.where(log.times <= at)
        store = History.of(early)
        known = np.unique(users[late])
        if not len(known):
            raise SplitError(f'{log.name}: no wanted event lies after the ranker\'s cut; raise `fraction`, or use holdout = "last"')
        if len(known) > self.config.queries:
            known = np.sort(rng.choice(known, self.config.queries, replace=False))
        queries = store.queries(known, np.full(len(known), at + 1, dtype=np.int64))
        later = np.flatnonzero((log.times > at) & np.isin(log.user_codes, known))
        later = later[np.argsort(log.user_codes[later], kind="stable")]
        happened = Ragged(offsets_of(np.bincount(log.user_codes[later], minlength=log.n_users)[known]), later)
        return early, queries, happened, known.astype(np.int32)

    # -- the stages -------------------------------------------------------------------------------------------------------------

    def candidates(self, queries: Queries, new: Bools | None = None) -> tuple[dict[str, Candidates], Candidates]:
        """Each retriever's own list, and all of them merged: deduplicated, source-tagged, at most `candidates` long.

        Where some retrievers cannot serve a query (nobody knows the user, or there is no history), their quotas go to those that can.
        new: bool [N], the items without events (default: of the log that the funnel was fitted on).
        """
        serves_new = any(retriever.serves_new_items for retriever in self.retrievers)
        kept, parts = self.config.new_items if serves_new else 0, []
        for rows, quotas in self._shares(queries):
            asked = queries.take(rows) if len(rows) < len(queries) else queries
            lists = [retriever.retrieve(asked, quota) for retriever, quota in zip(self.retrievers, quotas, strict=True)]
            merged = merge(lists, quotas, self.config.candidates - kept)
            if kept:
                merged = behind(merged, self._new_items(asked, self.popularity == 0 if new is None else new))
            parts.append((rows, [*lists, merged]))
        *own, merged = (together([(rows, found[place]) for rows, found in parts]) for place in range(len(self.retrievers) + 1))
        return {retriever.name: found for retriever, found in zip(self.retrievers, own, strict=True)}, merged

    def _shares(self, queries: Queries) -> list[tuple[Longs, list[int]]]:
        """Queries that the same retrievers serve (row numbers), and how many candidates each retriever is asked for: 0 if it cannot."""
        context = queries.history.lengths == 0
        history = ~context & (queries.users == NOBODY)
        quotas = [retriever.config.quota for retriever in self.retrievers]
        serves = [retriever.serves_new_users for retriever in self.retrievers]
        groups: dict[tuple[bool, ...], Bools] = {}
        for rows, needed in ((~context & ~history, None), (history, "history"), (context, "context")):
            able = tuple(needed is None or needed in kinds for kinds in serves)
            groups[able] = groups.get(able, np.zeros(len(queries), dtype=bool)) | rows
        shares: list[tuple[Longs, list[int]]] = []
        for able, rows in groups.items():
            if rows.any() or not (len(queries) or shares):
                theirs = sum(quota for quota, can in zip(quotas, able, strict=True) if can)
                given = [quota * sum(quotas) // theirs if can else 0 for quota, can in zip(quotas, able, strict=True)]
                shares.append((np.flatnonzero(rows), given))
        return shares

    def _new_items(self, queries: Queries, new: Bools) -> Candidates:
        """The best items without events, of the retrievers that know such: [B, new_items]."""
        asked = replace(queries, allowed=new if queries.allowed is None else new & queries.allowed)
        count = [self.config.new_items if retriever.serves_new_items else 0 for retriever in self.retrievers]
        lists = [retriever.retrieve(asked, k) for retriever, k in zip(self.retrievers, count, strict=True)]
        return merge(lists, count, self.config.new_items)

    def rank(self, queries: Queries, merged: Candidates) -> Candidates:
        """The merged list in the ranker's order, with what it predicts among its features: `ranker.<task>`, one column a task.

        Clicks are calibrated probabilities. `ranker.probability` is that of the task which asks whether a candidate is wanted.
        """
        if self.ranker is None or self.encoder is None:
            return merged
        scores = self.ranker.score(queries, merged, self.encoder)
        best, predicted = self._order(scores, merged)
        features = {f"ranker.{task}": column for task, column in predicted.items()}
        wanted = next((task.name for task in self.tasks if task.asks_whether_wanted), None)
        if wanted is not None:
            features["ranker.probability"] = predicted[wanted]
        # calibration may make two scores equal; the ranker's own score then decides
        order = np.lexsort((-scores[:, :, 0], -best), axis=1)
        ranked = replace(merged, features={**merged.features, **features})
        return ranked.reorder(order, np.take_along_axis(best, order, 1))

    def _order(self, scores: Floats, merged: Candidates) -> tuple[Floats, dict[str, Floats]]:
        """By what candidates are ordered, [B, K], and what is predicted of them, [B, K] a task: from the ranker's scores [B, K, T]."""
        present, predicted = merged.present, {}
        for place, task in enumerate(self.tasks):
            column = np.full(merged.items.shape, np.nan, dtype=np.float32)
            said = scores[:, :, place][present]
            column[present] = self.calibrators[task.name].transform(said) if task.kind == "click" else said
            predicted[task.name] = column
        if self.blend is None:
            return scores[:, :, 0], predicted
        best = np.full(merged.items.shape, -np.inf, dtype=np.float32)
        best[present] = self.blend({task: column[present] for task, column in predicted.items()})
        return best, predicted

    def rerank(self, queries: Queries, ranked: Candidates, k: int) -> Candidates:
        """The final list, K long. Each reranker but the last is given room (5 K places) for the next to choose from."""
        steps = [ranked, *(made for _, made in self.rerank_steps(queries, ranked, k))]
        return steps[-1].reorder(np.tile(np.arange(min(k, steps[-1].items.shape[1])), (len(ranked), 1)))

    def rerank_steps(self, queries: Queries, ranked: Candidates, k: int) -> Iterator[tuple[str, Candidates]]:
        """What each reranker made of the list that the one before it left."""
        for place, reranker in enumerate(self.rerankers, start=1):
            ranked = reranker.rerank(queries, ranked, k if place == len(self.rerankers) else 5 * k)
            yield reranker.name, ranked

    def stages(self, queries: Queries, k: int) -> dict[str, Candidates]:
        """Every stage's list for the same queries: each retriever by name, `merged`, `ranked` (if there is a ranker), `funnel`."""
        lists, merged = self.candidates(queries)
        ranked = self.rank(queries, merged)
        final = self.rerank(queries, ranked, k)
        middle = {"ranked": ranked} if self.ranker is not None else {}
        return {**lists, "merged": merged, **middle, "funnel": final}

    # -- serving ----------------------------------------------------------------------------------------------------------------

    def recommend(self, requests: Sequence[Request]) -> list[Slate]:
        """One slate a request, in the same order. Requests with equal filters and length share one pass."""
        slates: list[Slate | None] = [None] * len(requests)

        def shared(row: int) -> tuple[Any, ...]:
            return (requests[row].filters, requests[row].k)

        for (filters, k), rows in groupby(sorted(range(len(requests)), key=shared), key=shared):
            members = list(rows)
            queries = self.queries([requests[row] for row in members], filters)
            merged = self.candidates(queries)[1]
            final = self.rerank(queries, self.rank(queries, merged), k)
            for row, slate in zip(members, self.slates(queries, final), strict=True):
                slates[row] = slate
        return [slate for slate in slates if slate is not None]

    def with_rerankers(self, rerankers: Sequence[Reranker]) -> Self:
        """The same fitted funnel with other fitted rerankers, for one request: `[r.with_settings(beta=0.6) for r in funnel.rerankers]`."""
        changed = copy.copy(self)
        changed.rerankers = _in_order(rerankers)
        return changed

    def cheaper(self, retrievers: Sequence[str], keep: Callable[[Reranker], bool]) -> Self:
        """The same fitted funnel with some of its retrievers, no ranker, and the rerankers that are to be kept: for when time is short."""
        changed = copy.copy(self)
        changed.retrievers = tuple(retriever for retriever in self.retrievers if retriever.name in retrievers)
        changed.ranker, changed.tasks, changed.blend = None, (), None
        changed.rerankers = tuple(reranker for reranker in self.rerankers if keep(reranker))
        return changed

    def queries(self, requests: Sequence[Request], filters: tuple[str, ...] = ()) -> Queries:
        """Requests resolved against the catalogue, all with the same filters. What passes the last filters seen is remembered."""
        queries = with_brought(self.history.resolve(set_aside(requests)), requests, self.history.item_code)
        return replace(queries, allowed=self._allowed(filters)) if filters else queries

    def _allowed(self, filters: tuple[str, ...]) -> Bools:
        masks = self.__dict__.setdefault("_masks", OrderedDict())
        mask: Bools | None = masks.get(filters)
        if mask is None:
            masks[filters] = mask = allowed(self.items, filters)
            while len(masks) > MASKS:
                masks.popitem(last=False)
        return mask

    def rank_items(self, queries: Queries, items: Ints) -> Candidates:
        """Given items [B, K] in the ranker's order, instead of those that the retrievers bring.

        Of an item that the retrievers bring the ranker is told what they said, of any other nothing: just as it was in training. Nothing is
        blocked. Cost: as `candidates` and `rank`.
        """
        given = self._given(queries, items)
        if self.ranker is not None:
            return self.rank(queries, given)
        return given.reorder(np.argsort(-given.scores, axis=1, kind="stable"))

    def _given(self, queries: Queries, items: Ints) -> Candidates:
        """Given items [B, K] with what the retrievers say of those that they bring."""
        free = replace(queries, blocked=Ragged(np.zeros(len(queries) + 1, dtype=np.int64), queries.blocked.values[:0]), allowed=None)
        merged = self.candidates(free)[1]
        same = (items[:, :, None] == merged.items[:, None, :]) & (items != NOTHING)[:, :, None]
        brought, place = same.any(axis=2), same.argmax(axis=2)
        features = {}
        for name, column in merged.features.items():
            features[name] = np.where(brought, np.take_along_axis(column, place, 1), np.nan).astype(np.float32)
        source = np.where(brought, np.take_along_axis(merged.source, place, 1), np.int8(-1)).astype(np.int8)
        scores = np.where(brought, np.take_along_axis(merged.scores, place, 1), np.where(items == NOTHING, -np.inf, 0)).astype(np.float32)
        return Candidates(items, scores, merged.sources, source, features)

    def slates(self, queries: Queries, final: Candidates, verbs: Mapping[int, str] | None = None) -> list[Slate]:
        """The lists as people see them: raw ids, probabilities, propensities, and a reason for each item.

        verbs: item code -> what was done with it ("watched"), where that is known better than from the log as a whole.
        """
        reasons = self._reasons(queries, final, verbs or {})
        predicted = {task.name: final.features[f"ranker.{task.name}"] for task in self.tasks}
        ranks = {name: final.features[f"{name}.rank"] for name in final.sources if f"{name}.rank" in final.features}
        propensity = final.features.get(PROPENSITY)
        whole = final.features.get(LOG_SLATE)
        slates = []
        for row in range(len(final)):
            kept = np.flatnonzero(final.present[row]).tolist()
            items, scores, source = final.items[row].tolist(), final.scores[row].tolist(), final.source[row].tolist()
            told = {task: column[row].tolist() for task, column in predicted.items()}
            found = {name: column[row].tolist() for name, column in ranks.items()}
            slates.append(
                Slate(
                    items=tuple(self.item_ids[items[place]] for place in kept),
                    scores=tuple(scores[place] for place in kept),
                    sources=tuple(final.sources[source[place]] if source[place] >= 0 else "" for place in kept),
                    probabilities=tuple({task: column[place] for task, column in told.items()} for place in kept),
                    propensity=tuple(1.0 if propensity is None else float(propensity[row, place]) for place in kept),
                    reasons=tuple(reasons[row][place] for place in kept),
                    found=tuple(
                        {name: int(column[place]) + 1 for name, column in found.items() if column[place] == column[place]} for place in kept
                    ),
                    log_propensity=0.0 if whole is None or not kept else float(whole[row, 0]),
                )
            )
        return slates

    @cached_property
    def names(self) -> list[str]:
        """What people call the items [N]: the title, or the id where there is none."""
        if "title" not in self.items.columns:
            return self.item_ids
        return self.items.select(pl.coalesce(pl.col("title").cast(pl.String), pl.col("item")).alias("name"))["name"].to_list()

    @cached_property
    def _in_fashion(self) -> Bools:
        """Which items are among the most wanted of the log's last week: bool [N]. A hundredth of those wanted then, 100 at most."""
        now = np.full(self.history.n_items, self.history.end)
        lately = self.history.item_counts(np.arange(self.history.n_items, dtype=np.int32), now, WEEK)
        most = min(100, -(-int((lately > 0).sum()) // 100))
        fashion = np.zeros(len(lately), dtype=bool)
        fashion[np.argsort(-lately, kind="stable")[:most]] = True
        return fashion & (lately > 0)

    def _reasons(self, queries: Queries, final: Candidates, verbs: Mapping[int, str]) -> list[list[str]]:
        """One sentence an item: the history item that speaks most for it, as told by the first retriever that can tell; whether it is in
        fashion; or, if nothing else can be said, how popular it is.
        """
        speaks = np.full(final.items.shape, NOTHING, dtype=np.int32)
        for retriever in self.retrievers:
            told = retriever.because(queries, final.items)
            if told is not None:
                speaks = np.where(speaks == NOTHING, told, speaks)
        names, fashion, lists = self.names, self._in_fashion, []
        for row in range(len(final)):
            line = []
            for item, because in zip(final.items[row].tolist(), speaks[row].tolist(), strict=True):
                if item == NOTHING:
                    line.append("")
                    continue
                said = [f"because you {verbs.get(because, self.verb)} {names[because]}"] if because != NOTHING else []
                if fashion[item]:
                    said.append("popular this week")
                elif not said:
                    count = int(self.popularity[item])
                    said.append(f"popular: {self.verb} {count:,} time{'s' if count != 1 else ''}" if count else "new here")
                line.append("; ".join(said))
            lists.append(line)
        return lists


VERBS = {"rating": "rated", "click": "opened", "play": "watched", "purchase": "bought", "like": "liked", "view": "viewed"}
"""What people did with an item, if the log's wanted events are all of one kind; otherwise they chose it."""


def _in_order(rerankers: Sequence[Reranker]) -> tuple[Reranker, ...]:
    """The rerankers, of which only the last may draw at random: what it says of its places holds only while nothing moves them."""
    for reranker in rerankers[:-1]:
        if reranker.draws:
            raise ConfigError(
                f"rerank: {reranker.name} draws at random and writes the propensity of each place, so it stands last, and alone"
            )
    return tuple(rerankers)


def _above(first: Labelled, then: Labelled) -> Labelled:
    """The rows of both, one below the other; their candidates have the same features."""
    split, size = len(first.queries), len(first.queries) + len(then.queries)
    labels = np.full((size, max(first.labels.shape[1], then.labels.shape[1]), first.labels.shape[2]), np.nan, dtype=np.float32)
    labels[:split, : first.labels.shape[1]] = first.labels
    labels[split:, : then.labels.shape[1]] = then.labels
    candidates = together([(np.arange(split), first.candidates), (np.arange(split, size), then.candidates)])
    return Labelled(first.queries.above(then.queries), candidates, labels)


def _without(log: Log, positives: Log, late: Bools) -> Log:
    """The log without the late positive events, and without anything those users did from their first late event on."""
    first = np.full(log.n_users, np.iinfo(np.int64).max)
    np.minimum.at(first, positives.user_codes[late], positives.times[late])
    before = log.where(log.times < first[log.user_codes])
    # Of events at the very time of the cut, those that come before it in log order are kept.
    early_positives = positives.where(~late)
    tied = early_positives.where(early_positives.times >= first[early_positives.user_codes])
    if not len(tied):
        return before
    events = pl.concat([before.events, tied.events]).sort("time", maintain_order=True)
    return replace(log, events=events)


def _share(groups: Ints, share: float, seed: int) -> Bools:
    """A share of the groups, whole, as a mask over rows."""
    unique = np.unique(groups)
    chosen = np.random.default_rng(seed + 1).permutation(unique)[: max(1, round(share * len(unique)))]
    return np.isin(groups, chosen)
