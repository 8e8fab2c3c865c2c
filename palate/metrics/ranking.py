"""Metrics of ranked lists, one value a query, so that they can be averaged, sliced and resampled.

All start from `hits` bool [B, K]: is the item at this place relevant? Places are best first; a list shorter than k counts as it
is (what it does not show is not found). `relevant` int [B] is how many relevant items the query has, shown or not. Results are
float64 [B]; NaN where a query has no relevant item, for there is nothing to find. An item must not stand twice in one list.
Cost: one pass over [B, k].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from palate.types import NOTHING, Bools, Ints, Ragged

Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[Any]


def hits(items: Ints, relevant: Ragged) -> Bools:
    """Which places of the lists hold a relevant item of their query. bool [B, K]; empty places (NOTHING) never do.

    items: int [B, K]. relevant: B rows of item codes, in any order. Cost: a sort of the relevant codes and a binary search a place.
    """
    if not len(relevant.values) or not items.size:
        return np.zeros(items.shape, dtype=np.bool_)
    width = int(max(items.max(), relevant.values.max())) + 1
    wanted = np.sort(relevant.rows * width + relevant.values)
    keys = np.arange(len(items), dtype=np.int64)[:, None] * width + items
    place = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    return (wanted[place] == keys) & (items != NOTHING)


def recall(hits: Bools, relevant: Counts, k: int) -> Doubles:
    """Share of the relevant items that stand in the top k: |top k & relevant| / |relevant|."""
    return _share(_found(hits, k), relevant)


def precision(hits: Bools, relevant: Counts, k: int) -> Doubles:
    """Share of the k places that hold a relevant item: |top k & relevant| / k. A list shorter than k is not spared."""
    return _share(_found(hits, k), np.where(np.asarray(relevant) > 0, k, 0))


def hit_rate(hits: Bools, relevant: Counts, k: int) -> Doubles:
    """1 if any relevant item stands in the top k, else 0 (HR@k, success@k). With one relevant item a query this is recall."""
    return _defined(np.minimum(_found(hits, k), 1.0), relevant)


def top_k_accuracy(hits: Bools, relevant: Counts, k: int) -> Doubles:
    """Top-K categorical accuracy, as Keras and TensorFlow Recommenders count it: each (query, target) pair is one example, right if
    the target stands in the top k. With one target a query this is the hit rate.

        found_b / mean(relevant),   so that the mean over queries is   sum(found) / sum(relevant)

    A query's value is thus in units of the mean number of targets, and may exceed 1 where a query has more targets than the mean. It
    weighs every target alike where `recall` weighs every query alike.
    """
    targets = float(np.sum(relevant))
    return _found(hits, k) * (len(hits) / targets) if targets else np.full(len(hits), np.nan)


def reciprocal_rank(hits: Bools, relevant: Counts, k: int | None = None) -> Doubles:
    """1 / place of the first relevant item, 0 if there is none in the top k (all places if k is None). Its mean is the MRR.

    Voorhees 1999, "The TREC-8 Question Answering Track Report".
    """
    shown = hits[:, :k]
    if not shown.shape[1]:
        return _defined(np.zeros(len(hits)), relevant)
    return _defined(np.where(shown.any(axis=1), 1.0 / (shown.argmax(axis=1) + 1.0), 0.0), relevant)


def average_precision(hits: Bools, relevant: Counts, k: int) -> Doubles:
    """Mean of the precision at each relevant item found. Its mean over queries is MAP@k.

        AP@k = 1 / min(k, |relevant|)  sum_{i <= k} hit_i x precision@i

    Manning, Raghavan and Schuetze 2008, "Introduction to Information Retrieval", equation 8.8, cut at k; divided by the most that can
    be found in k places, so that a perfect list has 1.
    """
    shown = hits[:, :k]
    at = np.cumsum(shown, axis=1) / np.arange(1, shown.shape[1] + 1)
    return _share((at * shown).sum(axis=1), np.minimum(k, relevant))


def dcg(gains: npt.NDArray[Any], k: int) -> Doubles:
    """Discounted cumulative gain of the gains found place by place [B, K]:  sum_{i <= k} gain_i / log2(i + 1).

    Jarvelin and Kekalainen 2002, "Cumulated Gain-Based Evaluation of IR Techniques", with the discount log2(i + 1) that starts at
    the first place, now usual (Burges et al. 2005 use it with the gain 2^relevance - 1: pass that as `gains` if you want it).
    """
    shown = np.asarray(gains[:, :k], dtype=np.float64)
    return shown @ _discounts(shown.shape[1])


def ndcg(hits: Bools, relevant: Counts, k: int) -> Doubles:
    """DCG of binary gains over the best DCG that any list could have, which shows min(k, |relevant|) relevant items first."""
    best = np.concatenate([[0.0], np.cumsum(_discounts(k))])
    return _share(dcg(hits, k), best[np.minimum(k, relevant)])


def graded_ndcg(gains: npt.NDArray[Any], ideal: npt.NDArray[Any], k: int) -> Doubles:
    """nDCG of graded gains (ratings, dwell times ...; none below 0).

    gains: float [B, K], the gain found at each place. ideal: float [B, M], the gains of all relevant items of the query in any order,
    0 where it has fewer than M. NaN where no item has a gain.
    """
    return _share(dcg(gains, k), dcg(-np.sort(-np.asarray(ideal, dtype=np.float64), axis=1), k))


def _discounts(k: int) -> Doubles:
    return 1.0 / np.log2(np.arange(2, k + 2))


def _found(hits: Bools, k: int) -> Doubles:
    return hits[:, :k].sum(axis=1).astype(np.float64)


def _share(part: Doubles, whole: npt.NDArray[Any]) -> Doubles:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=np.asarray(whole) > 0)


def _defined(values: Doubles, relevant: Counts) -> Doubles:
    return np.where(np.asarray(relevant) > 0, values, np.nan)
