"""Metrics beyond accuracy: how much of the catalogue is shown, how new, how varied, and how unevenly.

All start from shown items int [B, K] (codes, NOTHING in empty places). Those of single lists give float64 [B], NaN where the list
has nothing to measure; those of the whole (coverage, Gini) give one number. None of them says that a list is good: read them
beside accuracy, and beside the same number for popularity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from palate.types import NOTHING, Ints, Longs, Ragged

Doubles = npt.NDArray[np.float64]


def exposure(items: Ints, n_items: int) -> Longs:
    """How often each item of the catalogue is shown. int64 [N]. Exposures of batches add up."""
    return np.bincount(items[items != NOTHING], minlength=n_items).astype(np.int64)


def coverage(exposure: npt.NDArray[Any]) -> float:
    """Share of the catalogue that is shown to anyone at all (aggregate diversity).

    "Catalogue coverage" of Ge, Delgado-Battenfeld and Jannach 2010, "Beyond Accuracy". It grows with the number of
    lists: compare only what was measured on the same queries.
    """
    return float(np.count_nonzero(exposure) / len(exposure)) if len(exposure) else float("nan")


def gini(exposure: npt.NDArray[Any]) -> float:
    """Gini coefficient of the exposures: 0 if every item is shown equally often, (N - 1) / N if one item takes all.

        G = sum_i (2 i - N - 1) x_i / (N sum_i x_i),   x rising, i = 1 .. N

    Fleder and Hosanagar 2009, "Blockbuster Culture's Next Rise or Fall". Items never shown count: they are the point.
    """
    x = np.sort(np.asarray(exposure, dtype=np.float64))
    total = x.sum()
    if total <= 0:
        return float("nan")
    return float((2.0 * np.arange(1, len(x) + 1) - len(x) - 1.0) @ x / (len(x) * total))


def concentration(exposure: npt.NDArray[Any], tops: npt.NDArray[Any]) -> Doubles:
    """Share of all exposure that the `tops[j]` most shown items take together. float64, one a top; NaN if nothing was shown.

    The Lorenz curve read from its upper end: 1 - L(1 - n / N) for n in tops.
    """
    x = -np.sort(-np.asarray(exposure, dtype=np.float64))
    total = x.sum()
    if total <= 0:
        return np.full(len(tops), np.nan)
    return np.concatenate([[0.0], np.cumsum(x) / total])[np.minimum(tops, len(x))]


def half_share(exposure: npt.NDArray[Any]) -> int:
    """The fewest items that together take at least half of all exposure; 0 if nothing was shown."""
    x = -np.sort(-np.asarray(exposure, dtype=np.float64))
    return int(np.searchsorted(np.cumsum(x), x.sum() / 2)) + 1 if x.sum() > 0 else 0


def novelty(items: Ints, popularity: npt.NDArray[Any]) -> Doubles:
    """Mean self-information of the shown items, in bits: high where lists show what few know. [B]

        mean_i -log2 p(i),   p(i) = (c_i + 1) / (sum c + N)

    Zhou et al. 2010, "Solving the apparent diversity-accuracy dilemma of recommender systems" (surprisal); p as the free discovery of
    Vargas and Castells 2011, "Rank and Relevance in Novelty and Diversity Metrics". popularity: training events c of each item [N]; one
    is added to each, so that an item nobody has seen is very new and not infinitely new.
    """
    counts = np.asarray(popularity, dtype=np.float64) + 1.0
    return _mean_of(items, -np.log2(counts / counts.sum()))


def average_popularity(items: Ints, popularity: npt.NDArray[Any]) -> Doubles:
    """Mean number of training events of the shown items. [B]

    Average recommendation popularity (ARP) of Yin et al. 2012, "Challenging the Long Tail Recommendation", as named by Abdollahpouri
    et al. 2019, "Managing Popularity Bias in Recommender Systems with Personalized Re-ranking".
    """
    return _mean_of(items, np.asarray(popularity, dtype=np.float64))


def intra_list_diversity(items: Ints, labels: Ragged) -> Doubles:
    """One minus the mean similarity of the pairs in a list. [B]; NaN for lists with fewer than two items.

        1 - mean_{i < j} |L_i & L_j| / |L_i | L_j|

    Intra-list similarity of Ziegler et al. 2005, "Improving Recommendation Lists Through Topic Diversification", as a mean
    and turned round (Smyth and McClave 2001), with the Jaccard similarity of label sets. labels: N rows of label codes (genres, tags),
    each label once a row; two items without any label are not alike. Cost: K^2 / 2 sparse products of B rows.
    """
    n_labels = int(labels.values.max(initial=-1)) + 1
    ones = np.ones(len(labels.values), dtype=np.float64)
    table = sparse.csr_matrix((ones, labels.values.astype(np.int64), labels.offsets), shape=(len(labels), max(n_labels, 1)))
    sizes = labels.lengths.astype(np.float64)
    present = items != NOTHING
    codes = np.where(present, items, 0)
    columns = [table[codes[:, place]] for place in range(items.shape[1])]
    similarity, pairs = np.zeros(len(items)), np.zeros(len(items))
    for j in range(items.shape[1]):
        for i in range(j):
            both = present[:, i] & present[:, j]
            shared = np.asarray(columns[i].multiply(columns[j]).sum(axis=1)).ravel()
            union = sizes[codes[:, i]] + sizes[codes[:, j]] - shared
            similarity += np.where(both, shared / np.maximum(union, 1.0), 0.0)
            pairs += both
    return 1.0 - np.divide(similarity, pairs, out=np.full(len(items), np.nan), where=pairs > 0)


def _mean_of(items: Ints, values: Doubles) -> Doubles:
    present = items != NOTHING
    total = np.where(present, values[np.where(present, items, 0)], 0.0).sum(axis=1)
    count = present.sum(axis=1)
    return np.divide(total, count, out=np.full(len(items), np.nan), where=count > 0)
