"""A bundle as it is served: loaded, checked, warmed up, with the cheaper funnel that answers when time is short."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from palate import config
from palate.funnel import Funnel
from palate.rerank.base import Reranker
from palate.rerank.constraints import Constraints
from palate.rerank.demotion import Demotion
from palate.retrieve.base import Retriever
from palate.serve import bundle
from palate.serve.person import Rule
from palate.serve.shelf import Shelf, version_of
from palate.types import ConfigError, Request

ROUNDS = 3


@dataclass(frozen=True)
class Served:
    """What one request needs of a bundle. Never changed: another bundle is another Served.

    cursors: id of a store -> up to which cursor its events are in the bundle already. fallback: some retrievers, no ranker, no rerankers
    but the rules. seconds: of one request, as it was when warm.
    """

    name: str
    version: str
    funnel: Funnel
    fallback: Funnel
    manifest: Mapping[str, Any]
    cursors: Mapping[str, int]
    rule: Rule
    counts_impressions: bool
    loaded: datetime
    seconds: float

    def knobs(self, asked: Mapping[str, Mapping[str, Any] | None]) -> Funnel:
        """The funnel with other settings of its rerankers. ConfigError for a name or a setting that is not there."""
        if not asked:
            return self.funnel
        names = [reranker.name for reranker in self.funnel.rerankers]
        for name in asked:
            if name not in names:
                raise ConfigError(f"rerank.{name[:80]}: {config.unknown_key(name[:80], names)}")
        changed: list[Reranker] = []
        for reranker in self.funnel.rerankers:
            settings = asked.get(reranker.name, {})
            if settings is not None:
                changed.append(reranker.with_settings(**settings) if settings else reranker)
        return self.funnel.with_rerankers(changed)


def load(shelf: Shelf, name: str, trust: Sequence[str] = ()) -> Served:
    """Loads, checks and warms up a bundle of the shelf. BundleError of one line if anything is wrong with it.

    Cost: reading it, its checksums, and some requests.
    """
    folder = shelf.path(name)
    version = version_of(folder)
    funnel, manifest = bundle.load(folder, trust=trust)
    told = manifest.get("data", {}).get("store") or {}
    cursors = {str(told["id"]): int(told["cursor"])} if told else {}
    users = funnel.users["user"].head(1000).to_list()
    samples = [Request(k=10), *(Request(user=user, k=10) for user in users[:: max(1, len(users) // 4)][:4])]
    fallback = funnel.cheaper([_quickest(funnel, samples)], lambda reranker: isinstance(reranker, Constraints))
    seconds = _warm(funnel, samples)
    _warm(fallback, samples)
    return Served(
        name=name,
        version=version,
        funnel=funnel,
        fallback=fallback,
        manifest=manifest,
        cursors=cursors,
        rule=Rule(manifest.get("data", {}).get("positive_value")),
        counts_impressions=any(isinstance(reranker, Demotion) for reranker in funnel.rerankers),
        loaded=datetime.now(UTC),
        seconds=seconds,
    )


def _warm(funnel: Funnel, samples: Sequence[Request]) -> float:
    """Runs every path once and more; returns the median seconds of a request."""
    taken = []
    for _ in range(ROUNDS):
        for request in samples:
            began = time.perf_counter()
            funnel.recommend([request])
            taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def _quickest(funnel: Funnel, samples: Sequence[Request]) -> str:
    """The quickest retriever, among those that serve anybody if there are any."""

    def seconds(retriever: Retriever) -> float:
        queries = [funnel.queries([request]) for request in samples]
        best = np.inf
        for _ in range(3):
            began = time.perf_counter()
            for asked in queries:
                retriever.retrieve(asked, retriever.config.quota)
            best = min(best, time.perf_counter() - began)
        return best

    anybody = [retriever for retriever in funnel.retrievers if "context" in retriever.serves_new_users]
    return min(anybody or funnel.retrievers, key=seconds).name
