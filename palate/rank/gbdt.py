"""Gradient boosted trees, point-wise or by LambdaRank: the ranker to beat on tables of numbers. By LightGBM; needs no torch.

Ke et al. 2017, "LightGBM: A Highly Efficient Gradient Boosting Decision Tree". Each tree f_m is fitted to the gradients g and curvatures
h of the loss at the scores so far, s <- s + learning_rate f_m, and a leaf with rows I gives -sum_I g / (sum_I h + l2)
(Friedman 2001, "Greedy Function Approximation", section 4.5; Chen and Guestrin 2016, equation 5).

    binary       g = p - y, h = p (1 - p), p = 1 / (1 + exp(-s))
    rating       g = s - y, h = 1: least squares, from where user and item alone put a rating (`palate.rank.baseline`)
    lambdarank   for each pair of a query with y_i > y_j: lambda_ij = -|delta nDCG_ij| / (1 + exp(s_i - s_j)), g_i = sum_j lambda_ij -
                 sum_k lambda_ki (Burges 2010, "From RankNet to LambdaRank to LambdaMART", sections 4 and 7, equation 6 and after)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import lightgbm
import numpy as np
import pydantic

from palate.rank.base import Examples, Pairs, Ranker, candidate_features, training_pairs
from palate.rank.baseline import COLUMNS, Baseline, Rated
from palate.rank.tasks import Kind
from palate.types import Candidates, ConfigError, DataError, Floats, Queries, Run, State

if TYPE_CHECKING:
    from palate.features.encode import Encoder

BLOCK = 65_536


@dataclass(frozen=True)
class Columns:
    """What the trees see, column after column: dense features, features of the candidates, categories (one column each, by id), and
    bags (one column 0/1 for each id)."""

    dense: tuple[str, ...]
    candidate: tuple[str, ...]
    categories: tuple[str, ...]
    bags: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, encoder: Encoder, candidates: Candidates, largest: int) -> Columns:
        """Tables of more than `largest` rows (users, items) are left out: trees cannot use them well."""
        inputs = encoder.inputs()
        many = {feature.name for feature in encoder.features.features if feature.kind in ("bag", "sequence")}
        small = [feature for feature in inputs.sparse if feature.rows <= largest]
        categories = tuple(feature.name for feature in small if feature.name not in many)
        bags = tuple((feature.name, feature.rows) for feature in small if feature.name in many)
        return cls(inputs.dense, tuple(candidates.features), categories, bags)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each column."""
        return (*self.dense, *self.candidate, *self.categories, *(f"{name}={code}" for name, rows in self.bags for code in range(rows)))

    @property
    def categorical(self) -> list[int]:
        """Which columns hold categories."""
        start = len(self.dense) + len(self.candidate)
        return list(range(start, start + len(self.categories)))

    def matrix(self, encoder: Encoder, queries: Queries, candidates: Candidates, pairs: Pairs) -> Floats:
        """float32 [R, C]; NaN where unknown (the trees learn which way it goes)."""
        table = np.zeros((len(pairs), len(self.names)), dtype=np.float32)
        for part, block in pairs.blocks(BLOCK):
            encoded = encoder.encode(queries, block.rows, block.items)
            if encoded.inputs.dense != self.dense:
                raise DataError("rank: the encoder's features are not those that the ranker learnt from; fit it again")
            rows = table[part]
            rows[:, : len(self.dense)] = encoded.dense
            rows[:, len(self.dense) : len(self.dense) + len(self.candidate)] = candidate_features(candidates, self.candidate, block)
            for column, name in zip(self.categorical, self.categories, strict=True):
                rows[:, column] = np.nan
                rows[encoded.sparse[name].rows, column] = encoded.sparse[name].values
            start = len(self.dense) + len(self.candidate) + len(self.categories)
            for name, size in self.bags:
                rows[encoded.sparse[name].rows, start + encoded.sparse[name].values] = 1.0
                start += size
        return table


