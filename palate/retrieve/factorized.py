"""How often two towers find what they are to find among all items: the metrics to watch while they train.

    rank_b = |{j: s_bj > s_b+}| + |{j < i+: s_bj = s_b+}|,   recall@k = mean of [rank_b < k],   MRR = mean of 1 / (1 + rank_b)

over the whole catalogue, nothing sampled: the loss of a batch tells only how the positive stands among the negatives of the batch, and
which of two negatives samplers is better cannot be read from it. This is FactorizedTopK of TensorFlow Recommenders (2020); sampled
metrics mislead (Krichene and Rendle 2020, "On Sampled Metrics for Item Recommendation").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from palate.features.history import History
from palate.retrieve.topk import BLOCK
from palate.types import Floats, Ints, Log, Longs, Queries, Ragged

KS = (1, 10, 100)


def positive_ranks(queries: Floats, items: Floats, positives: Ints, blocked: Ragged | None = None) -> Longs:
    """From 0, the place of each query's positive among all items, int64 [B]: the place it has in the list of exact search.

    queries: [B, D]. items: [N, D]. positives: item codes [B]. blocked: items that are left out (a positive never is). Cost: O(B N D)
    without any sorting; memory O(`BLOCK`).
    """
    ranks = np.zeros(len(queries), dtype=np.int64)
    size = max(1, BLOCK // max(len(items), 1))
    for start in range(0, len(queries), size):
        own, wanted = queries[start : start + size], positives[start : start + size]
        scores = own @ items.T
        rows = np.arange(len(own))
        target = scores[rows, wanted].copy()
        if blocked is not None:
            hidden = blocked.take(np.arange(start, start + len(own)))
            scores[hidden.rows, hidden.values] = -np.inf
        over = np.count_nonzero(scores > target[:, None], axis=1)
        tied = np.flatnonzero(np.count_nonzero(scores == target[:, None], axis=1) > 1)
        for row in tied.tolist():
            over[row] += np.count_nonzero(scores[row, : wanted[row]] == target[row])
        # A score that is no number finds nothing.
        ranks[start : start + size] = np.where(np.isnan(target), len(items), over)
    return ranks


def factorized_top_k(
    queries: Floats, items: Floats, positives: Ints, *, ks: Sequence[int] = KS, blocked: Ragged | None = None
) -> dict[str, float]:
    """`recall@k` for each k, and `mrr`, of held-out (query, positive) pairs against every item. Arguments as of `positive_ranks`."""
    ranks = positive_ranks(queries, items, positives, blocked)
    found = {f"recall@{k}": float((ranks < k).mean()) if len(ranks) else 0.0 for k in ks}
    return found | {"mrr": float((1 / (1 + ranks)).mean()) if len(ranks) else 0.0}


class Towers(Protocol):
    """A retriever of two towers, in training or trained."""

    def encode_queries(self, queries: Queries) -> Floats: ...

    def encode_items(self, items: Ints) -> Floats: ...


def validation(
    towers: Towers, queries: Queries, positives: Ints, n_items: int, *, ks: Sequence[int] = KS
) -> Callable[[Any], Mapping[str, float]]:
    """The `validate` of `palate.types.Train`: after each epoch, `factorized_top_k` of these pairs with the towers as they are.

    What a query has seen is left out. Give `train.monitor` one of the names (`recall@10`), and the best epoch is kept.
    """
    everything = np.arange(n_items, dtype=np.int32)

    def validate(model: Any) -> Mapping[str, float]:
        training = model.training
        model.eval()
        try:
            found = factorized_top_k(
                towers.encode_queries(queries), towers.encode_items(everything), positives, ks=ks, blocked=queries.blocked
            )
        finally:
            model.train(training)
        return found

    return validate


def hold_out(log: Log, users: int, seed: int = 0) -> tuple[Log, Queries, Ints]:
    """The log without the last wanted event of some users, what their queries were just before it, and its items.

    users: how many, drawn among those with two events or more (fewer where there are not so many). An item that was seen before is no
    positive, since it could not be listed: such users are not drawn.
    """
    positives = log.positives()
    codes = positives.user_codes
    order = np.argsort(codes, kind="stable")
    last = order[np.flatnonzero(np.append(codes[order][1:] != codes[order][:-1], True))] if len(order) else order
    history = History.of(log)
    before = history.before(last)
    seen = np.zeros(len(last), dtype=np.bool_)
    rows = before.blocked.rows
    seen[rows[before.blocked.values == positives.item_codes[last][rows]]] = True
    last = last[(before.history.lengths > 0) & ~seen]
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(last, min(users, len(last)), replace=False)) if len(last) else last
    queries = history.before(chosen)
    events = log.events.with_row_index("row")
    gone = replace(log, events=events).positives().events["row"].to_numpy()[chosen]
    keep = np.ones(len(log), dtype=np.bool_)
    keep[gone] = False
    return log.where(keep), queries, positives.item_codes[chosen]
