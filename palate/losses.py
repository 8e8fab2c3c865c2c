"""Losses as pure functions of logits. Sign convention: smaller is better; a logit is the log-odds of label 1."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional


def binary_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None, task_weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy with logits over several tasks; a label that is NaN is unknown and counts for nothing.

        l_bt = log(1 + exp(z_bt)) - y_bt z_bt                     (= -y log p - (1 - y) log(1 - p), p = 1 / (1 + exp(-z)))
        L    = sum_t a_t  (sum_b w_b m_bt l_bt) / (sum_b w_b m_bt)     m_bt = 1 where the label is known

    Each task is a weighted mean over the rows whose label is known, so a task with few labels (conversions among clicks)
    weighs as much as one with many; `task_weights` says otherwise. A task without a known label in the batch adds 0.
    Weights that undo a sub-sampling of negatives go into `weights` (He et al. 2014, section 6.3, undoes it after the fact instead).

    logits, labels: float [B, T], labels in [0, 1] or NaN. weights: float [B], None is 1. task_weights: float [T], None is 1.
    Returns a scalar. Neither the value nor any gradient is NaN for finite logits.
    """
    known = ~labels.isnan()
    targets = labels.where(known, torch.zeros_like(labels))
    losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    mass = known.to(logits.dtype)
    if weights is not None:
        mass = mass * weights.unsqueeze(1)
    total = mass.sum(0)
    per_task = (losses * mass).sum(0) / total.where(total > 0, torch.ones_like(total))
    if task_weights is not None:
        per_task = per_task * task_weights
    return per_task.sum()


