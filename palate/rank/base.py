"""What a ranker is: it learns from labelled candidates, and scores the candidates of each query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

from palate import config
from palate.features.encode import Encoder
from palate.types import Bools, Candidates, Floats, Queries, Run


@dataclass(frozen=True)
class Examples:
    """Labelled candidates: what the retrievers really brought, and what happened afterwards.

    queries: Q queries as of the cut. candidates: [Q, K]. labels: float32 [Q, K, T], one column a task.
    validation: bool [Q], queries held back for early stopping and calibration.
    """

    encoder: Encoder
    queries: Queries
    candidates: Candidates
    labels: Floats
    validation: Bools
    tasks: tuple[str, ...] = ("label",)


class Ranker(config.Component, ABC):
    """Scores candidates. `fit` keeps the encoder of its examples; `score` encodes with it."""

    class Config(config.Config):
        """name: what tables call it (default: its file's name)."""

        name: str | None = None

    config: Config

    @abstractmethod
    def fit(self, examples: Examples, run: Run = Run()) -> Self:
        """Learns from labelled candidates; forgets whatever it knew before."""

    @abstractmethod
    def score(self, queries: Queries, candidates: Candidates, encoder: Encoder) -> Floats:
        """Scores [B, K, T], one column a task; larger is better; -inf where there is no candidate."""
