"""Matrix factorisation by gradient descent: a vector and a bias for each user and each item, for ratings and for implicit events.

    s_ui = mu + b_u + b_i + <p_u, q_i>

Ratings ("squared"): Koren, Bell and Volinsky 2009, "Matrix Factorization Techniques for Recommender Systems", equation 5. Implicit events,
by the loss that tells what is wanted from what is not (`palate.losses`): "logistic" as tuned by Rendle et al. 2020, "Neural Collaborative
Filtering vs. Matrix Factorization Revisited"; "softmax"; "bpr" (Rendle et al. 2009); "warp" (Weston et al. 2011); "hinge"; and "ccl",
the cosine contrastive loss on ids alone (MF-CCL of Mao et al. 2021, "SimpleX"; mu and biases have no place in a cosine).

Negatives may be `all`: a batch is then some users with all they want, and the loss is taken against every item, exactly, as one matrix
product; a logistic loss against all items is the mean of what m uniform draws would give. For up to some ten thousand items that is many
times quicker than drawing: 6,040 users x 3,706 items x 192 dimensions are 26 GFlop an epoch, one million positives with 8 draws each
are ten million random rows of memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import pydantic
import torch
from scipy import sparse
from torch import Tensor

from palate.config import Training
from palate.features.loader import Loader
from palate.retrieve.base import Retriever, history_matrix, interactions, places, wanted
from palate.retrieve.fold_in import FoldIn, carried_over
from palate.retrieve.index import ExactIndex
from palate.retrieve.mf_network import Drawn, Vectors, Whole
from palate.retrieve.topk import inner_products, query_matrix, strongest
from palate.types import (
    NOTHING,
    Batch,
    Bools,
    Candidates,
    ConfigError,
    DataError,
    Floats,
    Ints,
    Log,
    Queries,
    Run,
    State,
)

Loss = Literal["squared", "logistic", "softmax", "bpr", "hinge", "warp", "ccl"]
Negatives = Literal["all", "uniform", "popularity", "in_batch", "in_batch_log_q", "mixed"]


class MF(Retriever):
    """Vectors of users and items. Users it never saw are folded in from their history (`palate.retrieve.fold_in`).

    Items without events, and users without history, have no vector and get no list. A user it knows keeps the vector learnt from the log,
    whatever the query adds to the history. Cost: a batch of `all` is 3 products users x items x width; of draws, one row of memory a
    draw and its update. Memory: users and items x width, and as much again for the optimiser (Adam: twice).
    """

    class Config(Retriever.Config):
        """width: D. loss, negatives: see the module; `squared` has no negatives, `all` is for softmax and logistic.

        n_negatives: m. Of logistic, how much all negatives together weigh beside one positive. Of `uniform` and `popularity`, how many
        draws each positive has of its own; shared: so many draws a batch instead, which all its rows share, as one matrix product (of
        `mixed` by default as many as the batch has rows). power: of `popularity`, which draws proportionally to popularity^power.
        keep_hits: leave what the user wants too among the drawn negatives; a row's own positive never is.
        margin: of hinge, warp, ccl. negative_weight: of ccl. temperature: divides the scores of softmax.
        biases: whether there are b_u and b_i. l2: adds l2 / 2 x (|p_u|^2 + |q_i|^2) for every positive and every negative (of logistic m,
        else one a positive), biases included: the more frequent, the more, as in the code of Rendle et al. 2020. std: vectors start as
        N(0, std^2).
        train: batch_size counts positives (users if `all`); settings left out are those of this model, not of `Training`.
        """

        width: int = pydantic.Field(64, ge=1)
        loss: Loss = "softmax"
        negatives: Negatives = "all"
        n_negatives: int = pydantic.Field(8, ge=1)
        shared: int | None = pydantic.Field(None, ge=1)
        power: float = pydantic.Field(0.75, ge=0)
        keep_hits: bool = False
        margin: float = 0.5
        negative_weight: float = pydantic.Field(100.0, gt=0)
        temperature: float = pydantic.Field(1.0, gt=0)
        biases: bool = True
        l2: float = pydantic.Field(0.005, ge=0)
        std: float = pydantic.Field(0.1, gt=0)
        train: Training = Training(epochs=60, batch_size=256, sparse="dense", lr=0.01)

        @pydantic.model_validator(mode="after")
        def _loss_and_negatives_fit(self) -> Self:
            if self.negatives == "all" and self.loss not in ("squared", "softmax", "logistic"):
                raise ValueError(f'negatives = "all" is for softmax and logistic; give {self.loss} draws, such as negatives = "uniform"')
            if self.negatives in ("in_batch_log_q", "mixed") and self.loss != "softmax":
                raise ValueError(f'negatives = "{self.negatives}" takes log q off the logits of a softmax; {self.loss} has none')
            return self

    config: Config
    curves: Mapping[str, list[float]]
    """Of the training: a list a metric, one value an epoch."""

    def fit(self, log: Log, run: Run = Run()) -> Self:
        if run.train is None:
            raise ConfigError(f"{self.name}: a network needs a training engine; give run=Run(train=Trainer())")
        config, known = self.config, interactions(log)
        learnt = rated(log) if config.loss == "squared" else wanted(log)
        # The tables hold the items there is something to learn of: nothing is spent on the others, or said against them.
        pool = np.flatnonzero(np.bincount(learnt.item_codes)).astype(np.int32)
        place = np.zeros(log.n_items, dtype=np.int32)
        place[pool] = np.arange(len(pool))
        users, items, size = learnt.user_codes, place[learnt.item_codes], (log.n_users, len(pool))
        values = learnt.events["value"].to_numpy().astype(np.float32) if config.loss == "squared" else np.zeros(len(users), np.float32)
        mean = float(values.mean())
        whole = config.negatives == "all" and config.loss != "squared"
        rows, training = np.arange(len(users)), config.train
        before: MF | None = run.warm.before(self) if run.warm else None
        goes_on = before is not None and (before.config.width, before.config.biases) == (config.width, config.biases)
        if run.warm is not None and goes_on:
            rows = run.warm.chosen(learnt.times, run.seed)
            training = training.model_copy(update={"epochs": run.warm.epochs_of(training.epochs)})
        if whole:
            batches: Whole | Drawn = Whole(known[:, pool], users[rows] if goes_on else None)
        else:
            batches = Drawn(config, users, items, values - mean, size, run.seed, rows)
        with torch.random.fork_rng():
            torch.manual_seed(run.seed)
            network = Vectors(config, *size, np.bincount(items, minlength=len(pool)))
            if run.warm is not None and before is not None and goes_on:
                self._go_on(network, before, run.warm.funnel, log, known, pool)
            loader = Loader(len(batches), batches, training.batch_size, seed=run.seed)
            self.curves = run.train(network, loader, self.step, training, name=self.name, run=run)
        network = network.cpu()
        with torch.no_grad():
            p, q = network.whole("user").numpy(), network.whole("item").numpy()
        del network, loader, batches  # tables, optimiser and draws are done with: what follows has their room
        self._keep(p, q, known, np.bincount(users, minlength=log.n_users) > 0, pool, mean)
        return self

    def _go_on(self, network: Vectors, before: MF, funnel: Any, log: Log, known: sparse.csr_matrix, pool: Ints) -> None:
        """Users and items that an earlier MF had vectors of start from those; users new to it are folded in."""
        vectors, there = carried_over(before, funnel, log, known)
        network.start("user", np.flatnonzero(there), before._alike(vectors[there]))
        items = places(log.items["item"], funnel.items["item"])
        old = np.flatnonzero(np.append(before.learnt, False)[items[pool]])
        network.start("item", old, before.index.vectors[items[pool[old]]])

    def _keep(self, p: Floats, q: Floats, known: sparse.csr_matrix, there: Bools, pool: Ints, mean: float) -> None:
        if self.config.loss == "squared":
            p, q = np.pad(p, ((0, 0), (0, 1)), constant_values=mean), np.pad(q, ((0, 0), (0, 1)), constant_values=1.0)
        p[~there] = 0
        self.there, self.users = there, p
        vectors = np.zeros((known.shape[1], q.shape[1]), dtype=np.float32)
        vectors[pool] = q
        self.learnt: Bools = np.isin(np.arange(len(vectors)), pool)
        self.index = ExactIndex(vectors)
        self.fold_in = FoldIn.fit(known.multiply(there[:, None]).tocsr(), vectors, self.users)

    def step(self, network: Any, batch: Batch) -> dict[str, Tensor]:
        """The loss of one batch, a mean over its positives."""
        return {"loss": network(batch)}

    def encode_queries(self, queries: Queries) -> Floats:
        """float32 [B, D']: as learnt for users of the log, folded in for the others; NaN for those of whom nothing is known."""
        known = np.append(self.there, False)[queries.users]
        vectors = np.zeros((len(known), self.users.shape[1]), dtype=np.float32)
        vectors[known] = self.users[queries.users[known]]
        new = np.flatnonzero(~known)
        histories = history_matrix(queries.history.take(new), len(self.index)).multiply(self.learnt).tocsr()
        histories.eliminate_zeros()
        vectors[new] = self._alike(self.fold_in(histories))
        vectors[new[np.diff(histories.indptr) == 0]] = np.nan
        return vectors

    def _alike(self, vectors: Floats) -> Floats:
        """Of length one, where vectors of users are."""
        if self.config.loss != "ccl":
            return vectors
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        """Exact search. Cost: O(B N D)."""
        allowed = self.learnt if queries.allowed is None else self.learnt & queries.allowed
        vectors = self.encode_queries(queries)
        unknown = np.isnan(vectors[:, 0])
        vectors[unknown] = 0
        items, scores = self.index.search(vectors, k, queries.blocked, allowed)
        items[unknown] = NOTHING
        return Candidates.of(items, scores, self.name)

    def score(self, queries: Queries, items: Ints) -> Floats:
        scores = inner_products(self.encode_queries(queries), self.index.vectors, items)
        return np.where(np.isnan(scores) | ~self.learnt[items], np.float32(-np.inf), scores)

    def because(self, queries: Queries, items: Ints) -> Ints:
        """The history item whose vector is nearest to the item's."""
        vectors = self.index.vectors[:, : self.config.width]
        known = query_matrix(queries.history, len(vectors))
        return strongest(known, items, lambda _, history, found: vectors[history] @ vectors[found].T)

    def state(self) -> State:
        arrays = {"vectors": self.index.vectors, "users": self.users, "there": self.there, "learnt": self.learnt}
        return State(arrays | {"fold_in": self.fold_in.weights}, meta={"longest": self.fold_in.longest})

    def restore(self, state: State) -> Self:
        arrays = state.arrays
        self.users, self.there, self.learnt = arrays["users"], arrays["there"], arrays["learnt"]
        self.index = ExactIndex(arrays["vectors"])
        self.fold_in = FoldIn(arrays["fold_in"], arrays["vectors"], int(state.meta["longest"]))
        return self


def rated(log: Log) -> Log:
    """The events with a value, whatever their kind: DataError where there is none."""
    there = log.events["value"].is_not_null().to_numpy()
    if not there.any():
        raise DataError(f'{log.name}: no event has a value (a rating); loss = "squared" learns from values, the others from wanted events')
    return log.where(there)