class GBDT(Ranker):
    """Boosted trees over dense features, what the retrievers said (`ease.score`, `ease.rank`), small categories and small bags.

    Scores are probabilities for "binary", and raw for "lambdarank" (only differences within a query mean something).
    Cost: rows x columns a tree in training, depth x trees a candidate in scoring. Deterministic for a seed, at any number of threads.
    """

    class Config(Ranker.Config):
        """objective: of clicks: "binary" takes labels 0/1 and gives probabilities; "lambdarank" takes grades 0, 1, ... (gain 2^grade - 1).
        A task that is a rating is learnt by least squares and served in its units; some thousand ratings are enough.

        trees: at most; stops after `patience` trees without a better validation value (ndcg@10 or logloss); None: never.
        leaves, min_rows (in a leaf), l2, column_share (of the columns each tree sees): of one tree. truncation: LambdaRank's pairs hold
        at least one of the top so many. negatives_per_query: see `base.training_pairs` (lambdarank takes no weights).
        max_categories: larger tables are not used.
        """

        kinds: ClassVar[tuple[Kind, ...]] = ("click", "rating")

        objective: Literal["binary", "lambdarank"] = "lambdarank"
        trees: int = pydantic.Field(500, ge=1)
        learning_rate: float = pydantic.Field(0.05, gt=0)
        leaves: int = pydantic.Field(15, ge=2)
        min_rows: int = pydantic.Field(100, ge=1)
        l2: float = pydantic.Field(10.0, ge=0)
        column_share: float = pydantic.Field(0.8, gt=0, le=1)
        truncation: int = pydantic.Field(30, ge=1)
        patience: int | None = pydantic.Field(50, ge=1)
        negatives_per_query: int | None = pydantic.Field(50, ge=1)
        max_categories: int = pydantic.Field(64, ge=2)
        threads: int = pydantic.Field(2, ge=1)

    config: Config

    def fit(self, examples: Examples, run: Run = Run()) -> Self:
        """One forest a task. Errors: DataError where a task has no positive, or labels do not suit the objective."""
        self.tasks = examples.tasks
        self.columns = Columns.of(examples.encoder, examples.candidates, self.config.max_categories)
        self.forests: dict[str, lightgbm.Booster] = {}
        self.baselines: dict[str, Baseline] = {}
        self.curves: dict[str, list[float]] = {}
        pairs, weights = training_pairs(examples, self.config.negatives_per_query, run.seed)
        held = np.broadcast_to(examples.validation[:, None], examples.candidates.items.shape)
        held_pairs = Pairs.of(examples.candidates, held)
        table = self.columns.matrix(examples.encoder, examples.queries, examples.candidates, pairs)
        held_table = self.columns.matrix(examples.encoder, examples.queries, examples.candidates, held_pairs)
        for number, task in enumerate(self.tasks):
            if self._rates(task):
                train, validation = self._rated(examples, number, ((pairs, table), (held_pairs, held_table)))
            else:
                train = self._data(examples, number, pairs, table, weights)
                if train is None:
                    raise DataError(f"rank: task {task!r} has no positive label among the training candidates")
                validation = self._data(examples, number, held_pairs, held_table, None, train)
            self.forests[task] = self._grow(train, validation, task, run.seed)
        return self

    def _rates(self, task: str) -> bool:
        """Whether a task is a rating."""
        return any(declared.name == task and declared.kind == "rating" for declared in self.config.tasks)

    def _rated(
        self, examples: Examples, task: int, parts: tuple[tuple[Pairs, Floats], tuple[Pairs, Floats]]
    ) -> tuple[lightgbm.Dataset, lightgbm.Dataset | None]:
        """The rated rows, which begin at what the ratings before the cut say; kept for serving is what all ratings say."""
        name, history, users = examples.tasks[task], examples.encoder.history, examples.queries.users
        sizes, before = (history.n_users, history.n_items), examples.rated.get(name, Rated.none())
        labels = examples.labels[:, :, task]
        known = Pairs.of(examples.candidates, ~np.isnan(labels))
        after = Rated(users[known.rows], known.items, labels[known.rows, known.places])
        self.baselines[name] = Baseline.fit(before.and_of_known(after), *sizes)
        early = Baseline.fit(before, *sizes) if len(before.values) else Baseline.fit(after, *sizes).without_bias()
        found: list[lightgbm.Dataset] = []
        for pairs, table in parts:
            values = labels[pairs.rows, pairs.places]
            kept = np.flatnonzero(~np.isnan(values))
            who, what = users[pairs.rows[kept]], pairs.items[kept]
            if not len(kept):
                if not found:
                    raise DataError(f"rank: task {name!r} has no rating among the training candidates")
                return found[0], None
            found.append(
                lightgbm.Dataset(
                    np.concatenate([table[kept], early.columns(who, what)], axis=1),
                    label=values[kept],
                    init_score=early(who, what),
                    reference=found[0] if found else None,
                    feature_name=[f"c{column}" for column in range(len(self.columns.names) + len(COLUMNS))],
                    categorical_feature=self.columns.categorical,
                    params=self._settings(0, name),
                )
            )
        return found[0], found[1]

    def _data(
        self, examples: Examples, task: int, pairs: Pairs, table: Floats, weights: Floats | None, reference: lightgbm.Dataset | None = None
    ) -> lightgbm.Dataset | None:
        """The labelled rows of a task; None without a positive. Lists without a positive teach LambdaRank nothing and are left out."""
        labels = examples.labels[pairs.rows, pairs.places, task]
        keep = ~np.isnan(labels)
        ranking = self.config.objective == "lambdarank"
        if ranking:
            keep &= np.bincount(pairs.rows, labels > 0, len(examples.queries))[pairs.rows] > 0
        kept = np.flatnonzero(keep)
        labels = labels[kept]
        if not (labels > 0).any():
            return None
        if ranking and not ((labels == np.floor(labels)) & (labels >= 0) & (labels <= 30)).all():
            raise DataError(
                f'rank: task {examples.tasks[task]!r}: "lambdarank" takes grades 0, 1, ... 30; bucket the labels or use "binary"'
            )
        if not ranking and not np.isin(labels, (0.0, 1.0)).all():
            raise DataError(f'rank: task {examples.tasks[task]!r}: "binary" takes labels 0 and 1; use "lambdarank" for grades')
        return lightgbm.Dataset(
            table if len(kept) == len(table) else table[kept],
            label=labels,
            weight=None if ranking or weights is None else weights[kept],
            group=np.unique(pairs.rows[kept], return_counts=True)[1] if ranking else None,
            reference=reference,
            feature_name=[f"c{column}" for column in range(len(self.columns.names))],
            categorical_feature=self.columns.categorical,
            params=self._settings(0, examples.tasks[task]),
        )

    def _settings(self, seed: int, task: str) -> dict[str, Any]:
        own, rates = self.config, self._rates(task)
        loss: dict[str, Any] = {"metric": "binary_logloss"} if own.objective == "binary" else {"metric": "ndcg", "eval_at": [10]}
        return {
            "objective": "regression" if rates else own.objective,
            "learning_rate": own.learning_rate,
            "num_leaves": own.leaves,
            "min_data_in_leaf": own.min_rows,
            "lambda_l2": own.l2,
            "feature_fraction": own.column_share,
            "lambdarank_truncation_level": own.truncation,
            "num_threads": own.threads,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
            **({"metric": "rmse"} if rates else loss),
        }

    def _grow(self, train: lightgbm.Dataset, validation: lightgbm.Dataset | None, task: str, seed: int) -> lightgbm.Booster:
        curves: dict[str, Any] = {}
        watching = []
        if validation is not None:
            watching.append(lightgbm.record_evaluation(curves))
            if self.config.patience is not None:
                watching.append(lightgbm.early_stopping(self.config.patience, verbose=False))
        sets = [] if validation is None else [validation]
        forest = lightgbm.train(
            self._settings(seed, task),
            train,
            self.config.trees,
            valid_sets=sets,
            valid_names=["validation"] * len(sets),
            callbacks=watching,
        )
        for metric, values in curves.get("validation", {}).items():
            name = metric.removeprefix("binary_")
            self.curves[name if len(self.tasks) == 1 else f"{task}.{name}"] = [float(value) for value in values]
        # Only the text of the best trees is kept, so that a forest is the same before and after it was saved.
        return lightgbm.Booster(model_str=forest.model_to_string(num_iteration=forest.best_iteration))

    def score(self, queries: Queries, candidates: Candidates, encoder: Encoder) -> Floats:
        """Scores [B, K, T]: probabilities ("binary"), raw scores ("lambdarank"), or ratings; -inf where there is no candidate."""
        if not getattr(self, "forests", None):
            raise ConfigError(f"{self.name}: not fitted; call fit first")
        scores = np.full((*candidates.items.shape, len(self.tasks)), -np.inf, dtype=np.float32)
        for _, block in Pairs.of(candidates).blocks(BLOCK):
            table = self.columns.matrix(encoder, queries, candidates, block)
            for number, task in enumerate(self.tasks):
                start = self.baselines.get(task)
                if start is None:
                    said = self.forests[task].predict(table, num_threads=self.config.threads)
                else:
                    pairs = (queries.users[block.rows], block.items)
                    seen = np.concatenate([table, start.columns(*pairs)], axis=1)
                    said = start(*pairs) + self.forests[task].predict(seen, num_threads=self.config.threads)
                    said = np.clip(said, start.least, start.most)
                scores[block.rows, block.places, number] = said
        return scores

    def importances(self) -> dict[str, float]:
        """Share of the total gain of all splits that each column brought, largest first; columns never split on are left out."""
        names, gains = (*self.columns.names, *COLUMNS), np.zeros(len(self.columns.names) + len(COLUMNS))
        for forest in self.forests.values():
            own = forest.feature_importance("gain")
            gains[: len(own)] += own
        shares = gains / max(float(gains.sum()), 1e-12)
        order = np.argsort(-shares, kind="stable")
        return {names[column]: float(shares[column]) for column in order if shares[column] > 0}

    def state(self) -> State:
        """The forests as LightGBM's text, which holds numbers and no code."""
        texts = {task: np.frombuffer(forest.model_to_string().encode(), dtype=np.uint8) for task, forest in self.forests.items()}
        arrays: dict[str, Any] = dict(texts)
        for task, baseline in self.baselines.items():
            arrays |= baseline.arrays(f"baseline:{task}")
        meta = {"tasks": list(self.tasks), "columns": asdict(self.columns), "rated": list(self.baselines)}
        return State(arrays=arrays, meta=meta)

    def restore(self, state: State) -> Self:
        """Takes over a state that `state` gave."""
        columns: Mapping[str, Any] = state.meta["columns"]
        bags = tuple((str(name), int(rows)) for name, rows in columns["bags"])
        self.columns = Columns(tuple(columns["dense"]), tuple(columns["candidate"]), tuple(columns["categories"]), bags)
        self.tasks = tuple(state.meta["tasks"])
        self.forests = {task: lightgbm.Booster(model_str=state.arrays[task].tobytes().decode()) for task in self.tasks}
        self.baselines = {task: Baseline.of_arrays(f"baseline:{task}", state.arrays) for task in state.meta.get("rated", ())}
        self.curves = {}
        return self
