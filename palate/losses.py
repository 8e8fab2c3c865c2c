"""Losses as pure functions of logits. Sign convention: smaller is better; a logit is the log-odds of label 1."""

from __future__ import annotations

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