def sampled_softmax(
    positive: Tensor,
    negative: Tensor,
    *,
    log_q_positive: Tensor | None = None,
    log_q_negative: Tensor | None = None,
    hits: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Softmax cross-entropy of the positive against sampled negatives, corrected for how they were sampled.

        logit(x, y) = s(x, y) - log q(y)
        loss = -mean over the batch of  log( e^logit+ / (e^logit+ + sum over negatives of e^logit-) )

    **The sign**: log q is taken off. Under independent draws from q, E[e^(s - log q)] summed over S draws is S times the
    partition function of the full softmax, so a popular item is not pushed down merely for being drawn often.

    positive: scores [B], already divided by the temperature. negative: scores [B, S]. log_q_positive [B] or [], log_q_negative [S]
    or [B, S]: natural logarithms of the sampling probability, or of the expected count; a constant added to both changes nothing.
    hits: bool [B, S], negatives that are no negatives (the same item as the positive): left out. weights: [B], for a weighted mean.
    Returns a scalar. Cost: O(B S).

    Bengio and Senecal 2008 (importance sampling); Covington et al. 2016, "Deep Neural Networks for YouTube Recommendations",
    section 3.1; Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", section 3.
    """
    if log_q_positive is not None:
        positive = positive - log_q_positive
    if log_q_negative is not None:
        negative = negative - log_q_negative
    if hits is not None:
        negative = negative.masked_fill(hits, -torch.inf)
    return _first_among(torch.cat((positive.unsqueeze(1), negative), 1), torch.zeros_like(positive, dtype=torch.long), weights)


CHUNK = 1 << 22
"""Scores held at once: 16 MB of float32."""

BLOCK = 1 << 19
"""Scores held at once by `in_batch_softmax_of` on the CPU: 2 MB of float32, which stay in a core's cache."""


def in_batch_softmax(
    scores: Tensor,
    codes: Tensor,
    *,
    log_q: Tensor | None = None,
    remove_accidental_hits: bool = True,
    weights: Tensor | None = None,
) -> Tensor:
    """`sampled_softmax` where the negatives of a query are the positives of the others (and any items beside them).

    scores: [B, M], M >= B, already divided by the temperature; column b < B is the positive of query b, columns from B on are further
    negatives (mixed negative sampling, Yang et al. 2020). codes: int [M], the item of each column. log_q: [M], log of the probability
    of the column's item under the distribution that the M columns were drawn from; the positive is corrected like the rest
    (Yi et al. 2019, section 3). remove_accidental_hits: leave out columns that hold the query's own positive once more.
    """
    own = torch.arange(len(scores), device=scores.device)
    logits = scores if log_q is None else scores - log_q
    if remove_accidental_hits:
        hits = codes[: len(scores), None] == codes
        hits[own, own] = False
        logits = logits.masked_fill(hits, -torch.inf)
    return _first_among(logits, own, weights)


def in_batch_softmax_of(
    queries: Tensor,
    items: Tensor,
    codes: Tensor,
    *,
    temperature: float = 1.0,
    log_q: Tensor | None = None,
    owner: Tensor | None = None,
    remove_accidental_hits: bool = True,
    weights: Tensor | None = None,
) -> Tensor:
    """`in_batch_softmax` of the scores <u_b, v_j> / temperature, from the vectors themselves: the scores are never held all at once.

    queries: [B, D]. items: [M, D], M >= B. codes, log_q, remove_accidental_hits, weights: as there. owner: int [M], whose negative a
    column is: -1 every row's, b >= 0 row b's alone, -2 nobody's; None: every row's.

    A block of rows at a time is scored, made into probabilities p and into gradients, while it lies in the processor's cache:

        dL / du_b = w_b / (sum w) / temperature  (sum_j p_bj v_j - v_b),     dL / dv_j likewise

    so that a step costs the same 3 matrix products of B x M x D, and about a third of the time of a dozen passes over B x M scores.
    Products are taken in bfloat16 under autocast, all else in float32. Gradients are of queries and items only.
    """
    share = queries.new_full((len(queries),), 1 / max(len(queries), 1), dtype=torch.float32) if weights is None else weights / weights.sum()
    loss: Tensor = _InBatch.apply(queries, items, codes, temperature, log_q, owner, remove_accidental_hits, share)  # type: ignore[no-untyped-call]
    return loss


class _InBatch(torch.autograd.Function):
    """The gradients are made in the forward pass, where the probabilities are at hand, and only scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        items: Tensor,
        codes: Tensor,
        temperature: float,
        log_q: Tensor | None,
        owner: Tensor | None,
        hits_out: bool,
        share: Tensor,
    ) -> Tensor:
        device = queries.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        left, right = (queries.float() / temperature).to(dtype), items.to(dtype)
        weighted = (queries.float() * (share / temperature)[:, None]).to(dtype)
        for_queries, for_items = torch.empty_like(queries, dtype=torch.float32), torch.zeros_like(items, dtype=torch.float32)
        losses = torch.empty(len(queries), device=queries.device)
        size = max(1, (CHUNK if device != "cpu" else BLOCK) // max(len(items), 1))
        hits = _Hits(codes, len(queries)) if hits_out else None
        with torch.autocast(device, enabled=False):
            for start in range(0, len(queries), size):
                stop = min(start + size, len(queries))
                own = torch.arange(start, stop, device=queries.device)
                logits = (left[start:stop] @ right.t()).float()
                if log_q is not None:
                    logits -= log_q
                if owner is not None:
                    logits.masked_fill_((owner != -1) & (owner != own[:, None]), -torch.inf)
                if hits is not None:
                    hits.leave_out(logits, start, stop)
                log_p = functional.log_softmax(logits, dim=1)
                losses[start:stop] = log_p.diagonal(start)
                p = log_p.exp_().to(dtype)
                for_queries[start:stop] = p @ right
                for_items += p.t() @ weighted[start:stop]
        rows = len(queries)
        for_queries -= items[:rows]
        for_queries *= (share / temperature)[:, None]
        for_items[:rows] -= queries * (share / temperature)[:, None]
        ctx.save_for_backward(for_queries, for_items)
        ctx.dtypes = queries.dtype, items.dtype
        return -(losses * share).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        for_queries, for_items = ctx.saved_tensors
        of_queries, of_items = ctx.dtypes
        return (for_queries * gradient).to(of_queries), (for_items * gradient).to(of_items), *[None] * 6


class _Hits:
    """Columns that hold the positive of a row once more. Found by sorting, as they are few among B x M."""

    def __init__(self, codes: Tensor, rows: int) -> None:
        by_code, self.columns = torch.sort(codes, stable=True)
        self.first = torch.searchsorted(by_code, codes[:rows])
        self.counts = torch.searchsorted(by_code, codes[:rows], right=True) - self.first

    def leave_out(self, logits: Tensor, start: int, stop: int) -> None:
        """Sets them to -inf in the logits of rows start..stop."""
        counts = self.counts[start:stop]
        rows = torch.repeat_interleave(counts)
        before = counts.cumsum(0) - counts
        columns = self.columns[(self.first[start:stop] - before)[rows] + torch.arange(len(rows), device=rows.device)]
        others = columns != rows + start
        logits[rows[others], columns[others]] = -torch.inf


def _first_among(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    losses = functional.cross_entropy(logits, targets, reduction="none")
    return losses.mean() if weights is None else (losses * weights).sum() / weights.sum()


def weighted_logistic(logits: Tensor, amounts: Tensor) -> Tensor:
    """Logistic regression whose odds are an expected amount, such as seconds watched. Same shape.

        l = y log(1 + exp(-z)) + log(1 + exp(z))          each row is a negative of weight 1, and a positive of weight y >= 0

    Over rows alike it is least at odds exp(z) = mean(y). This is the weighted logistic regression of Covington et al. 2016, "Deep Neural
    Networks for YouTube Recommendations", section 4.2, but for one thing: there a watched row is a positive only, the odds are
    sum(y) / (rows not watched), and that is near the expected watch time E[y] only where few are watched (they say so: E[y] (1 + P)).
    Counting every row once as a negative makes it E[y] whatever the share watched, and changes nothing for rows not watched.

    logits, amounts: of one shape, amounts in whatever unit exp(z) is to have.
    """
    return amounts * functional.softplus(-logits) + functional.softplus(logits)


def mean_of_known(values: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of each column over its known rows, 0 where none is: values [B, T], known bool [B, T], weights [B] -> [T].

    Values that are not known may be anything finite.
    """
    mass = known.to(values.dtype) * weights.unsqueeze(1)
    total = mass.sum(0)
    return (values * mass).sum(0) / total.where(total > 0, torch.ones_like(total))


def uncertainty_weighted(losses: Tensor, log_variances: Tensor, squared: Tensor, present: Tensor) -> Tensor:
    """The sum of task losses, each weighted by a variance that is learnt with the model:

        L = sum_t  c_t exp(-s_t) L_t + s_t / 2,     s_t = log sigma_t^2,     c_t = 1/2 for a squared error, 1 for a cross-entropy

    Kendall, Gal and Cipolla 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics", equations 7
    and 10: a loss that stays large is given less weight; s_t / 2 keeps the weights from vanishing. For a constant loss the least is at
    sigma_t^2 = L_t (squared error) or 2 L_t (cross-entropy). losses, log_variances: [T]. squared, present: bool [T], which are squared
    errors, and which have a known label in this batch (the others count for nothing). Returns a scalar; it may be negative.
    """
    c = torch.where(squared, 0.5, 1.0)
    return ((c * torch.exp(-log_variances) * losses + 0.5 * log_variances) * present).sum()


# -- one positive against its negatives --------------------------------------------------------------------------------------------
#
# positive: scores [B]. negative: scores [B, S]. hits: bool [B, S], negatives that are none (wanted by this user): left out.
# Each is a mean over the positives; what happens over the S negatives stands with each loss, and is a mean or sum over those not left out.


def bpr(positive: Tensor, negative: Tensor, hits: Tensor | None = None) -> Tensor:
    """Bayesian personalised ranking: a wanted item ahead of one that is not.

        L = -mean_b mean_s  log sigma(s_b+ - s_bs-)

    Rendle et al. 2009, "BPR: Bayesian Personalized Ranking from Implicit Feedback", section 4.1 (BPR-OPT without its regulariser).
    """
    return _mean_over_negatives(functional.softplus(negative - positive.unsqueeze(1)), hits)


def hinge(positive: Tensor, negative: Tensor, margin: float = 1.0, hits: Tensor | None = None) -> Tensor:
    """The wanted item ahead by a margin, and no further.

        L = mean_b mean_s  max(0, margin - s_b+ + s_bs-)

    Herbrich et al. 2000, "Large margin rank boundaries for ordinal regression"; Joachims 2002, "Optimizing Search Engines using
    Clickthrough Data", section 4.1.
    """
    return _mean_over_negatives((margin - positive.unsqueeze(1) + negative).clamp_min(0.0), hits)


def warp(positive: Tensor, negative: Tensor, n_items: int, margin: float = 1.0, hits: Tensor | None = None) -> Tensor:
    """Weighted approximate-rank pairwise: the first negative within the margin, weighed by how high the positive must rank.

        L = mean_b  Phi(floor((N - 1) / t_b)) max(0, margin - s_b+ + s_b,t_b-),     Phi(k) = sum_{j <= k} 1 / j

    t_b is the place, counted from 1, of the first negative with margin - s+ + s- > 0, which estimates the rank of the positive; where all
    S are further away, the row adds 0. Weston, Bengio and Usunier 2011, "WSABIE: Scaling Up To Large Vocabulary Image Annotation",
    equations 3-6. Negatives must be independent uniform draws, in the order drawn. n_items: N. Hits count as not drawn.
    """
    gaps = margin - positive.unsqueeze(1) + negative
    counted = torch.ones_like(gaps, dtype=torch.long) if hits is None else (~hits).long()
    violating = gaps > 0 if hits is None else (gaps > 0) & ~hits
    first = violating.long().argmax(1, keepdim=True)  # the first of the largest; 0 where none violates, and then the gap is clamped
    trials = counted.cumsum(1).gather(1, first).clamp_min(1)
    rank = (n_items - 1) // trials
    harmonic = torch.cat((gaps.new_zeros(1), torch.arange(1, n_items + 1, device=gaps.device).to(gaps).reciprocal().cumsum(0)))
    return (harmonic[rank] * gaps.gather(1, first).clamp_min(0.0) * violating.any(1, keepdim=True)).mean()


def logistic(positive: Tensor, negative: Tensor, negative_weight: float = 1.0, hits: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of a positive and its S negatives, each an example of its own.

        L = mean_b [ log(1 + exp(-s_b+)) + w sum_s log(1 + exp(s_bs-)) ]

    He et al. 2017, "Neural Collaborative Filtering", equation 7; Rendle et al. 2020, "Neural Collaborative Filtering vs. Matrix
    Factorization Revisited", section 3 (w = 1). With S draws shared by many positives, w = m / S gives each the weight of m.
    """
    losses = functional.softplus(negative)
    if hits is not None:
        losses = losses.masked_fill(hits, 0.0)
    return (functional.softplus(-positive) + negative_weight * losses.sum(1)).mean()


def cosine_contrastive(positive: Tensor, negative: Tensor, margin: float, negative_weight: float, hits: Tensor | None = None) -> Tensor:
    """Positives towards cosine 1, negatives below a margin, beyond which they are let alone.

        L = mean_b [ (1 - cos_b+) + w / S sum_s max(0, cos_bs- - m) ]

    Mao et al. 2021, "SimpleX: A Simple and Strong Baseline for Collaborative Filtering", equation 1. positive, negative: cosines.
    margin: m in [-1, 1). negative_weight: w; the paper finds many hundred negatives, w of some hundred, and m of 0.4 to 0.9 best.
    """
    return (1 - positive).mean() + negative_weight * _mean_over_negatives((negative - margin).clamp_min(0.0), hits)


def _mean_over_negatives(losses: Tensor, hits: Tensor | None) -> Tensor:
    """The mean over the rows of the mean over the negatives of each; a row without negatives adds 0."""
    if hits is None:
        return losses.mean()
    kept = losses.shape[1] - hits.sum(1)
    return (losses.masked_fill(hits, 0.0).sum(1) / kept.clamp_min(1)).mean()


# -- all items, in bounded memory --------------------------------------------------------------------------------------------------


def log_partition(queries: Tensor, items: Tensor, bias: Tensor | None = None) -> Tensor:
    """log sum_j exp(<u_b, v_j> + c_j) of each query over all items: float32 [B]. See `over_items`."""
    none = torch.empty(0, dtype=torch.long, device=queries.device)
    return over_items(queries, items, none, none, bias, "exp")[0]


def softplus_sum(queries: Tensor, items: Tensor, bias: Tensor | None = None) -> Tensor:
    """sum_j log(1 + exp(<u_b, v_j> + c_j)) of each query over all items: float32 [B]. See `over_items`.

    What a logistic loss expects of uniform negatives: S draws have S / N of it on average.
    """
    none = torch.empty(0, dtype=torch.long, device=queries.device)
    return over_items(queries, items, none, none, bias, "softplus")[0]


def over_items(
    queries: Tensor, items: Tensor, rows: Tensor, columns: Tensor, bias: Tensor | None, kind: Literal["exp", "softplus"]
) -> tuple[Tensor, Tensor]:
    """With s_bj = <u_b, v_j> + c_j: a sum over all items of each query, [B], and some of the scores themselves, [n], both float32.

        exp        log sum_j exp(s_bj)
        softplus   sum_j log(1 + exp(s_bj))                   and   s_bj for (b, j) = (rows[k], columns[k])

    queries: [B, D]. items: [N, D]. bias: [N]. rows, columns: int [n], such as the positives of each query. Gradients are exact. Memory:
    `CHUNK` scores beside inputs and gradients, never B x N: the backward pass computes each chunk of scores again (one matrix product
    more, as Dao et al. 2022, "FlashAttention", section 3.1, do for attention). Products are taken in bfloat16 under autocast, sums
    always in float32.
    """
    by_column = torch.argsort(columns, stable=True)
    total, own = _OverItems.apply(queries, items, bias, rows[by_column], columns[by_column], kind == "exp")  # type: ignore[no-untyped-call]
    return total, torch.empty_like(own).index_copy(0, by_column, own)


def full_softmax(queries: Tensor, items: Tensor, targets: Tensor, bias: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """Softmax cross-entropy over all items, never holding all scores.

        L = mean_b  [ log sum_j exp(<u_b, v_j> + c_j)  -  (<u_b, v_y> + c_y) ]          y = targets[b]

    queries: [B, D]. items: [N, D]. targets: int [B]. bias: [N]. weights: [B], for a weighted mean. Divide the queries by the temperature.
    Cost: 3 matrix products of B x N x D. Bridle 1990; Jean et al. 2015 on what it saves to sample instead, "On Using Very Large Target
    Vocabulary for Neural Machine Translation".
    """
    total, own = over_items(queries, items, torch.arange(len(queries), device=queries.device), targets, bias, "exp")
    losses = total - own
    return losses.mean() if weights is None else (losses * weights).sum() / weights.sum()


class _OverItems(torch.autograd.Function):
    """Sums over items of exp (then the logarithm) or of softplus, chunk by chunk; and the scores of pairs sorted by column."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, items: Tensor, bias: Tensor | None, rows: Tensor, columns: Tensor, exponential: bool
    ) -> tuple[Tensor, Tensor]:
        half = torch.is_autocast_enabled(queries.device.type)
        ctx.exponential, ctx.dtype = exponential, torch.get_autocast_dtype(queries.device.type) if half else torch.float32
        total = queries.new_full((len(queries),), -torch.inf if exponential else 0.0, dtype=torch.float32)
        own = queries.new_empty(len(rows), dtype=torch.float32)
        left = queries.to(ctx.dtype)
        for start, stop, pairs in _chunks(len(queries), len(items), columns):
            logits = _logits(left, items, bias, start, stop)
            own[pairs] = logits[rows[pairs], columns[pairs] - start]
            if exponential:
                total = torch.logaddexp(total, logits.logsumexp(1))
            else:
                total += functional.softplus(logits).sum(1)
        ctx.save_for_backward(queries, items, bias, rows, columns, total)
        return total, own

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, for_total: Tensor, for_own: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None, None]:
        queries, items, bias, rows, columns, total = ctx.saved_tensors
        left = queries.to(ctx.dtype)
        for_queries = torch.zeros_like(queries, dtype=torch.float32)
        for_items = torch.empty_like(items, dtype=torch.float32)
        for_bias = None if bias is None else torch.empty_like(bias, dtype=torch.float32)
        for start, stop, pairs in _chunks(len(queries), len(items), columns):
            slopes = _logits(left, items, bias, start, stop)
            slopes = slopes.sub_(total[:, None]).exp_() if ctx.exponential else slopes.sigmoid_()
            slopes *= for_total[:, None]
            slopes.index_put_((rows[pairs], columns[pairs] - start), for_own[pairs], accumulate=True)
            if for_bias is not None:
                for_bias[start:stop] = slopes.sum(0)
            lower = slopes.to(ctx.dtype)
            for_queries += lower @ items[start:stop].to(ctx.dtype)
            for_items[start:stop] = lower.t() @ left
        return for_queries.to(queries.dtype), for_items.to(items.dtype), for_bias, None, None, None


def _logits(queries: Tensor, items: Tensor, bias: Tensor | None, start: int, stop: int) -> Tensor:
    logits = (queries @ items[start:stop].to(queries.dtype).t()).float()
    return logits if bias is None else logits.add_(bias[start:stop])


def _chunks(b: int, n: int, columns: Tensor) -> Iterator[tuple[int, int, slice]]:
    """The first and last item of each chunk, and which of the pairs (sorted by column) lie in it."""
    size = max(1, CHUNK // max(b, 1))
    bounds = torch.arange(0, n + size, size, device=columns.device).clamp_max(n)
    places = torch.searchsorted(columns, bounds).tolist()
    for number, (start, stop) in enumerate(pairwise(bounds.tolist())):
        yield start, stop, slice(places[number], places[number + 1])
