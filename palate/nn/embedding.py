"""The embedding tables of a network: every sparse feature of a batch, looked up and pooled, in one call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.optim import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from palate.config import Training
from palate.nn.compress import PAD, Slot, is_compressed, join, slots_of
from palate.nn.lookup import Flat, flatten, lookup
from palate.types import ConfigError, DataError, Inputs, Longs, PalateError


class _TracingAdvice(logging.Filter):
    """torchrec asks torch.fx a question on its first batch, and torch.fx prints advice about it that nobody here can follow."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("is_fx_tracing will return true")


logging.getLogger("torch.fx._symbolic_trace").addFilter(_TracingAdvice())


class Places(NamedTuple):
    """Of the keys of a batch, in their order: where in the flat table their rows begin, how many there are, which keys take the mean, and
    how the embedded features go into the order of `Embeddings.names`.
    """

    starts: Longs
    limits: Longs
    means: list[int]
    to_names: Tensor


class Embeddings(nn.Module):
    """Tables of width D for F sparse features; a batch of ids becomes vectors [B, F, D] in the order of `inputs.sparse`.

        e[b, f] = sum_{i in bag(b, f), i != PAD} table_f[i]  (divided by the number of those i where pooling is "mean")

    Row 0 of every table is PAD: it adds nothing, counts for nothing in a mean, and stays zero. An empty bag is the zero vector.
    Features that name the same table share it; each keeps its own pooling.

    A feature whose `embedding` is set has smaller tables, named `table:quotient`, `table:remainder`, `table:bloom`. With j = i - 1:

        qr     e_i = q[1 + j div c] o r[1 + j mod c], o one of product, sum, concatenation (of halves): (n - 1) / c + c + 2 rows for n.
               Shi et al. 2019, "Compositional Embeddings Using Complementary Partitions for Memory-Efficient Recommendation Systems",
               sections 2.2 and 3. A bag of several ids is pooled in each table before the product, as in the reference code of DLRM.
        bloom  e_i = sum_{k < hashes} b[1 + h_k(i) mod rows]. Serra and Karatzoglou 2017, "Getting Deep Recommenders Fit: Bloom
               Embeddings for Sparse Input/Output Networks", section 3.2.

    Distinct ids keep distinct pairs of rows in qr; in bloom two ids may share all rows, with probability rows^-hashes. It pays for tables
    of very many rows: those up to `threshold` stay whole.

    The tables are a TorchRec collection. With `training.sparse` other than "dense" it is the fused one of FBGEMM: the backward
    pass updates the rows that were looked up and no gradient of a table ever exists, so those weights must not be given to a
    torch optimiser (`palate.train.optim` knows). On the CPU, in one process, `palate.nn.lookup` does the same in the same memory,
    several times quicker. With "dense" they are plain parameters with dense gradients.

    inputs: the sparse features. width: D. init: "uniform" draws from U(-1/sqrt(rows), 1/sqrt(rows)) (Naumov et al. 2019, the
    reference code of DLRM), "normal" from N(0, std^2); rows are the feature's, also where its tables are smaller, and a remainder table
    that multiplies starts as 1 plus such a draw. Cost: rows x D floats a table, and as much again (Adagrad) or one float a row
    (row-wise Adagrad) for the optimiser. device: None is torch's default device. Errors: ConfigError where features disagree about a
    shared table, or the tables are larger than the machine's memory.
    """

    _limits: Tensor  # rows of each feature, in the order of `_features`
    _to_names: Tensor  # from the order of `_slots` to that of `names`, where each feature is one slot
    _means: Tensor  # bool, which slots take the mean, in the order of `_slots`

    def __init__(
        self,
        inputs: Inputs,
        width: int,
        training: Training,
        init: Literal["uniform", "normal"] = "uniform",
        std: float = 1e-4,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__()
        device = torch.get_default_device() if device is None else torch.device(device)
        if width < 1:
            raise ConfigError(f"embedding width: expected at least 1, got {width}")
        self.inputs = inputs
        self.width = width
        self.training_settings = training
        self.names = tuple(feature.name for feature in inputs.sparse)
        _check(inputs)
        by_table: dict[str, list[Slot]] = {}
        for feature in inputs.sparse:
            for slot in slots_of(feature, width, self.fused):
                by_table.setdefault(slot.table, []).append(slot)
        # Tables of one width lie together, so that one lookup is enough for them.
        by_table = dict(sorted(by_table.items(), key=lambda entry: -entry[1][0].width))
        self.table_rows = {table: slots[0].rows for table, slots in by_table.items()}
        self.table_widths = {table: slots[0].width for table, slots in by_table.items()}
        self._slots = [slot for slots in by_table.values() for slot in slots]
        self._keys = [slot.key for slot in self._slots]
        self._whole = not any(is_compressed(feature) for feature in inputs.sparse)
        # Features in the order in which their first slots come: where all tables are whole, features and slots are the same.
        self._features = list(dict.fromkeys(slot.feature.name for slot in self._slots))
        self._of_slot = [self._features.index(slot.feature.name) for slot in self._slots]
        rows = {f.name: f.rows for f in inputs.sparse}
        means = [slot.feature.pooling == "mean" for slot in self._slots]
        self._any_mean = any(means)
        self.register_buffer("_limits", torch.tensor([rows[name] for name in self._features], dtype=torch.long), persistent=False)
        self.register_buffer("_means", torch.tensor(means, dtype=torch.bool), persistent=False)
        to_names = [self._features.index(name) for name in self.names]
        self.register_buffer("_to_names", torch.tensor(to_names, dtype=torch.long), persistent=False)
        # From the order in which the collection answers to the order of the slots; made anew when that answer's order changes.
        self._answered: list[str] = []
        self._ones: Tensor | None = None
        self._back = torch.empty(0, dtype=torch.long)
        self.configs = [
            # Always SUM: means are taken from the lengths in `forward`, so that features of one table may pool differently.
            EmbeddingBagConfig(
                name=collection_name(table),
                num_embeddings=self.table_rows[table],
                embedding_dim=self.table_widths[table],
                feature_names=[slot.key for slot in slots],
                pooling=PoolingType.SUM,
            )
            for table, slots in by_table.items()
        ]
        self.collection: Any = None  # TorchRec is untyped
        self._flat: tuple[Any, list[Flat], Tensor] | None = None
        self._known: dict[tuple[str, ...], Places | None] = {}
        if self.configs:
            _check_memory(self, device)
            self.rebuild(device)
            with torch.no_grad():
                for table, weight in self.tables().items():
                    feature, part = by_table[table][0].feature, by_table[table][0].part
                    if init == "uniform":
                        weight.uniform_(-(feature.rows**-0.5), feature.rows**-0.5)
                    else:
                        weight.normal_(0.0, std)
                    if part == 1 and feature.embedding is not None and feature.embedding.operation == "mult":
                        weight.add_(1.0)
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
        self._flat, self._known = self._flatten(), {}

    def _flatten(self) -> tuple[Any, list[Flat], Tensor] | None:
        """A flat table a width over the collection's memory, and where in it each slot's rows begin. None where FBGEMM must do it."""
        rule = self.training_settings.sparse
        if rule == "dense" or self.device.type != "cpu":
            return None
        tables, momentum = self.tables(), self.momentum()
        flats: list[Flat] = []
        starts: dict[str, int] = {}
        for width in dict.fromkeys(self.table_widths.values()):
            names = [table for table, size in self.table_widths.items() if size == width]
            state = [momentum[table] for table in names if table in momentum]
            flat = flatten([tables[t] for t in names], state, rule, self.training_settings.sparse_eps)
            if flat is None:
                return None
            flats.append(flat)
            starts |= dict(zip(names, flat.starts.tolist(), strict=True))
        return self.collection, flats, torch.tensor([starts[slot.table] for slot in self._slots])

    def forward(self, sparse: KeyedJaggedTensor) -> Tensor:
        """KeyedJaggedTensor with (at least) the features' keys -> [B, F, D], float32.

        Errors: DataError where a feature is missing or an id lies outside its table.
        """
        batch = sparse.stride()
        if self.collection is None:
            return torch.zeros(batch, 0, self.width, device=sparse.device())
        if sparse.device().type == "meta":  # ids without values: there is nothing to look up, only a shape to tell
            self._arranged(sparse)
            return torch.empty(batch, len(self.names), self.width, device="meta")
        flat = self._flat is not None and self._flat[0] is self.collection and sparse.device().type == "cpu"
        if flat and self._one_each(sparse):
            return self._of_one_each(sparse, batch)
        if flat and self._whole and batch and not torch.is_grad_enabled() and (places := self._places_of(sparse.keys())) is not None:
            return self._to_serve(sparse, places, batch)
        values, lengths = self._without_padding(self._arranged(sparse), batch)
        if not self._whole:
            per_feature = torch.split(values, lengths.sum(dim=1).tolist())
            values = torch.cat([slot.ids(per_feature[place]) for slot, place in zip(self._slots, self._of_slot, strict=True)])
            lengths = lengths[torch.tensor(self._of_slot, device=lengths.device)]
        found = self._of_bags(values, lengths) if flat else self._of_collection(values, lengths, batch)
        if self._any_mean and bool((lengths > 1).any()):  # the mean of one is that one
            counts = lengths.clamp(min=1).to(torch.float32)
            scale = torch.where(self._means[:, None], counts.reciprocal(), torch.ones_like(counts)).t().unsqueeze(2)
            done = 0
            for place, vectors in enumerate(found):
                found[place] = vectors * scale[:, done : done + vectors.shape[1]]
                done += vectors.shape[1]
        if self._whole:
            return found[0].index_select(1, self._to_names) if self._features != list(self.names) else found[0]
        return self._joined(found)

    def _one_each(self, sparse: KeyedJaggedTensor) -> bool:
        """Whether every bag holds one id. Loaders give the same lengths again and again, so the last ones are known by identity."""
        lengths = sparse.lengths()
        if lengths is not self._ones:
            if not bool((lengths == 1).all()):
                return False
            self._ones = lengths
        return True

    def of_ids(self, ids: Tensor) -> Tensor:
        """One id a row of the only feature: int [n] -> [n, D], float32, as `forward` of such bags, without making them.

        For models of ids alone. Ids are in [1, rows): PAD is not among them. Errors: DataError where one lies outside its table.
        """
        (name,) = self.names
        if not self._whole or (self.fused and (self._flat is None or self._flat[0] is not self.collection or ids.device.type != "cpu")):
            one_each = torch.ones(len(ids), dtype=torch.int32, device=ids.device)
            vectors: Tensor = self(KeyedJaggedTensor(keys=[name], values=ids.long(), lengths=one_each))
            return vectors[:, 0]
        if len(ids) and (int(ids.min()) < 1 or int(ids.max()) >= int(self._limits[0])):
            self._refuse(ids.long() - (ids == PAD).long(), torch.tensor([len(ids)]), [name], self._limits)
        if not self.fused:
            return functional.embedding(ids, next(iter(self.tables().values())))
        assert self._flat is not None
        _, (flat,), starts = self._flat
        return self._rows(flat, ids[None], starts)[:, 0]

    def _of_one_each(self, sparse: KeyedJaggedTensor, batch: int) -> Tensor:
        """The usual case, without detours: every bag of every feature holds one id (which may be PAD, whose row is zero)."""
        assert self._flat is not None
        _, flats, starts = self._flat
        keys = sparse.keys()
        ids = sparse.values().view(len(keys), batch)
        wanted = list(self.names) if self._whole else self._features
        if keys != wanted:
            ids = ids[self._places(keys, wanted)]
        limits = self._limits[self._to_names] if self._whole else self._limits
        least, most = torch.aminmax(ids, dim=1) if batch else (limits, limits - 1)
        if bool(((least < 0) | (most >= limits)).any()):
            self._refuse(ids.long().reshape(-1), torch.full((len(wanted),), batch), wanted, limits)
        if self._whole:  # any order will do for one flat table, so take the one that is wanted
            return self._rows(flats[0], ids, starts[self._to_names])
        slots = torch.stack([slot.ids(ids[place].long()) for slot, place in zip(self._slots, self._of_slot, strict=True)])
        found, done = [], 0
        for flat, count in zip(flats, self._slots_a_width(), strict=True):
            found.append(self._rows(flat, slots[done : done + count], starts[done : done + count]))
            done += count
        return self._joined(found)

    def _rows(self, flat: Flat, ids: Tensor, starts: Tensor) -> Tensor:
        """Ids [S, B] of tables that begin at `starts` -> [B, S, width]."""
        slots, batch = ids.shape
        places = torch.add(ids, starts[:, None]).to(_smallest(flat)).t().reshape(-1)
        return lookup(flat, places, None, self._rate()).view(batch, slots, -1)

    def _of_bags(self, values: Tensor, lengths: Tensor) -> list[Tensor]:
        """Bags of rows of the flat tables: values [n], lengths [S, B] -> [B, S, width] for each width."""
        assert self._flat is not None
        _, flats, starts = self._flat
        counts = lengths.sum(dim=1)
        values = (values + _each(starts, counts)).to(_smallest(flats[0]))
        found, done, begin = [], 0, 0
        for flat, count in zip(flats, self._slots_a_width(), strict=True):
            own = lengths[done : done + count]
            bags = torch.zeros(own.numel() + 1, dtype=torch.long)
            torch.cumsum(own.reshape(-1), 0, out=bags[1:])
            end = begin + int(bags[-1])
            vectors = lookup(flat, values[begin:end], bags, self._rate())
            found.append(vectors.view(*own.shape, vectors.shape[1]).transpose(0, 1))
            done, begin = done + count, end
        return found

    def _places_of(self, keys: list[str]) -> Places | None:
        """Where in the flat table the rows of each key lie, for a batch that has these keys; None where it has others, too."""
        known = tuple(keys)
        if known not in self._known:
            assert self._flat is not None
            found = None
            if sorted(known) == sorted(self._features):
                slots = [self._features.index(key) for key in known]
                starts, limits, means = (values[slots].numpy() for values in (self._flat[2], self._limits, self._means))
                found = Places(starts, limits, np.flatnonzero(means).tolist(), torch.tensor([known.index(name) for name in self.names]))
            self._known[known] = found
        return self._known[known]

    def _to_serve(self, sparse: KeyedJaggedTensor, places: Places, batch: int) -> Tensor:
        """The same where nothing is learnt, in few steps, since the steps are what a small batch costs: PAD's row, which is zero, is added
        like any other.
        """
        assert self._flat is not None
        (flat,), keys = self._flat[1], sparse.keys()
        values, lengths = sparse.values().numpy(), sparse.lengths().numpy().reshape(len(keys), batch)
        counts = lengths.sum(axis=1)
        if ((values < 0) | (values >= np.repeat(places.limits, counts))).any():
            self._refuse(sparse.values().long(), torch.from_numpy(counts), keys, torch.from_numpy(places.limits))
        kind = np.int32 if _smallest(flat) == torch.int32 else np.int64
        rows = (values + np.repeat(places.starts, counts)).astype(kind)
        bags = np.zeros(lengths.size + 1, dtype=kind)
        np.cumsum(lengths.reshape(-1), out=bags[1:])
        sums = functional.embedding_bag(
            torch.from_numpy(rows), flat.weight, torch.from_numpy(bags), mode="sum", include_last_offset=True
        ).view(len(keys), batch, -1)
        for place in places.means:
            many, begin = lengths[place], int(bags[place * batch])
            real = values[begin : begin + int(counts[place])] != PAD
            if not real.all():
                before = np.concatenate([[0], np.cumsum(real)])
                ends = bags[place * batch : (place + 1) * batch + 1] - begin
                many = np.diff(before[ends])
            if (many > 1).any():  # the mean of one is that one
                sums[place] *= torch.from_numpy(1 / np.maximum(many, 1).astype(np.float32))[:, None]
        return sums.transpose(0, 1).index_select(1, places.to_names)

    def _of_collection(self, values: Tensor, lengths: Tensor, batch: int) -> list[Tensor]:
        """The same by TorchRec."""
        pooled = self.collection(KeyedJaggedTensor(keys=self._keys, values=values, lengths=lengths.reshape(-1)))
        if not self._whole:
            vectors, found, done = pooled.to_dict(), [], 0
            for count in self._slots_a_width():
                found.append(torch.stack([vectors[key] for key in self._keys[done : done + count]], dim=1))
                done += count
            return found
        answer: Tensor = pooled.values().view(batch, len(self._keys), self.width)
        if pooled.keys() != self._answered or self._back.device != answer.device:
            self._answered = list(pooled.keys())
            self._back = torch.tensor([self._answered.index(key) for key in self._keys], device=answer.device)
        return [answer.index_select(1, self._back) if self._answered != self._keys else answer]

    def _slots_a_width(self) -> list[int]:
        widths = [slot.width for slot in self._slots]
        return [widths.count(width) for width in dict.fromkeys(widths)]

    def _joined(self, found: list[Tensor]) -> Tensor:
        """What was found for the slots, [B, S, width] for each width, as the features' vectors."""
        vectors = [vector for group in found for vector in group.unbind(1)]
        parts: dict[str, list[Tensor]] = {}
        for slot, vector in zip(self._slots, vectors, strict=True):
            parts.setdefault(slot.feature.name, []).append(vector)
        whole = []
        for feature in self.inputs.sparse:
            own = parts[feature.name]
            whole.append(join(feature.embedding, own) if feature.embedding is not None and len(own) > 1 else own[0])
        return torch.stack(whole, dim=1)

    def _rate(self) -> float:
        return float(self.optimizer().param_groups[0]["lr"])

    def _places(self, keys: list[str], wanted: list[str]) -> list[int]:
        place = {key: number for number, key in enumerate(keys)}
        missing = [name for name in self.names if name not in place]
        if missing:
            raise DataError(f"batch lacks the sparse feature {missing[0]!r}; it has {', '.join(keys) or 'none'}")
        return [place[name] for name in wanted]

    def _arranged(self, sparse: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """The features in the order of their slots, whatever else the batch carries."""
        keys = sparse.keys()
        return sparse if keys == self._features else sparse.permute(self._places(keys, self._features))

    def _refuse(self, values: Tensor, counts: Tensor, names: list[str], limits: Tensor) -> None:
        """DataError where one of the values, of which each feature has so many, is outside its table."""
        bounds = _each(limits, counts)
        outside = (values < 0) | (values >= bounds)
        if bool(outside.any()):
            at = int(outside.nonzero()[0])
            feature = names[int((counts.cumsum(0) <= at).sum())]
            raise DataError(f"sparse feature {feature!r}: id {int(values[at])} is outside its table of {int(bounds[at])} rows")

    def _without_padding(self, sparse: KeyedJaggedTensor, batch: int) -> tuple[Tensor, Tensor]:
        """Ids without PAD, and how many are left in each bag: [n], int64 [F, B]. Refuses ids outside their table."""
        values, lengths = sparse.values().long(), sparse.lengths().long().view(len(self._features), batch)
        self._refuse(values, lengths.sum(dim=1), self._features, self._limits)
        keep = values != PAD
        if bool(keep.all()):
            return values, lengths
        before = torch.zeros(len(values) + 1, dtype=torch.long, device=values.device)
        torch.cumsum(keep, 0, out=before[1:])
        ends = before.new_zeros(lengths.numel() + 1)
        torch.cumsum(lengths.reshape(-1), 0, out=ends[1:])
        ends = before[ends]
        return values[keep], (ends[1:] - ends[:-1]).view_as(lengths)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Embeddings:
        """Moves to another device. FBGEMM's kernels are bound to a device and to float32, so a fused collection is built anew there."""
        if not isinstance(self.collection, FusedEmbeddingBagCollection):
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        probe = fn(torch.zeros(0, device=self.device))
        if probe.dtype != torch.float32:
            raise PalateError(f"fused embedding tables are float32 and cannot become {probe.dtype}; use bf16 = true for the dense part")
        moved = probe.device != self.device
        tables, momentum = (self.tables(), self.momentum()) if moved else ({}, {})
        for name, buffer in self._buffers.items():
            self._buffers[name] = None if buffer is None else fn(buffer)
        if moved:
            self.rebuild(probe.device)
            with torch.no_grad():
                for table, weight in self.tables().items():
                    weight.copy_(tables[table])
                for table, state in self.momentum().items():
                    state.copy_(momentum[table])
        return self


def collection_name(table: str) -> str:
    """The name that the collection gives a table. Tables are named after columns (`item.genres`), modules may hold no dot."""
    return table.replace(".", "/")


def table_bytes(rows: int, width: int, training: Training) -> int:
    """Bytes of a table with the state of its optimiser: for the fused rules, and on the dense path with its gradient."""
    kind = training.dense if training.sparse == "dense" else training.sparse
    gradient = rows * width if training.sparse == "dense" else 0
    state = {"rowwise_adagrad": rows, "adagrad": rows * width, "adam": 2 * rows * width, "adamw": 2 * rows * width}.get(kind, 0)
    return 4 * (rows * width + gradient + state)


def _check_memory(embeddings: Embeddings, device: torch.device) -> None:
    """ConfigError, before anything is allocated, where the tables do not fit into the machine's memory."""
    if device.type != "cpu":
        return
    training, widths = embeddings.training_settings, embeddings.table_widths
    needed = {table: table_bytes(rows, widths[table], training) for table, rows in embeddings.table_rows.items()}
    there = psutil.virtual_memory().total
    if sum(needed.values()) > there:
        largest = max(needed, key=lambda table: needed[table])
        raise ConfigError(
            f"the embedding tables need {sum(needed.values()) / 2**30:.1f} GiB and this machine has {there / 2**30:.1f}; the largest is "
            f"{largest!r}, {embeddings.table_rows[largest]:,} rows x {widths[largest]}: give it fewer `buckets`, a higher `min_count`, "
            'or `embedding = {kind = "qr"}`'
        )


def _each(values: Tensor, counts: Tensor) -> Tensor:
    """values[i], counts[i] times. On the CPU by numpy, which takes a tenth of the time."""
    if values.device.type != "cpu" or counts.device.type != "cpu":
        return values.repeat_interleave(counts)
    return torch.from_numpy(np.repeat(values.numpy(), counts.numpy()))


def _smallest(flat: Flat) -> torch.dtype:
    """The type that holds the rows of a table: short ones are sorted in half the time."""
    return torch.int32 if len(flat.weight) < 2**31 else torch.int64


def _check(inputs: Inputs) -> None:
    """ConfigError where features disagree about their tables."""
    first: dict[str, Any] = {}
    seen: set[str] = set()
    for feature in inputs.sparse:
        if feature.name in seen:
            raise ConfigError(f"sparse feature {feature.name!r} is declared twice")
        seen.add(feature.name)
        other = first.setdefault(feature.table, feature)
        if other.rows != feature.rows:
            raise ConfigError(
                f"sparse feature {feature.name!r}: {feature.rows} rows, but table {feature.table!r} has {other.rows}; "
                "features that share a table must agree"
            )
        if other.embedding != feature.embedding:
            raise ConfigError(
                f"sparse feature {feature.name!r}: embedding {feature.embedding}, but table {feature.table!r} has {other.embedding}; "
                "features that share a table must agree"
            )
        if feature.rows < 1:
            raise ConfigError(f"sparse feature {feature.name!r}: expected at least 1 row (PAD), got {feature.rows}")


def fused_rule(training: Training) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """The optimiser class that TorchRec maps to an FBGEMM kernel, and its settings. CPU kernels exist for these three only."""
    settings: Mapping[str, float] = {"lr": training.sparse_lr}
    if training.sparse == "sgd":
        return torch.optim.SGD, dict(settings)
    cls = RowWiseAdagrad if training.sparse == "rowwise_adagrad" else torch.optim.Adagrad
    return cls, {**settings, "eps": training.sparse_eps}
