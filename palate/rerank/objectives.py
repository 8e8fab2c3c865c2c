"""Several objectives in one order, by declared weights: engagement, satisfaction, responsibility.

Scalarisation, as Z. Zhao et al., "Recommending what video to watch next: a multitask ranking system" (RecSys 2019), section 4.2, combine
predicted engagement and satisfaction, and M. T. Ribeiro et al., "Pareto-efficient hybridization for multi-objective recommender systems"
(RecSys 2012), weigh accuracy against other aims:

    score(i) = sum over objectives o of weight(o) x scale(formula(o)(i))

A formula is one of `palate.rank.blend`, over what the ranker predicts of each candidate. scale brings every objective of a list to between
0 (its worst candidate) and 1 (its best), so that weights say how much each objective matters and not in which units it is counted.

    [[rerank]]
    use = "objectives"
    formulas = { engagement = "click + 0.1 * log1p(watch)", satisfaction = "rating", responsibility = "1 - report" }
    weights = { engagement = 1.0, satisfaction = 0.5, responsibility = 0.5 }
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import pydantic

from palate.rank.blend import Blend
from palate.rerank.base import Reranker
from palate.rerank.places import by, lowest_and_spread
from palate.types import Candidates, ConfigError, Queries

_RANKER = "ranker."


class Objectives(Reranker):
    """Unlike the ranker's own `blend` it weighs objectives within each list, and its weights may change with a request.

    What formulas may name: each task of the ranker (`click` for the feature `ranker.click`), `score`, and every other feature with `_` for
    `.` (`ease_score`). Cost: O(candidates x objectives) a query. Errors: ConfigError for a name that the candidates do not carry,
    DataError where a formula gives no finite number.
    """

    class Config(Reranker.Config):
        """formulas: objective -> formula. weights: objective -> weight, 0 or more (left out: 1). scale: within each list, or `raw`
        values."""

        formulas: dict[str, str] = pydantic.Field(default_factory=lambda: {"engagement": "score"})
        weights: dict[str, float] = pydantic.Field(default_factory=dict)
        scale: str = pydantic.Field("minmax", pattern="^(minmax|raw)$")

        @pydantic.model_validator(mode="after")
        def _weights_have_formulas(self) -> Objectives.Config:
            if not self.formulas:
                raise ValueError("at least one objective is needed")
            for name, weight in self.weights.items():
                if name not in self.formulas:
                    raise ValueError(f"weights: {name!r} is no objective; there are {', '.join(self.formulas)}")
                if not (np.isfinite(weight) and weight >= 0):
                    raise ValueError(f"weights: 0 or more, of {name!r} it is {weight:g}; to turn an objective round, do so in its formula")
            return self

    config: Config

    def rerank(self, queries: Queries, candidates: Candidates, k: int) -> Candidates:
        present = candidates.present
        total: npt.NDArray[np.float64] = np.zeros(present.shape)
        if present.any():
            columns = {_word(name): column[present] for name, column in candidates.features.items()}
            columns |= {name.removeprefix(_RANKER): columns[_word(name)] for name in candidates.features if name.startswith(_RANKER)}
            columns["score"] = candidates.scores[present]
            names = tuple(sorted(name for name in columns if name.isidentifier()))
            for objective, formula in self.config.formulas.items():
                value = np.zeros(present.shape)
                value[present] = _parsed(objective, formula, names)(columns)
                if self.config.scale == "minmax":
                    low, spread = lowest_and_spread(value, present)
                    value = (value - low) / np.where(spread > 0, spread, 1)
                total += self.config.weights.get(objective, 1.0) * value
        return by(candidates, total, k)


@functools.lru_cache(maxsize=256)
def _parsed(objective: str, formula: str, names: tuple[str, ...]) -> Blend:
    try:
        return Blend.parse(formula, names)
    except ConfigError as error:
        raise ConfigError(f"objectives.formulas.{objective}: {str(error).removeprefix('blend: ')}") from None


def _word(name: str) -> str:
    return name.replace(".", "_").replace("-", "_")
