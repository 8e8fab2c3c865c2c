"""Neural collaborative filtering: a network says how much a user wants an item, from an embedding of each.

X. He, L. Liao, H. Zhang, L. Nie, X. Hu, T.-S. Chua 2017, "Neural Collaborative Filtering" (WWW), equations 8-13:

    GMF     phi_G = p_u^G * q_i^G                                          (product of elements; equation 9)
    MLP     phi_M = a(W_L ... a(W_1 [p_u^M; q_i^M] + b_1) ... + b_L)       (equation 10)
    NeuMF   y_ui  = sigma(h' [phi_G; phi_M] + c)                           (equation 12; GMF and MLP: of their part alone, equations 11)

Learnt by binary cross-entropy from each positive and a few uniform negatives (equation 7). With `pretrain`, GMF and MLP are learnt first
and NeuMF starts from both, its h from [alpha h_G; (1 - alpha) h_M] (equation 13), and goes on by plain SGD.

Not an inner product, so nothing can be searched: every item is scored. Rendle et al. 2020, "Neural Collaborative Filtering vs. Matrix
Factorization Revisited", find a well-tuned dot product (`palate.retrieve.mf`) better, and many times cheaper to serve.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import pydantic
import torch
from scipy import sparse
from torch import Tensor, nn

from palate import losses, sampling
from palate.config import Training
from palate.features.loader import Loader
from palate.nn.embedding import Embeddings
from palate.nn.mlp import MLP, Head, linear
from palate.retrieve.base import Retriever, history_matrix, interactions, places, wanted
from palate.retrieve.fold_in import FoldIn, carried_over
from palate.retrieve.mf_network import id_batch
from palate.retrieve.topk import answer
from palate.types import NOTHING, Batch, Bools, Candidates, ConfigError, Floats, Inputs, Ints, Log, Longs, Queries, Run, SparseInput, State

PAIRS = 1 << 16
"""Pairs scored at once."""


class NCF(Retriever):
    """GMF, MLP or NeuMF over ids. Users it never saw are folded in from their history (`palate.retrieve.fold_in`).

    Items without events, and users without history, get no list. Cost with factors f: an example of training some 200 f^2 multiply-adds
    (GMF: 6 f); a query 20 f^2 for each of N items.
    """

    class Config(Retriever.Config):
        """model: which of the three. factors: f, width of phi_G and of phi_M. layers: of the MLP, whose last is f; None: 4 f, 2 f, f, on
        embeddings of 4 f each. n_negatives: drawn for each positive, uniformly from the items the user has not. std: of the embeddings.

        pretrain, alpha: see the module; of neumf only. train: of a model from scratch, and of both parts where there is a first stage.
        fuse: of the second. batch_size counts positives; settings left out are those of this model, not of `Training`.
        """

        model: Literal["gmf", "mlp", "neumf"] = "neumf"
        factors: int = pydantic.Field(8, ge=1)
        layers: tuple[int, ...] | None = None
        n_negatives: int = pydantic.Field(4, ge=1)
        std: float = pydantic.Field(0.01, gt=0)
        pretrain: bool = True
        alpha: float = pydantic.Field(0.5, ge=0, le=1)
        train: Training = Training(epochs=20, batch_size=1024, sparse="dense", lr=2e-3)
        fuse: Training = Training(epochs=5, batch_size=1024, sparse="dense", dense="sgd", lr=0.05)

        @pydantic.model_validator(mode="after")
        def _phi_has_its_factors(self) -> Self:
            if self.layers is not None and (not self.layers or self.layers[-1] != self.factors):
                raise ValueError(f"the last of `layers` is `factors`, {self.factors}; got {self.layers}")
            return self

    config: Config
    curves: Mapping[str, list[float]]
    """Of the last stage: a list a metric, one value an epoch."""
    network: Network

    def fit(self, log: Log, run: Run = Run()) -> Self:
        if run.train is None:
            raise ConfigError(f"{self.name}: a network needs a training engine; give run=Run(train=Trainer())")
        config, known, learnt = self.config, interactions(log), wanted(log)
        pool = np.unique(learnt.item_codes)
        place = np.zeros(log.n_items, dtype=np.int32)
        place[pool] = np.arange(len(pool))
        make = Examples(learnt.user_codes, place[learnt.item_codes], (log.n_users, len(pool)), config.n_negatives, run.seed)
        rows = np.arange(len(learnt))
        before: NCF | None = run.warm.before(self) if run.warm else None
        goes_on = before is not None and alike(before.config, config)
        if run.warm is not None and goes_on:
            rows = run.warm.chosen(learnt.times, run.seed)

        def trained(network: Network, training: Training, part: str = "") -> Network:
            loader = Loader(len(rows), lambda chosen: make(rows[chosen]), training.batch_size, seed=run.seed)
            assert run.train is not None
            self.curves = run.train(network, loader, step, training, name=f"{self.name}{part}", run=run)
            return network

        with torch.random.fork_rng():
            torch.manual_seed(run.seed)
            if run.warm is not None and before is not None and goes_on:
                # What is new to it was never pre-trained, so `train` and not `fuse`.
                training = config.train.model_copy(update={"epochs": run.warm.epochs_of(config.train.epochs)})
                network = Network(config, config.model, log.n_users, len(pool), training)
                self._go_on(network, before, run.warm.funnel, log, known, pool)
                network = trained(network, training)
            elif config.model == "neumf" and config.pretrain:
                parts = {
                    part: trained(Network(config, part, *make.size, config.train), config.train, f".{part}") for part in ("gmf", "mlp")
                }
                network = Network(config, "neumf", *make.size, config.fuse).start_from(parts["gmf"], parts["mlp"], config.alpha)
                network = trained(network, config.fuse)
            else:
                network = trained(Network(config, config.model, *make.size, config.train), config.train)
        self.network = network.cpu().eval()
        with torch.no_grad():
            users, items = (next(iter(getattr(network, side).tables().values()))[1:].detach().numpy() for side in ("user", "item"))
        self.there: Bools = np.diff(known.indptr) > 0
        self.learnt: Bools = np.isin(np.arange(log.n_items), pool)
        self.users: Floats = np.where(self.there[:, None], users, np.float32(0))
        self.items: Floats = np.zeros((log.n_items, items.shape[1]), dtype=np.float32)
        self.items[pool] = items
        self.fold_in = FoldIn.fit(known, self.items, self.users)
        return self

    def _go_on(self, network: Network, before: NCF, funnel: Any, log: Log, known: sparse.csr_matrix, pool: Ints) -> None:
        """Layers as an earlier NCF left them, and the embeddings of whom and what it knew; users new to it are folded in."""
        users, there = carried_over(before, funnel, log, known)
        items = places(log.items["item"], funnel.items["item"])[pool]
        old = np.append(before.learnt, False)[items]
        network.start("user", np.flatnonzero(there), users[there])
        network.start("item", np.flatnonzero(old), before.items[items[old]])
        network.scorer.load_state_dict(before.network.scorer.state_dict())

    def encode_queries(self, queries: Queries) -> Floats:
        """Embeddings of the users, float32 [B, F]: as learnt, or folded in; NaN for those of whom nothing is known."""
        known = np.append(self.there, False)[queries.users]
        vectors = np.append(self.users, np.zeros_like(self.users[:1]), axis=0)[np.where(known, queries.users, -1)]
        new = np.flatnonzero(~known)
        histories = history_matrix(queries.history.take(new), len(self.items)).multiply(self.learnt).tocsr()
        histories.eliminate_zeros()
        vectors[new] = self.fold_in(histories)
        vectors[new[np.diff(histories.indptr) == 0]] = np.nan
        return vectors

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        """Every item is scored."""
        return answer(self._score_all, queries, len(self.items), k, self.name)

    def _score_all(self, queries: Queries) -> Floats:
        """Logits float32 [b, N]."""
        users, items = torch.from_numpy(self.encode_queries(queries)), torch.from_numpy(self.items)
        scores = np.empty((len(queries), len(self.items)), dtype=np.float32)
        size = max(1, PAIRS // max(len(queries), 1))
        with torch.no_grad():
            for start in range(0, len(items) if len(queries) else 0, size):
                scores[:, start : start + size] = self.network.logits(users, items[start : start + size]).numpy()
        scores[np.isnan(scores) | ~self.learnt] = -np.inf
        return scores

    def score(self, queries: Queries, items: Ints) -> Floats:
        users, vectors = torch.from_numpy(self.encode_queries(queries)), torch.from_numpy(self.items)
        scores = np.empty(items.shape, dtype=np.float32)
        size = max(1, PAIRS // max(items.shape[1], 1))
        with torch.no_grad():
            for start in range(0, len(items) if items.size else 0, size):
                rows = slice(start, start + size)
                scores[rows] = self.network.logits(users[rows], vectors[torch.from_numpy(items[rows]).long()]).numpy()
        return np.where(np.isnan(scores) | (items == NOTHING) | ~self.learnt[items], np.float32(-np.inf), scores)

    def state(self) -> State:
        arrays = {f"network.{name}": tensor.detach().numpy() for name, tensor in self.network.scorer.state_dict().items()}
        arrays |= {"users": self.users, "items": self.items, "there": self.there, "learnt": self.learnt, "fold_in": self.fold_in.weights}
        return State(arrays, meta={"longest": self.fold_in.longest})

    def restore(self, state: State) -> Self:
        arrays = dict(state.arrays)
        self.users, self.items, self.there, self.learnt = (arrays.pop(name) for name in ("users", "items", "there", "learnt"))
        self.fold_in = FoldIn(arrays.pop("fold_in"), self.items, int(state.meta["longest"]))
        self.network = Network(self.config, self.config.model, 0, 0, self.config.train).eval()
        self.network.scorer.load_state_dict({name.removeprefix("network."): torch.tensor(array) for name, array in arrays.items()})
        return self


def alike(one: NCF.Config, other: NCF.Config) -> bool:
    """Whether the networks of both have the same shape."""
    return (one.model, one.factors, one.layers) == (other.model, other.factors, other.layers)


def step(network: Any, batch: Batch) -> dict[str, Tensor]:
    """Binary cross-entropy, a mean over positives and negatives."""
    logits = network(batch).float()
    return {"loss": losses.logistic(logits[:, 0], logits[:, 1:]) / logits.shape[1]}


class Network(nn.Module):
    """Batch -> logits [B, 1 + negatives]. One table a side, whose first f columns are of GMF and the others of the MLP."""

    def __init__(self, config: NCF.Config, model: str, n_users: int, n_items: int, training: Training) -> None:
        super().__init__()
        self.scorer = Scorer(config, model)
        width = -(-self.scorer.width // 4) * 4 if training.sparse != "dense" else self.scorer.width
        for side, rows in (("user", n_users), ("item", n_items)):
            inputs = Inputs(sparse=(SparseInput(side, side, rows + 1, "sum"),))
            self.add_module(side, Embeddings(inputs, width, training, init="normal", std=config.std))

    def forward(self, batch: Batch) -> Tensor:
        items = batch.extra["items"]
        found: Tensor = self.get_submodule("item").of_ids(items.reshape(-1) + 1)  # type: ignore[operator]
        return self.logits(self.get_submodule("user").of_ids(batch.extra["users"] + 1), found.view(*items.shape, -1))  # type: ignore[operator]

    def logits(self, users: Tensor, items: Tensor) -> Tensor:
        """users [B, F] with items of their own [B, K, F] -> [B, K]; with items of all [N, F] -> [B, N]."""
        result: Tensor = self.scorer(users, items)
        return result

    @torch.no_grad()
    def start(self, side: str, codes: Longs, vectors: Floats) -> None:
        """Where the embeddings of some users or items begin."""
        table = next(iter(self.get_submodule(side).tables().values()))  # type: ignore[operator]
        table[torch.from_numpy(codes + 1), : vectors.shape[1]] = torch.from_numpy(vectors)

    @torch.no_grad()
    def start_from(self, gmf: Network, mlp: Network, alpha: float) -> Network:
        """Equation 13; the embeddings and layers of both as they are."""
        own, f = self.scorer, self.scorer.factors
        for side in ("user", "item"):
            table, first, second = (next(iter(getattr(network, side).tables().values())) for network in (self, gmf, mlp))
            table[:, :f], table[:, f : own.width] = first[:, :f], second[:, : own.width - f]
        for name in ("user_in", "item_in", "deep"):
            getattr(own, name).load_state_dict(getattr(mlp.scorer, name).state_dict())
        own.head.weight.copy_(torch.cat((alpha * gmf.scorer.head.weight, (1 - alpha) * mlp.scorer.head.weight), 1))
        own.head.bias.copy_(alpha * gmf.scorer.head.bias + (1 - alpha) * mlp.scorer.head.bias)
        return self


class Scorer(nn.Module):
    """The function of two embeddings, of `width` columns each: those of GMF (if the model has it), then those of the MLP."""

    def __init__(self, config: NCF.Config, model: str) -> None:
        super().__init__()
        f = config.factors
        layers = config.layers or (4 * f, 2 * f, f)
        self.factors = 0 if model == "mlp" else f
        self.deep_width = 0 if model == "gmf" else layers[0]
        self.width = self.factors + self.deep_width
        if self.deep_width:
            # W_1 [p; q] = W_p p + W_q q: what a user adds is worked out once for all items.
            self.user_in, self.item_in = linear(layers[0], layers[0]), linear(layers[0], layers[0], bias=False)
            self.deep = MLP(layers[0], layers[1:])
        self.head = Head(self.factors + (f if self.deep_width else 0), 1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """users [B, F], items [B, K, F] or [N, F] -> [B, K] or [B, N]."""
        f, h = self.factors, self.head.weight[0]
        total: Tensor = self.head.bias
        if f:
            left, right = users[:, :f] * h[:f], items[..., :f]
            total = total + (left @ right.t() if items.dim() == 2 else torch.einsum("bf,bkf->bk", left, right))
        if self.deep_width:
            deep = slice(f, self.width)
            hidden = torch.relu(self.user_in(users[:, deep])[:, None] + self.item_in(items[..., deep]))
            total = total + self.deep(hidden) @ h[f:]
        return total


class Examples:
    """Row numbers of events -> a Batch: users [B], items [B, 1 + n], the positive first, then its negatives. size: users and items."""

    def __init__(self, users: Ints, items: Ints, size: tuple[int, int], n_negatives: int, seed: int) -> None:
        self.users, self.items, self.size, self.n_negatives, self.seed = users, items, size, n_negatives, seed
        self.wanted = sampling.Wanted(users, items, *size)

    def __call__(self, rows: Longs) -> Batch:
        # Seeded by the rows, so that a run taken up in the middle draws what it would have drawn; epochs shuffle them anew.
        rng, users = np.random.default_rng([self.seed, *rows[:8]]), self.users[rows]
        drawn = rng.integers(0, self.size[1], size=(len(rows), self.n_negatives), dtype=np.int32)
        for _ in range(8):  # who wants nearly everything keeps some of it among the negatives
            hits = self.wanted.each(users, drawn)
            if not hits.any():
                break
            drawn[hits] = rng.integers(0, self.size[1], size=int(hits.sum()), dtype=np.int32)
        return id_batch(len(rows), users=users, items=np.concatenate([self.items[rows][:, None], drawn], axis=1))
