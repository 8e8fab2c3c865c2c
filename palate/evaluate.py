"""Offline evaluation: held-out requests replayed through the very funnel that serves.

One query a test user, asked at the moment of the user's first held-out wanted event, with what was known then. Every item of the
catalogue can be found or missed: nothing is sampled. Each stage is measured alone and together, and always beside popularity, so
that one table says what retrieval lost, what ranking gained and what reranking cost.

An item that the user already had in training and wants again in the test cannot be shown (it is blocked), so it is not counted as
relevant; `counts["dropped_targets"]` says how many such there were.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from palate.metrics import beyond, pointwise, ranking
from palate.metrics.bootstrap import paired_bootstrap
from palate.rank.tasks import WANTED, label, says
from palate.types import NOTHING, Bools, Candidates, DataError, Ints, Log, Longs, Queries, Ragged, SplitError, offsets_of

if TYPE_CHECKING:
    from rich.table import Table

    from palate.funnel import Funnel

Doubles = npt.NDArray[np.float64]

BASELINE = "popular"
METRICS = {
    "ndcg": ranking.ndcg,
    "recall": ranking.recall,
    "mrr": ranking.reciprocal_rank,
    "hit_rate": ranking.hit_rate,
    "map": ranking.average_precision,
    "precision": ranking.precision,
    "accuracy": ranking.top_k_accuracy,
}
COMPARED = ("ndcg", "recall", "mrr")
USER_BANDS = (("cold (no events)", 0), ("lukewarm (1 to 9 events)", 9), ("warm (10 to 99 events)", 99), ("hot (100 events or more)", None))
ITEM_BANDS = ("cold (no events)", "tail (half of all events)", "head (half of all events)")


@dataclass(frozen=True)
class Comparison:
    """How much better one stage is than another on the same users, with a 95 % interval (paired percentile bootstrap)."""

    stage: str
    baseline: str
    metric: str
    difference: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval is clear of zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    stages: stage -> metric@k -> mean over queries; `recall@all` over all the stage brought, `length` how much that was. Popularity
        first, then the retrievers, `merged`, `ranked`, `funnel` (asked for max(ks) items). A metric at k counts a list shorter than k
        as it is.
    ranker: its probabilities on the merged candidates. reliability: predicted and observed means of bins, and their rows.
    tasks: where the ranker declares some, the metrics of each, by what the user did from the first wanted event of the test on.
    slices: by the user's training events and by the target's popularity. comparisons: paired differences with intervals.
    attribution: what retrieval lost and ranking gained. beyond: beyond accuracy, per stage's first `at` places.
    concentration: per stage, what share of those places the `top items` most shown take together; `training log` is the log itself.
    counts: queries, targets, what was dropped. at: the K of slices, comparisons and `beyond`. seconds: all; stage_seconds: of the funnel.
    """

    stages: Mapping[str, Mapping[str, float]]
    ranker: Mapping[str, float]
    reliability: Mapping[str, Sequence[float]]
    slices: Mapping[str, Mapping[str, Mapping[str, Any]]]
    comparisons: Sequence[Comparison]
    attribution: Mapping[str, Any]
    beyond: Mapping[str, Mapping[str, float]]
    concentration: Mapping[str, Sequence[float]]
    counts: Mapping[str, float]
    ks: Sequence[int]
    at: int
    seconds: float
    stage_seconds: float
    tasks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values: no NaN (null), no numpy."""
        found: dict[str, Any] = _plain(asdict(self))
        return found

    def comparison(self, stage: str, baseline: str, metric: str) -> Comparison | None:
        """The row for this pair and metric, if there is one."""
        wanted = (stage, baseline, metric)
        return next((row for row in self.comparisons if (row.stage, row.baseline, row.metric) == wanted), None)

    def headline(self) -> str:
        """What was found, in two sentences."""
        at, users, single = self.at, f"{self.counts['queries']:,}", self.counts["targets"] == self.counts["queries"]
        mine, theirs = (f"{self.stages[stage][f'recall@{at}']:.1%}" for stage in ("funnel", BASELINE))
        if single:
            first = f"For {mine} of {users} people the item they chose next is among the first {at} shown (popularity: {theirs})."
        else:
            first = f"The first {at} places show {mine} of what {users} people went on to choose (popularity: {theirs})."
        best = str(self.attribution["best_retriever"])
        row = self.comparison("funnel", best, f"ndcg@{at}")
        if row is None:
            return first
        amount = f"{abs(row.difference):.4f} {'above' if row.low > 0 else 'below'}" if row.clear else "not clearly different from"
        value, interval = self.stages["funnel"][f"ndcg@{at}"], f"95% interval {row.low:+.4f} to {row.high:+.4f}"
        return f"{first} nDCG@{at} is {value:.4f}, {amount} that of the best single retriever, {best} ({interval})."

    def table(self) -> Table:
        """The stages by the metrics that people ask for first; the best of each column in bold. Whole in 80 columns."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        single = self.counts["targets"] == self.counts["queries"]
        deep = [k for k in self.ks if k > self.at]
        further = sorted({deep[len(deep) // 2], deep[-1]}) if deep else []
        columns = [f"ndcg@{self.at}", f"mrr@{self.at}", *([] if single else [f"hit_rate@{self.at}"]), f"recall@{self.at}"]
        columns += [f"recall@{k}" for k in further]
        table = Table(
            title=f"{self.counts['queries']:,} users, all {self.counts['items']:,} items ranked",
            caption=self.headline(),
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
            title_justify="left",
            caption_justify="left",
            title_style="bold",
            caption_style="",
        )
        table.add_column("stage", overflow="fold", vertical="bottom")
        for name in columns:
            shown = name.replace("ndcg", "nDCG").replace("mrr", "MRR").replace("hit_rate", "HR").replace("recall", "R")
            shown = f"HR@{self.at}" if single and name == f"recall@{self.at}" else shown
            table.add_column(shown.replace("@", "\n@"), justify="right", no_wrap=True)  # as narrow as the figures below
        table.add_column("cover-\nage", justify="right", no_wrap=True)
        table.add_column("diver-\nsity", justify="right", no_wrap=True)
        rows = {}
        for stage, values in self.stages.items():
            more = [self.beyond[stage][name] for name in ("coverage", "diversity")]
            rows[stage] = [*(_rounded(values[name], 4) for name in columns), *(_rounded(value, 3) for value in more)]
        best = [max(column) for column in zip(*rows.values(), strict=True)]
        for stage, cells in rows.items():
            if stage == "merged":
                table.add_section()
            texts = [Text(cell, style="bold" if cell == top and cell != "" else "") for cell, top in zip(cells, best, strict=True)]
            table.add_row(Text(stage, style="bold" if stage == "funnel" else ""), *texts)
        return table

    def slices_table(self) -> Table:
        """Recall by how much was known of the user, and by how popular the wanted item was: from warm to cold."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        shown = list(dict.fromkeys([BASELINE, str(self.attribution["best_retriever"]), "merged", "funnel"]))
        table = Table(
            title=f"recall@{self.at}, warm and cold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
            title_justify="left",
            title_style="bold",
        )
        table.add_column("slice", overflow="fold", vertical="bottom")
        for name in ("queries,\ntargets", *shown):
            table.add_column(name, justify="right", overflow="fold", vertical="bottom")
        for by, count in (("users", "queries"), ("items", "targets")):
            table.add_section()
            for name, part in self.slices[by].items():
                values = [part["stages"][stage][f"recall@{self.at}"] if part["stages"] else math.nan for stage in shown]
                cells = [Text(_rounded(value, 4), style="bold" if value == max(values) else "") for value in values]
                table.add_row(f"{by}: {name}", f"{part[count]:,}", *cells)
        return table

    def __str__(self) -> str:
        import io
        import sys

        from rich.console import Console

        stream = io.StringIO()
        Console(file=stream, width=110, force_terminal=sys.stdout.isatty()).print(self.table(), self.slices_table())
        return stream.getvalue()


def evaluate(
    funnel: Funnel,
    test: Log,
    ks: Sequence[int] = (1, 5, 10, 20, 50, 100, 200),
    batch: int = 512,
    seed: int = 0,
    resamples: int = 1000,
    quiet: bool = True,
) -> Evaluation:
    """Replays the test log's users through the funnel, all stages, all items.

    test: the held-out half of a split of the log that the funnel was fitted on (same tables). batch: queries held at once.
    seed, resamples: of the bootstrap. Memory: one batch's candidates, 60 values a query and stage, and 9 bytes a candidate for the
    ranker's metrics. Raises SplitError if the test has no wanted event, DataError if its tables are not the funnel's.
    """
    start = time.perf_counter()
    if not ks or min(ks) < 1:
        raise DataError(f"evaluate: ks must be positive numbers, got {list(ks)}")
    cases = _Cases.of(funnel, test)
    tally = _Tally(funnel, sorted(set(ks)))
    with _progress(len(cases.users), quiet) as advance:
        for first in range(0, len(cases.users), batch):
            queries, relevant, happened = cases.part(funnel, first, first + batch)
            before = time.perf_counter()
            stages = funnel.stages(queries, max(ks)) if len(queries) else {}
            tally.stage_seconds += time.perf_counter() - before
            if stages:
                tally.add(queries, relevant, stages)
                if happened is not None:
                    tally.add_tasks(test, happened, stages["ranked"])
            advance(min(batch, len(cases.users) - first))
    if not tally.relevant:
        raise SplitError(f"{test.name}: every wanted item of the test was seen or disliked before, so there is nothing to find")
    counts = {
        "users": len(cases.users),
        "queries": sum(len(part) for part in tally.relevant),
        "targets": int(sum(part.sum() for part in tally.relevant)),
        "dropped_targets": cases.dropped_targets,
        "dropped_users": cases.dropped_users,
        "items": len(funnel.item_ids),
    }
    return tally.evaluation(counts, seed, resamples, start)


class _Cases:
    """The test users, the moment of their first wanted event in the test, and what they wanted."""

    def __init__(self, users: Ints, now: Longs, relevant: Ragged, first: Longs, positives: Log, happened: Ragged | None) -> None:
        self.users, self.now, self.relevant, self.first, self.positives, self.happened = users, now, relevant, first, positives, happened
        self.dropped_targets = self.dropped_users = 0

    @classmethod
    def of(cls, funnel: Funnel, test: Log) -> _Cases:
        if test.items["item"].to_list() != funnel.item_ids or test.n_users != funnel.history.n_users:
            raise DataError(f"{test.name}: its users and items are not those of the funnel; read the log once, then split it")
        positives = test.positives()
        if not len(positives):
            raise SplitError(f"{test.name}: no event of the test counts as wanted, so there is nothing to find")
        codes, items = positives.user_codes, positives.item_codes.astype(np.int64)
        users, first = np.unique(codes, return_index=True)  # the log is in order of time, so the first row is the earliest
        wanted = np.unique(codes * np.int64(test.n_items) + items)  # an item wanted twice is one target
        owners = np.searchsorted(users, wanted // test.n_items)
        relevant = Ragged(offsets_of(np.bincount(owners, minlength=len(users))), (wanted % test.n_items).astype(np.int32))
        learnt = funnel.history.queries(users.astype(np.int32)).history
        if _within(relevant, learnt, test.n_items).all():
            raise SplitError(f"{test.name}: every wanted item of the test is in training; evaluate on the held-out half of a split")
        happened = (
            None if funnel.tasks in ((), WANTED) else _since(test, users.astype(np.int64), np.flatnonzero(says(WANTED[0], test))[first])
        )
        return cls(users.astype(np.int32), positives.times[first], relevant, first.astype(np.int64), positives, happened)

    def part(self, funnel: Funnel, start: int, stop: int) -> tuple[Queries, Ragged, Ragged | None]:
        """Queries of some users and what they wanted that may be shown; users without any such item are left out.

        Where the ranker has declared tasks, also the rows of the test that tell what those users did.
        """
        rows = np.arange(start, min(stop, len(self.users)))
        # One microsecond later, then put back: training events of the very time of the first test event came before it in log order.
        queries = replace(funnel.history.queries(self.users[rows], self.now[rows] + 1), now=self.now[rows])
        if self.positives.context:
            queries = replace(queries, context=self.positives.events.select(self.positives.context)[self.first[rows]])
        wanted = self.relevant.take(rows)
        free = ~_within(wanted, queries.blocked, len(funnel.item_ids))
        lengths = np.bincount(wanted.rows[free], minlength=len(rows))
        self.dropped_targets += int((~free).sum())
        self.dropped_users += int((lengths == 0).sum())
        kept = np.flatnonzero(lengths)
        happened = None if self.happened is None else self.happened.take(rows[kept])
        return queries.take(kept), Ragged(offsets_of(lengths[kept]), wanted.values[free]), happened


def _since(log: Log, users: Longs, first: Longs) -> Ragged:
    """For each user the rows of the log from a first one on."""
    start = np.full(log.n_users, len(log), dtype=np.int64)
    start[users] = first
    rows = np.flatnonzero(np.arange(len(log)) >= start[log.user_codes])
    rows = rows[np.argsort(log.user_codes[rows], kind="stable")]
    return Ragged(offsets_of(np.bincount(log.user_codes[rows], minlength=log.n_users)[users]), rows)


class _Tally:
    """Everything measured, batch after batch; per query where it is to be sliced or resampled."""

    def __init__(self, funnel: Funnel, ks: Sequence[int]) -> None:
        self.funnel, self.ks = funnel, ks
        self.at = min(ks, key=lambda k: abs(k - 10))
        self.retrievers = [retriever.name for retriever in funnel.retrievers]
        self.values: dict[str, dict[str, list[Doubles]]] = defaultdict(lambda: defaultdict(list))
        self.banded: dict[str, dict[str, dict[str, list[Doubles]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
        self.exposure: dict[str, Longs] = {}
        self.relevant: list[Longs] = []
        self.targets = np.zeros(len(ITEM_BANDS), dtype=np.int64)
        self.histories: list[Longs] = []
        self.chance: list[Doubles] = []
        self.ceiling: list[Doubles] = []
        self.ranker: dict[str, list[npt.NDArray[Any]]] = defaultdict(list)
        self.predicted: dict[str, list[tuple[Doubles, Doubles]]] = defaultdict(list)
        self.stage_seconds = 0.0
        self.band_of = _item_bands(funnel.popularity)
        self.labels = _labels(funnel)

    def add(self, queries: Queries, relevant: Ragged, stages: Mapping[str, Candidates]) -> None:
        if BASELINE not in stages:
            stages = {BASELINE: _most_popular(self.funnel, queries, max(self.ks)), **stages}
        seen = sum(len(part) for part in self.relevant)
        bands = [_only(relevant, self.band_of[relevant.values] == band) for band in range(len(ITEM_BANDS))]
        self.targets += [len(band.values) for band in bands]
        for stage in _ordered(stages):
            candidates = stages[stage]
            hit = ranking.hits(candidates.items, relevant)
            self._accuracy(stage, candidates, hit, relevant.lengths)
            self._bands(stage, candidates.items[:, : self.at], bands)
            self._beyond(stage, candidates.items[:, : self.at])
            if stage == "merged":
                self.ceiling.append(ranking.ndcg(np.sort(hit, axis=1)[:, ::-1], relevant.lengths, self.at))
            if stage == "ranked" and "ranker.probability" in candidates.features:
                self._ranker(candidates, hit, seen)
        n = len(self.funnel.item_ids)
        self.relevant.append(relevant.lengths)
        self.histories.append(queries.history.lengths)
        self.chance.append(np.minimum(1.0, self.at / np.maximum(n - queries.blocked.lengths, 1)))

    def add_tasks(self, test: Log, happened: Ragged, ranked: Candidates) -> None:
        """What the ranker predicted, and what happened, wherever that is known."""
        labels = label(self.funnel.tasks, test, happened, ranked.items)
        for place, task in enumerate(self.funnel.tasks):
            known = ranked.present & ~np.isnan(labels[:, :, place])
            predicted = ranked.features[f"ranker.{task.name}"][known]
            self.predicted[task.name].append((labels[known, place].astype(np.float64), predicted.astype(np.float64)))

    def _accuracy(self, stage: str, candidates: Candidates, hit: Bools, relevant: Longs) -> None:
        for k in self.ks:
            for name, metric in METRICS.items():
                self.values[stage][f"{name}@{k}"].append(metric(hit, relevant, k))
        self.values[stage]["recall@all"].append(ranking.recall(hit, relevant, hit.shape[1]))
        self.values[stage]["length"].append(candidates.present.sum(axis=1).astype(np.float64))

    def _bands(self, stage: str, top: Ints, bands: Sequence[Ragged]) -> None:
        for name, wanted in zip(ITEM_BANDS, bands, strict=True):
            hit = ranking.hits(top, wanted)
            for metric in ("recall", "ndcg"):
                self.banded[name][stage][f"{metric}@{self.at}"].append(METRICS[metric](hit, wanted.lengths, self.at))

    def _beyond(self, stage: str, top: Ints) -> None:
        shown = beyond.exposure(top, len(self.funnel.item_ids))
        self.exposure[stage] = self.exposure[stage] + shown if stage in self.exposure else shown
        values = self.values[stage]
        values["novelty"].append(beyond.novelty(top, self.funnel.popularity))
        values["popularity"].append(beyond.average_popularity(top, self.funnel.popularity))
        if self.labels is not None:
            values["diversity"].append(beyond.intra_list_diversity(top, self.labels))

    def _ranker(self, candidates: Candidates, hit: Bools, seen: int) -> None:
        probability = candidates.features["ranker.probability"]
        known = candidates.present & np.isfinite(probability)
        self.ranker["probability"].append(probability[known])
        self.ranker["label"].append(hit[known])
        self.ranker["query"].append((np.nonzero(known)[0] + seen).astype(np.int32))

    def evaluation(self, counts: Mapping[str, float], seed: int, resamples: int, start: float) -> Evaluation:
        """The means, slices and intervals of what was added."""
        values = {stage: {name: np.concatenate(parts) for name, parts in columns.items()} for stage, columns in self.values.items()}
        measured = {stage: {name: _mean(column) for name, column in columns.items()} for stage, columns in values.items()}
        aside = ("novelty", "popularity", "diversity")
        stages = {stage: {name: value for name, value in row.items() if name not in aside} for stage, row in measured.items()}
        of_lists = {stage: {name: row.get(name, math.nan) for name in aside} for stage, row in measured.items()}
        whole = {
            stage: {"coverage": beyond.coverage(shown), "gini": beyond.gini(shown), "half_share": beyond.half_share(shown)}
            for stage, shown in self.exposure.items()
        }
        attribution = self._attribution(stages)
        ranker, reliability = self._ranker_metrics()
        return Evaluation(
            stages=stages,
            ranker=ranker,
            reliability=reliability,
            slices={"users": self._user_slices(values), "items": self._item_slices()},
            comparisons=self._comparisons(values, str(attribution["best_retriever"]), seed, resamples),
            attribution=attribution,
            beyond={stage: {**whole[stage], **of_lists[stage]} for stage in stages},
            concentration=self._concentration(),
            counts={**counts, f"chance_recall@{self.at}": _mean(np.concatenate(self.chance))},
            ks=tuple(self.ks),
            at=self.at,
            seconds=time.perf_counter() - start,
            stage_seconds=self.stage_seconds,
            tasks=self._task_metrics(),
        )

    def _concentration(self) -> dict[str, list[float]]:
        tops = np.unique(np.geomspace(1, len(self.funnel.item_ids), 50).round().astype(np.int64))
        shown: dict[str, npt.NDArray[Any]] = {"training log": self.funnel.popularity, **self.exposure}
        return {"top items": tops.tolist(), **{name: beyond.concentration(x, tops).tolist() for name, x in shown.items()}}

    def _attribution(self, stages: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        """Where the loss and the gain are. The best retriever is chosen on these very queries: the hardest one to beat."""
        ndcg = f"ndcg@{self.at}"
        best = max(self.retrievers, key=lambda name: stages[name][ndcg])
        ranked = "ranked" if "ranked" in stages else "merged"
        return {
            "best_retriever": best,
            "retrieval_recall": stages["merged"]["recall@all"],
            "retrieval_lost": 1.0 - stages["merged"]["recall@all"],
            "candidates": stages["merged"]["length"],
            f"best_{ndcg}": stages[best][ndcg],
            f"merged_{ndcg}": stages["merged"][ndcg],
            f"ranked_{ndcg}": stages[ranked][ndcg],
            f"funnel_{ndcg}": stages["funnel"][ndcg],
            f"perfect_ranking_{ndcg}": _mean(np.concatenate(self.ceiling)),
            "ranking_gained": stages[ranked][ndcg] - stages[best][ndcg],
            "reranking_gained": stages["funnel"][ndcg] - stages[ranked][ndcg],
        }

    def _ranker_metrics(self) -> tuple[dict[str, float], dict[str, list[float]]]:
        if not self.ranker:
            return {}, {}
        label, probability, query = (np.concatenate(self.ranker[name]) for name in ("label", "probability", "query"))
        if not len(label):
            return {}, {}
        probability = np.clip(probability, 0.0, 1.0)
        diagram = pointwise.reliability(label, probability, bins=20)
        metrics = {
            "auc": pointwise.auc(label, probability),
            "gauc": pointwise.grouped_auc(label, probability, query).value,
            "logloss": pointwise.logloss(label, probability),
            "normalised_entropy": pointwise.normalised_entropy(label, probability),
            "calibration_error": pointwise.calibration_error(label, probability),
            "calibration_ratio": pointwise.calibration_ratio(label, probability),
            "base_rate": float(label.mean()),
            "candidates": len(label),
            "positives": int(label.sum()),
        }
        return metrics, {"predicted": diagram.predicted.tolist(), "observed": diagram.observed.tolist(), "rows": diagram.mass.tolist()}

    def _task_metrics(self) -> dict[str, dict[str, float]]:
        found = {}
        for task in self.funnel.tasks if self.predicted else ():
            truth, predicted = (np.concatenate(column) for column in zip(*self.predicted[task.name], strict=True))
            counts = {"candidates": len(truth), "positives": int((truth > 0).sum())}
            found[task.name] = {**(task.metrics(truth, predicted) if len(truth) else {}), **counts}
        return found

    def _user_slices(self, values: Mapping[str, Mapping[str, Doubles]]) -> dict[str, dict[str, Any]]:
        events = np.concatenate(self.histories)
        slices, low = {}, 0
        for name, high in USER_BANDS:
            inside = (events >= low) & (events <= (events.max(initial=0) if high is None else high))
            wanted = [f"recall@{self.at}", f"ndcg@{self.at}"]
            rows = {stage: {metric: _mean(columns[metric][inside]) for metric in wanted} for stage, columns in values.items()}
            slices[name] = {"queries": int(inside.sum()), "stages": rows if inside.any() else {}}
            low = (high or 0) + 1
        return slices

    def _item_slices(self) -> dict[str, dict[str, Any]]:
        slices = {}
        for band, (name, stages) in enumerate(self.banded.items()):
            rows = {stage: {metric: _mean(np.concatenate(parts)) for metric, parts in columns.items()} for stage, columns in stages.items()}
            targets = int(self.targets[band])
            slices[name] = {"items": int((self.band_of == band).sum()), "targets": targets, "stages": rows if targets else {}}
        return slices

    def _comparisons(self, values: Mapping[str, Mapping[str, Doubles]], best: str, seed: int, resamples: int) -> list[Comparison]:
        pairs = [("funnel", BASELINE), ("funnel", best)]
        if "ranked" in values:
            pairs.append(("ranked", "merged"))
        if self.funnel.rerankers:
            pairs.append(("funnel", "ranked" if "ranked" in values else "merged"))
        rows = [(stage, base, f"{name}@{self.at}") for stage, base in dict.fromkeys(pairs) for name in COMPARED]
        differences = np.stack([values[stage][metric] - values[base][metric] for stage, base, metric in rows])
        low, high = paired_bootstrap(differences, resamples=resamples, seed=seed)
        means = differences.mean(axis=1)
        return [Comparison(*row, float(means[i]), float(low[i]), float(high[i])) for i, row in enumerate(rows)]


def _most_popular(funnel: Funnel, queries: Queries, k: int) -> Candidates:
    """The baseline, where the funnel has no `popular` of its own: the items with most training events that may be shown. [B, K]"""
    order = np.argsort(-funnel.popularity, kind="stable")
    order = order[funnel.popularity[order] > 0]
    if queries.allowed is not None:
        order = order[queries.allowed[order]]
    order = order[: k + int(queries.blocked.lengths.max(initial=0))]
    prefix = np.broadcast_to(order.astype(np.int32), (len(queries), len(order)))
    free = ~ranking.hits(prefix, queries.blocked)
    place = np.cumsum(free, axis=1) - 1
    rows, columns = np.nonzero(free & (place < k))
    items = np.full((len(queries), k), NOTHING, dtype=np.int32)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    items[rows, place[rows, columns]] = order[columns]
    scores[rows, place[rows, columns]] = funnel.popularity[order[columns]]
    return Candidates.of(items, scores, BASELINE)


def _item_bands(popularity: npt.NDArray[Any]) -> Longs:
    """0 cold (no training event), 1 tail, 2 head (the fewest items that hold half of all training events). int64 [N]."""
    counts = np.asarray(popularity, dtype=np.float64)
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    bands = np.where(counts > 0, 1, 0).astype(np.int64)
    bands[order[(before < counts.sum() / 2) & (counts[order] > 0)]] = 2
    return bands


def _labels(funnel: Funnel) -> Ragged | None:
    """The first list column of the item table (genres, tags) as codes, for diversity. N rows, or None if there is no such column."""
    import polars as pl

    column = next((c for c in funnel.items.iter_columns() if isinstance(c.dtype, pl.List)), None)
    if column is None:
        return None
    sets = column.fill_null([]).list.drop_nulls().list.unique(maintain_order=True)
    values = sets.explode(empty_as_null=False).cast(pl.String).cast(pl.Categorical).to_physical()
    return Ragged(offsets_of(sets.list.len().to_numpy().astype(np.int64)), values.to_numpy().astype(np.int32))


def _within(values: Ragged, rows: Ragged, n_items: int) -> Bools:
    """Which of the values (each once a row) are among those of the same row of `rows`. Cost: a binary search for each of `rows`."""
    found = np.zeros(len(values.values), dtype=np.bool_)
    if len(found):
        keys = values.rows * n_items + values.values
        order = np.argsort(keys)
        others = rows.rows * n_items + rows.values
        place = order[np.minimum(np.searchsorted(keys, others, sorter=order), len(keys) - 1)]
        found[place[keys[place] == others]] = True
    return found


def _only(rows: Ragged, keep: Bools) -> Ragged:
    return Ragged(offsets_of(np.bincount(rows.rows[keep], minlength=len(rows))), rows.values[keep])


def _ordered(stages: Mapping[str, Candidates]) -> list[str]:
    """Popularity first, the rest as the funnel gives them."""
    return sorted(stages, key=lambda stage: stage != BASELINE)


def _mean(values: Doubles) -> float:
    """The mean of what is defined; NaN if nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def _rounded(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Any]:
    """A bar on standard error that counts users; gives the function that moves it."""
    if quiet:
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("  evaluate"), BarColumn(), MofNCompleteColumn(), TextColumn("users"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("evaluate", total=total)
        yield lambda done: bar.advance(task, done)
