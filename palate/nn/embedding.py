"""The embedding tables of a network: every sparse feature of a batch, looked up and pooled, in one call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.optim import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from palate.config import Training
from palate.types import ConfigError, DataError, Inputs, PalateError

PAD = 0


class _TracingAdvice(logging.Filter):
    """torchrec asks torch.fx a question on its first batch, and torch.fx prints advice about it that nobody here can follow."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("is_fx_tracing will return true")


logging.getLogger("torch.fx._symbolic_trace").addFilter(_TracingAdvice())


class Embeddings(nn.Module):
    """Tables of width D for F sparse features; a batch of ids becomes vectors [B, F, D] in the order of `inputs.sparse`.

        e[b, f] = sum_{i in bag(b, f), i != PAD} table_f[i]  (divided by the number of those i where pooling is "mean")

    Row 0 of every table is PAD: it is never looked up, so it adds nothing, counts for nothing in a mean, and stays zero.
    An empty bag is the zero vector. Features that name the same table share it; each keeps its own pooling.

    The tables are a TorchRec collection. With `training.sparse` other than "dense" it is the fused one of FBGEMM: the backward
    pass updates the rows that were looked up and no gradient of a table ever exists, so those weights must not be given to a
    torch optimiser (`palate.train.optim` knows). With "dense" they are plain parameters with dense gradients.

    inputs: the sparse features. width: D. init: "uniform" draws from U(-1/sqrt(rows), 1/sqrt(rows)) (Naumov et al. 2019, the
    reference code of DLRM), "normal" from N(0, std^2). Cost: rows x D floats a table, and as much again (Adagrad) or
    one float a row (row-wise Adagrad) for the optimiser. Errors: ConfigError where features disagree about a shared table.
    """

    _limits: Tensor  # rows of each feature's table, in the order of `_keys`
    _means: Tensor  # bool, which features take the mean, in the order of `_keys`
    _to_names: Tensor  # from the order of `_keys` to that of `names`

    def __init__(
        self,
        inputs: Inputs,
        width: int,
        training: Training,
        init: Literal["uniform", "normal"] = "uniform",
        std: float = 1e-4,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        if width < 1:
            raise ConfigError(f"embedding width: expected at least 1, got {width}")
        self.inputs = inputs
        self.width = width
        self.training_settings = training
        self.names = tuple(feature.name for feature in inputs.sparse)
        self.table_rows = _table_rows(inputs)
        features_of = {table: [f.name for f in inputs.sparse if f.table == table] for table in self.table_rows}
        self._keys = [name for names in features_of.values() for name in names]
        rows = {f.name: f.rows for f in inputs.sparse}
        means = {f.name: f.pooling == "mean" for f in inputs.sparse}
        self.register_buffer("_limits", torch.tensor([rows[key] for key in self._keys], dtype=torch.long), persistent=False)
        self.register_buffer("_means", torch.tensor([means[key] for key in self._keys], dtype=torch.bool), persistent=False)
        self.register_buffer("_to_names", torch.tensor([self._keys.index(name) for name in self.names], dtype=torch.long), persistent=False)
        self._any_mean = any(means.values())
        # From the order in which the collection answers to the order of `inputs.sparse`; made anew when that answer's order changes.
        self._answered: list[str] = []
        self._back = torch.empty(0, dtype=torch.long)
        self.configs = [
            # Always SUM: means are taken from the lengths in `forward`, so that features of one table may pool differently.
            EmbeddingBagConfig(
                name=collection_name(table),
                num_embeddings=self.table_rows[table],
                embedding_dim=width,
                feature_names=names,
                pooling=PoolingType.SUM,
            )
            for table, names in features_of.items()
        ]
        self.collection: Any = None  # TorchRec is untyped
        if self.configs:
            self.rebuild(torch.device(device))
            with torch.no_grad():
                for table, weight in self.tables().items():
                    if init == "uniform":
                        bound = self.table_rows[table] ** -0.5
                        weight.uniform_(-bound, bound)
                    else:
                        weight.normal_(0.0, std)
                    weight[PAD].zero_()

    @property
    def fused(self) -> bool:
        """Whether the backward pass updates the tables by itself."""
        return self.training_settings.sparse != "dense"

    @property
    def device(self) -> torch.device:
        """Where the tables are."""
        return self._limits.device

    def tables(self) -> dict[str, Tensor]:
        """The weights of each table, [rows, D], by name: the tensors themselves, not copies."""
        if self.collection is None:
            return {}
        parameters = dict(self.collection.named_parameters())
        return {table: parameters[f"embedding_bags.{collection_name(table)}.weight"] for table in self.table_rows}

    def optimizer(self) -> Any:
        """The fused optimiser (a TorchRec KeyedOptimizer); its `step` does nothing but hand the learning rate to the kernel."""
        found = self.collection.fused_optimizer
        return found() if isinstance(self.collection, FusedEmbeddingBagCollection) else found

    def momentum(self) -> dict[str, Tensor]:
        """The state of the fused optimiser by table: [rows] row-wise, [rows, D] for Adagrad, none for SGD. Not copies."""
        if not self.fused or self.collection is None:
            return {}
        # Keys are "t.weight", or "embedding_bags.t.weight" where the tables are sharded; each with one tensor, or with none (SGD).
        states = {key.removeprefix("embedding_bags."): state for key, state in self.optimizer().state_dict()["state"].items()}
        found = {table: list(states.get(f"{collection_name(table)}.weight", {}).values()) for table in self.table_rows}
        return {table: tensors[0] for table, tensors in found.items() if tensors}

    def rebuild(self, device: torch.device) -> None:
        """The same tables, not yet set, as a new collection."""
        if self.fused:
            cls, settings = fused_rule(self.training_settings)
            self.collection = FusedEmbeddingBagCollection(tables=self.configs, optimizer_type=cls, optimizer_kwargs=settings, device=device)
        else:
            self.collection = EmbeddingBagCollection(tables=self.configs, device=device)

    def forward(self, sparse: KeyedJaggedTensor) -> Tensor:
        """KeyedJaggedTensor with (at least) the features' keys -> [B, F, D], float32.

        Errors: DataError where a feature is missing or an id lies outside its table.
        """
        batch = sparse.stride()
        if self.collection is None:
            return torch.zeros(batch, 0, self.width, device=sparse.device())
        values, lengths = self._without_padding(self._arranged(sparse), batch)
        kept = KeyedJaggedTensor(keys=self._keys, values=values, lengths=lengths.reshape(-1))
        pooled = self.collection(kept)
        vectors = pooled.values().view(batch, len(self._keys), self.width)
        if pooled.keys() != self._answered or self._back.device != vectors.device:
            self._answered = list(pooled.keys())
            self._back = torch.tensor([self._answered.index(name) for name in self.names], device=vectors.device)
        if self._answered != list(self.names):
            vectors = vectors.index_select(1, self._back)
        if self._any_mean and bool((lengths > 1).any()):  # the mean of one is that one
            counts = lengths.clamp(min=1).to(vectors.dtype)
            scale = torch.where(self._means[:, None], counts.reciprocal(), torch.ones_like(counts))
            vectors = vectors * scale[self._to_names].t().unsqueeze(2)
        return vectors

    def _arranged(self, sparse: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """The features of the tables, in the order of the tables, whatever else the batch carries."""
        keys = sparse.keys()
        if keys == self._keys:
            return sparse
        place = {key: number for number, key in enumerate(keys)}
        missing = [name for name in self.names if name not in place]
        if missing:
            raise DataError(f"batch lacks the sparse feature {missing[0]!r}; it has {', '.join(keys) or 'none'}")
        return sparse.permute([place[name] for name in self._keys])

    def _without_padding(self, sparse: KeyedJaggedTensor, batch: int) -> tuple[Tensor, Tensor]:
        """Ids without PAD, and how many are left in each bag: [n], int64 [F, B]. Refuses ids outside their table."""
        values, lengths = sparse.values().long(), sparse.lengths().long().view(len(self._keys), batch)
        limits = self._limits.repeat_interleave(lengths.sum(dim=1))
        outside = (values < 0) | (values >= limits)
        if bool(outside.any()):
            at = int(outside.nonzero()[0])
            feature = self._keys[int((lengths.sum(dim=1).cumsum(0) <= at).sum())]
            raise DataError(f"sparse feature {feature!r}: id {int(values[at])} is outside its table of {int(limits[at])} rows")
        keep = values != PAD
        if bool(keep.all()):
            return values, lengths
        before = torch.zeros(len(values) + 1, dtype=torch.long, device=values.device)
        torch.cumsum(keep, 0, out=before[1:])
        ends = before[lengths.reshape(-1).cumsum(0)]
        return values[keep], torch.diff(ends, prepend=ends.new_zeros(1)).view_as(lengths)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Embeddings:
        """Moves to another device. FBGEMM's kernels are bound to a device and to float32, so a fused collection is built anew there."""
        if not isinstance(self.collection, FusedEmbeddingBagCollection):
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        probe = fn(torch.zeros(0, device=self.device))
        if probe.dtype != torch.float32:
            raise PalateError(f"fused embedding tables are float32 and cannot become {probe.dtype}; use bf16 = true for the dense part")
        if probe.device != self.device:
            tables, momentum = self.tables(), self.momentum()
            self.rebuild(probe.device)
            with torch.no_grad():
                for table, weight in self.tables().items():
                    weight.copy_(tables[table])
                for table, state in self.momentum().items():
                    state.copy_(momentum[table])
        for name, buffer in self._buffers.items():
            self._buffers[name] = None if buffer is None else fn(buffer)
        return self


def collection_name(table: str) -> str:
    """The name that the collection gives a table. Tables are named after columns (`item.genres`), modules may hold no dot."""
    return table.replace(".", "/")


def _table_rows(inputs: Inputs) -> dict[str, int]:
    rows: dict[str, int] = {}
    seen: set[str] = set()
    for feature in inputs.sparse:
        if feature.name in seen:
            raise ConfigError(f"sparse feature {feature.name!r} is declared twice")
        seen.add(feature.name)
        if rows.setdefault(feature.table, feature.rows) != feature.rows:
            raise ConfigError(
                f"sparse feature {feature.name!r}: {feature.rows} rows, but table {feature.table!r} has {rows[feature.table]}; "
                "features that share a table must agree"
            )
        if feature.rows < 1:
            raise ConfigError(f"sparse feature {feature.name!r}: expected at least 1 row (PAD), got {feature.rows}")
    return rows


def fused_rule(training: Training) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """The optimiser class that TorchRec maps to an FBGEMM kernel, and its settings. CPU kernels exist for these three only."""
    settings: Mapping[str, float] = {"lr": training.sparse_lr}
    if training.sparse == "sgd":
        return torch.optim.SGD, dict(settings)
    cls = RowWiseAdagrad if training.sparse == "rowwise_adagrad" else torch.optim.Adagrad
    return cls, {**settings, "eps": training.sparse_eps}
