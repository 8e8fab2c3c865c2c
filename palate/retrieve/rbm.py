"""The restricted Boltzmann machine for collaborative filtering: hidden causes of what a user took, or how they rated it.

R. Salakhutdinov, A. Mnih, G. Hinton 2007, "Restricted Boltzmann Machines for Collaborative Filtering" (ICML), section 2. Visible units v,
binary hidden units h in {0, 1}^F, weights W, biases b (visible) and c (hidden). Events ("binary", K = 1): a unit an item, 1 if the user
took it, 0 if not. Ratings ("softmax"): K units an item, one for each level, of which the rated items of the user have one at 1; items not
rated are missing: they have no part in that user's machine.

    p(h_j = 1 | V)    = sigma(c_j + sum_{i, k} v_i^k W_ij^k)                                                       (equation 2)
    p(v_i^k = 1 | h)  = exp(b_i^k + sum_j h_j W_ij^k) / sum_l exp(b_i^l + sum_j h_j W_ij^l);   binary: sigma(...)  (equation 1)

Learnt by contrastive divergence (section 2.2): the slope <v h>_data - <v h>_T, where T steps of Gibbs sampling start at the data. That is
the slope of F(V_data) - F(V_T) with V_T held fixed and F the free energy, -b'v - sum_j log(1 + exp(c_j + (W'v)_j)). A prediction puts
p(h | V) for h: the log-odds of an item, or the expected rating (section 2.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional

from palate.config import Training
from palate.features.loader import Loader
from palate.retrieve.base import Retriever, places, wanted
from palate.retrieve.mf import rated
from palate.retrieve.mf_network import id_batch
from palate.retrieve.topk import answer, query_matrix, score_given
from palate.types import Batch, Bools, Candidates, ConfigError, DataError, Floats, Ints, Log, Longs, Queries, Ragged, Run, State, offsets_of

LEVELS = 20
"""Distinct ratings it takes at most."""


class RBM(Retriever):
    """Serves from the history: `binary` everybody, `softmax` those without ratings in the log, as if they had rated their history as wanted
    items are rated on average. Items without events, and users without history, get no list.

    Cost with M items: an epoch (3 + 2 T) products users x K M x F; a query K M F multiply-adds. Memory: weights, K M F floats (Adam: four
    times), and a batch of users x K M.
    """

    class Config(Retriever.Config):
        """units: of what the visible units are made. width: F, hidden units. steps: T. std: weights start as N(0, std^2), visible biases as
        the log-odds of the data (Hinton 2010, "A Practical Guide to Training Restricted Boltzmann Machines", section 8), hidden ones as 0.

        train: batch_size counts users; weight_decay shrinks the weights. Settings left out are those of this model, not of `Training`.
        """

        units: Literal["binary", "softmax"] = "binary"
        width: int = pydantic.Field(100, ge=1)
        steps: int = pydantic.Field(1, ge=1)
        std: float = pydantic.Field(0.01, gt=0)
        train: Training = Training(epochs=30, batch_size=128, lr=0.005)

    config: Config
    curves: Mapping[str, list[float]]
    """Of the training: a list a metric, one value an epoch."""
    machine: Machine

    def fit(self, log: Log, run: Run = Run()) -> Self:
        if run.train is None:
            raise ConfigError(f"{self.name}: a network needs a training engine; give run=Run(train=Trainer())")
        learnt = rated(log) if self.softmax else wanted(log)
        self.pool: Ints = np.unique(learnt.item_codes).astype(np.int32)
        self.n_items = log.n_items
        place = np.zeros(log.n_items, dtype=np.int64)
        place[self.pool] = np.arange(len(self.pool))
        levels = np.zeros(len(learnt), dtype=np.int64)
        self.levels: Floats = np.ones(1, dtype=np.float32)
        if self.softmax:
            self.levels, levels = np.unique(learnt.events["value"].to_numpy().astype(np.float32), return_inverse=True)
            if len(self.levels) > LEVELS:
                raise DataError(
                    f"{log.name}: {len(self.levels)} distinct ratings; {self.name} has a unit for each, {LEVELS} at most: round them"
                )
        k = len(self.levels)
        # Of a pair that occurs twice, the last event counts.
        keys = learnt.user_codes.astype(np.int64) * len(self.pool) + place[learnt.item_codes]
        _, last = np.unique(keys[::-1], return_index=True)
        kept = np.sort(len(keys) - 1 - last)
        users, cells = learnt.user_codes[kept], place[learnt.item_codes[kept]] * k + levels[kept]
        order = np.argsort(users, kind="stable")
        counts = np.bincount(users, minlength=log.n_users)
        taken = Taken(Ragged(offsets_of(counts), cells[order]))
        shares = np.bincount(cells, minlength=len(self.pool) * k) + 0.5
        shares = shares / shares.reshape(-1, k).sum(1).repeat(k) if self.softmax else shares / (len(taken) + 1)
        # What a wanted item is rated, for users without ratings.
        wants = log.positives().events["value"].to_numpy() if self.softmax else np.ones(1)
        self.usual: Floats = (np.array([(wants == level).sum() for level in self.levels]) / max(len(wants), 1)).astype(np.float32)
        with torch.random.fork_rng():
            torch.manual_seed(run.seed)
            machine = Machine(self.config, len(self.pool), k, shares)
            rows, training = np.arange(len(taken)), self.config.train
            before: RBM | None = run.warm.before(self) if run.warm else None
            if run.warm is not None and before is not None and alike(before, self):
                # A row is a person: as young as their newest event.
                newest = np.zeros(log.n_users, dtype=np.int64)
                np.maximum.at(newest, learnt.user_codes, learnt.times)
                rows = run.warm.chosen(newest[taken.users], run.seed)
                training = training.model_copy(update={"epochs": run.warm.epochs_of(training.epochs)})
                machine.go_on(before.machine, rows_among(before.pool, places(log.items["item"], run.warm.funnel.items["item"])[self.pool]))
            loader = Loader(len(rows), lambda chosen: taken(rows[chosen]), training.batch_size, seed=run.seed)
            self.curves = run.train(machine, loader, step, training, name=self.name, run=run)
        self.machine = machine.cpu().eval()
        self.there: Bools = counts > 0 if self.softmax else np.zeros(0, dtype=bool)
        self.hidden: Floats = self._hidden_of(taken) if self.softmax else np.zeros((0, self.config.width), dtype=np.float32)
        return self

    @property
    def softmax(self) -> bool:
        return self.config.units == "softmax"

    def _hidden_of(self, taken: Taken) -> Floats:
        """p(h | V) of users with ratings, float32 [U, F], zeros elsewhere."""
        found = np.zeros((len(self.there), self.config.width), dtype=np.float32)
        with torch.no_grad():
            for start in range(0, len(taken), self.config.train.batch_size):
                rows = np.arange(start, min(start + self.config.train.batch_size, len(taken)))
                found[taken.users[rows]] = self.machine.hidden(self.machine.visible(taken(rows))).numpy()
        return found

    def encode_queries(self, queries: Queries) -> Floats:
        """p(h | V), float32 [B, F]; NaN for those of whom nothing is known."""
        known = query_matrix(queries.history, self.n_items)[:, self.pool].tocsr()
        with torch.no_grad():
            # An item of the history is the usual mixture of its K units.
            weight = torch.einsum("mkf,k->mf", self.machine.weight.view(len(self.pool), len(self.levels), -1), torch.from_numpy(self.usual))
            hidden = torch.sigmoid(torch.from_numpy(known @ weight.numpy()) + self.machine.c).numpy()
        hidden[np.diff(known.indptr) == 0] = np.nan
        there = np.append(self.there, False)
        rated_before = there[np.where(queries.users < len(there) - 1, queries.users, -1)]
        hidden[rated_before] = self.hidden[queries.users[rated_before]]
        return hidden

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        """Every item is scored."""
        return answer(self._score_all, queries, self.n_items, k, self.name)

    def score(self, queries: Queries, items: Ints) -> Floats:
        return score_given(self._score_all, queries, self.n_items, items)

    def _score_all(self, queries: Queries) -> Floats:
        """Log-odds, or expected ratings: float32 [b, N]."""
        scores = np.full((len(queries), self.n_items), -np.inf, dtype=np.float32)
        with torch.no_grad():
            logits = self.machine.logits(torch.from_numpy(self.encode_queries(queries)))
            said = logits.softmax(2) @ torch.from_numpy(self.levels) if self.softmax else logits[:, :, 0]
        scores[:, self.pool] = np.nan_to_num(said.numpy(), nan=-np.inf)
        return scores

    def state(self) -> State:
        arrays = {f"machine.{name}": tensor.detach().numpy() for name, tensor in self.machine.state_dict().items()}
        for name in ("pool", "levels", "usual", "there", "hidden"):
            arrays[name] = getattr(self, name)
        return State(arrays, meta={"n_items": self.n_items})

    def restore(self, state: State) -> Self:
        for name in ("pool", "levels", "usual", "there", "hidden"):
            setattr(self, name, state.arrays[name])
        self.n_items = int(state.meta["n_items"])
        k = len(self.levels)
        self.machine = Machine(self.config, len(self.pool), k, np.full(len(self.pool) * k, 0.5)).eval()
        weights = {name: torch.tensor(array) for name, array in state.arrays.items() if name.startswith("machine.")}
        self.machine.load_state_dict({name.removeprefix("machine."): tensor for name, tensor in weights.items()})
        return self


def alike(one: RBM, other: RBM) -> bool:
    """Whether both have the same hidden units, and the same visible ones for an item."""
    return one.config.width == other.config.width and one.config.units == other.config.units and np.array_equal(one.levels, other.levels)


def rows_among(pool: Ints, codes: Longs) -> Longs:
    """Where codes stand in a rising pool, -1 where they do not."""
    found = np.minimum(np.searchsorted(pool, codes), len(pool) - 1)
    return np.where(pool[found] == codes, found, -1)


def step(machine: Any, batch: Batch) -> dict[str, Tensor]:
    """Contrastive divergence of one batch. The loss is not a likelihood, and may be negative; `error` is the one of reconstruction."""
    visible, mask = machine.visible(batch)
    with torch.no_grad():
        sample = visible
        for _ in range(machine.steps):
            sample, means = machine.reconstructed(machine.hidden((sample, mask)).bernoulli(), mask)
    loss = (machine.free_energy(visible) - machine.free_energy(sample)).mean()
    count = visible.sum().clamp_min(1.0)
    return {"loss": loss, "error": (visible - means).square().sum() / count}


class Machine(nn.Module):
    """Weights [M K, F] and biases. shares: [M K], how often each visible unit is 1."""

    def __init__(self, config: RBM.Config, items: int, k: int, shares: np.ndarray) -> None:
        super().__init__()
        self.items, self.k, self.steps, self.softmax = items, k, config.steps, config.units == "softmax"
        odds = np.log(shares) if self.softmax else np.log(shares / (1 - shares))
        self.weight = nn.Parameter(torch.randn(items * k, config.width) * config.std)
        self.b = nn.Parameter(torch.from_numpy(odds).float())
        self.c = nn.Parameter(torch.zeros(config.width))

    @torch.no_grad()
    def go_on(self, earlier: Machine, rows: Longs) -> None:
        """Takes over what an earlier one learnt. rows: for each item, its place there, -1 where it is new and starts as ever."""
        old = torch.from_numpy(np.flatnonzero(rows >= 0))
        theirs = torch.from_numpy(rows[rows >= 0])
        for name in ("weight", "b"):
            own, other = (getattr(machine, name).data.view(machine.items, machine.k, -1) for machine in (self, earlier))
            own[old] = other[theirs]
        self.c.copy_(earlier.c)

    def forward(self, batch: Batch) -> Tensor:
        """Hidden probabilities [B, F]."""
        return self.hidden(self.visible(batch))

    def visible(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """V [B, M K] of what the users of a batch took; and which units take part, bool [B, M K] (binary: None, all)."""
        v = torch.zeros(len(batch), self.items * self.k, device=self.b.device)
        v[batch.extra["rows"], batch.extra["cells"]] = 1.0
        return v, v.view(-1, self.items, self.k).any(2).repeat_interleave(self.k, 1) if self.softmax else None

    def hidden(self, visible: tuple[Tensor, Tensor | None]) -> Tensor:
        """Equation 2: [B, F]. Units that take no part are 0."""
        return torch.sigmoid(self.c + visible[0] @ self.weight)

    def logits(self, hidden: Tensor) -> Tensor:
        """Of equation 1: [B, M, K]."""
        return (self.b + hidden @ self.weight.t()).view(-1, self.items, self.k)

    def reconstructed(self, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """A sample of V given h, and its probabilities: [B, M K] each, 0 where a unit takes no part."""
        logits = self.logits(hidden)
        if mask is None:
            means = torch.sigmoid(logits).flatten(1)
            return means.bernoulli(), means
        # The largest of the logits with Gumbel noise is a draw from their softmax.
        noisy = logits - torch.empty_like(logits).exponential_().clamp_min(1e-30).log()
        sample = functional.one_hot(noisy.argmax(2), self.k).flatten(1).float()
        return sample * mask, logits.softmax(2).flatten(1) * mask

    def free_energy(self, v: Tensor) -> Tensor:
        """F(V) of each row, [B]: -log sum_h exp(-E(V, h))."""
        return -(v @ self.b) - functional.softplus(self.c + v @ self.weight).sum(1)


class Taken:
    """Row numbers of users who took something -> a Batch of their visible units that are 1. cells: place of the item x K + level."""

    def __init__(self, cells: Ragged) -> None:
        self.cells = cells
        self.users = np.flatnonzero(cells.lengths)

    def __len__(self) -> int:
        return len(self.users)

    def __call__(self, rows: Longs) -> Batch:
        cells = self.cells.take(self.users[rows])
        return id_batch(len(rows), rows=cells.rows, cells=cells.values)
