"""Training on several processes: the only file that knows about sharding.

    torchrun --nproc-per-node 2 ...  ->  join("cpu")  ->  Trainer.fit, as on one process

Each process runs the whole of `Trainer.fit` on its shard of every global batch (`Loader(shard=(rank, world))`). Tables are spread over
the processes by TorchRec (planner, `DistributedModelParallel`) and updated by the same fused rules; the rest of the network is copied
to each process and its gradients are averaged (`DistributedDataParallel`). The loss of a step must be a mean over the rows of its
batch: then W processes with B rows each do what one process does with W x B. Batch normalisation sees the rows of its own process.

Before and after, the model is an ordinary one on each process: whole tables, the same everywhere. Checkpoints hold whole tensors too,
so the tables must fit into the memory of one machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import HardwareConfig, KernelConfig, PlannerError, TopologyFactory, TrainerConfig
from torchrec.distributed.types import ShardingEnv, ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.modules.fused_embedding_modules import convert_optimizer_type_and_kwargs

from palate.config import Training
from palate.nn.embedding import Embeddings, collection_name, fused_rule
from palate.types import Batch, PalateError

Step = Callable[[Any, Batch], Mapping[str, Tensor]]


def join(device: str) -> None:
    """Joins the process group that `torchrun` describes: gloo on the CPU, nccl on CUDA (and picks this process's GPU)."""
    if "RANK" not in os.environ:
        raise PalateError("join: no process group in the environment; start with torchrun")
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl")
    else:
        dist.init_process_group("gloo")


def rank_and_world() -> tuple[int, int]:
    """This process's number, and how many there are: (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def embeddings_of(model: nn.Module) -> Iterator[tuple[str, Embeddings]]:
    """The embedding modules of a model, by name."""
    for name, module in model.named_modules():
        if isinstance(module, Embeddings):
            yield name, module


# Tables


def sharding_types(training: Training) -> list[str]:
    """How tables may be cut. By columns only where the rule works on each number alone: a row-wise rule would keep a momentum for each
    piece of a row, which is another optimiser. By rows is not offered for pooled embeddings on the CPU (torchrec 1.8)."""
    return ["table_wise"] if training.sparse == "rowwise_adagrad" else ["table_wise", "column_wise"]


def shard(model: nn.Module, training: Training) -> None:
    """Spreads the fused tables of a model over the processes, in place, with their optimiser state (process 0's count).

    The planner may place a small table as `data_parallel/dense` on the CPU, which would silently drop the fused optimiser, so kernels
    are constrained to `fused` and the plan is checked. Errors: PalateError where there is no such plan.
    """
    modules = {name: module for name, module in embeddings_of(model) if module.fused and module.table_rows}
    if not modules:
        return
    device = next(iter(modules.values())).device
    whole = {name: (_from_first(module.tables()), _from_first(module.momentum())) for name, module in modules.items()}
    for module in modules.values():
        module.collection = EmbeddingBagCollection(tables=module.configs, device=torch.device("meta"))
    kernel, settings = convert_optimizer_type_and_kwargs(*fused_rule(training))
    sharder = EmbeddingBagCollectionSharder(fused_params={"optimizer": kernel, **settings})
    DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=device,
        plan=_plan(model, modules, sharder, training, device),
        sharders=[sharder],
        init_data_parallel=False,
        init_parameters=False,
    )
    for name, module in modules.items():
        tables, momentum = whole[name]
        _fill(_weights(module), tables)
        _fill(module.momentum(), momentum)


def unshard(model: nn.Module) -> None:
    """Undoes `shard`: whole tables with their optimiser state on every process. Cost: every table travels to every process."""
    for _, module in embeddings_of(model):
        if module.fused and module.table_rows and is_sharded(module):
            tables, momentum = _gather(module, _weights(module), ""), whole_momentum(module)
            module.rebuild(module.device)
            _fill(module.tables(), tables)
            _fill(module.momentum(), momentum)


def is_sharded(module: Embeddings) -> bool:
    """Whether its tables are spread over processes."""
    return hasattr(module.collection, "module_sharding_plan")


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """`model.state_dict()` with whole tensors. A collective: every process must call it."""
    return {name: _whole(tensor) for name, tensor in model.state_dict().items()}


def whole_momentum(module: Embeddings) -> dict[str, Tensor]:
    """The state of the fused optimiser of each table ([rows] row-wise, [rows, D] otherwise; none for SGD). A collective."""
    if not is_sharded(module):
        return module.momentum()
    if module.training_settings.sparse == "sgd":
        return {}
    return _gather(module, module.momentum(), module.training_settings.sparse)


def _plan(model: nn.Module, modules: Mapping[str, Embeddings], sharder: Any, training: Training, device: torch.device) -> ShardingPlan:
    world = dist.get_world_size()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    memory = psutil.virtual_memory().total // local
    hardware = HardwareConfig(
        ddr_cap_bytes=memory, hbm_cap_bytes=torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
    )
    topology = TopologyFactory.create_topology(
        TrainerConfig(world_size=world, local_world_size=local), hardware, KernelConfig(compute_device=device.type)
    )
    allowed = sharding_types(training)
    tables = {collection_name(table) for module in modules.values() for table in module.table_rows}
    constraints = {table: ParameterConstraints(sharding_types=allowed, compute_kernels=["fused"]) for table in tables}
    planner = EmbeddingShardingPlanner(
        topology=topology, constraints=constraints, storage_reservation=FixedPercentageStorageReservation(0.1), debug=False
    )
    try:
        plan = planner.collective_plan(model, [sharder], dist.group.WORLD)
    except PlannerError as error:
        raise PalateError(f"no way to spread the tables over {world} processes: {str(error).splitlines()[0]}") from None
    placed = {(path, table): option for path, options in plan.plan.items() for table, option in options.items()}
    for (path, table), option in placed.items():
        if option.compute_kernel != "fused" or option.sharding_type not in allowed:
            raise PalateError(
                f"{path}.{table}: planned as {option.sharding_type}/{option.compute_kernel}, which would change its optimiser"
            )
    expected = sum(len(module.table_rows) for module in modules.values())
    if len(placed) != expected:
        raise PalateError(f"the plan places {len(placed)} of {expected} tables")
    return plan


def _weights(module: Embeddings) -> dict[str, Any]:
    """The (sharded) weights by table."""
    state = module.collection.state_dict()
    return {table: state[f"embedding_bags.{collection_name(table)}.weight"] for table in module.table_rows}


def _pieces(tensor: Any, whole: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """What of `tensor` lies on this process, beside the part of `whole` that it stands for."""
    if not isinstance(tensor, ShardedTensor):
        yield tensor, whole
        return
    for piece in tensor.local_shards():
        part = whole
        for axis, (offset, size) in enumerate(zip(piece.metadata.shard_offsets, piece.metadata.shard_sizes, strict=True)):
            part = part.narrow(axis, offset, size)
        yield piece.tensor, part


@torch.no_grad()
def _fill(tensors: Mapping[str, Any], whole: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        for local, part in _pieces(tensor, whole[name]):
            local.copy_(part)


@torch.no_grad()
def _whole(tensor: Any, like: Tensor | None = None) -> Tensor:
    """Every piece is on one process, zeros elsewhere: their sum is the whole, exactly."""
    if like is None:
        if not isinstance(tensor, ShardedTensor):
            return tensor
        device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
        facts = tensor.metadata()
        like = torch.zeros(facts.size, dtype=facts.tensor_properties.dtype, device=device)
    if tensor is not None:
        for local, part in _pieces(tensor, like):
            part.copy_(local)
    dist.all_reduce(like)
    return like


def _gather(module: Embeddings, local: Mapping[str, Any], kind: str) -> dict[str, Tensor]:
    """Whole tensors by table, in one order on all processes, whether or not a process holds a piece of that table."""
    shapes = {
        table: (rows,) if kind == "rowwise_adagrad" else (rows, module.table_widths[table]) for table, rows in module.table_rows.items()
    }
    return {table: _whole(local.get(table), torch.zeros(shape, device=module.device)) for table, shape in shapes.items()}


def _from_first(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    for tensor in copies.values():
        dist.broadcast(tensor, 0)
    return copies


# The rest of the network


class _Stepped(nn.Module):
    """The step as a forward pass: gradients are averaged whatever methods of the model the step calls."""

    def __init__(self, model: nn.Module, step: Step) -> None:
        super().__init__()
        self.model = model
        self.step = step

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return dict(self.step(self.model, batch))


def data_parallel(model: nn.Module, step: Step, dense: list[str]) -> Callable[[Batch], Mapping[str, Tensor]]:
    """`step` on this model, such that the backward pass averages the gradients of the parameters named in `dense`."""
    stepped = _Stepped(model, step)
    if not dense:
        return stepped
    names = {name for name, _ in (*stepped.named_parameters(), *stepped.named_buffers())}
    ignored = names - {f"model.{name}" for name in dense} - {f"model.{name}" for name, _ in _plain_buffers(model)}
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(stepped, sorted(ignored))  # type: ignore[no-untyped-call]
    # static_graph: parameters that the step never uses are found once, not searched for in every pass.
    return DistributedDataParallel(stepped, static_graph=True)


def _plain_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Buffers outside the embedding modules, such as the statistics of batch normalisation."""
    inside = tuple(f"{name}." for name, _ in embeddings_of(model))
    for name, buffer in model.named_buffers():
        if not name.startswith(inside):
            yield name, buffer


# Figures


def add_up(figures: Mapping[str, float]) -> dict[str, float]:
    """The sum of each figure over the processes."""
    if rank_and_world()[1] == 1:
        return dict(figures)
    tensor = _figures(figures)
    dist.all_reduce(tensor)
    return dict(zip(figures, tensor.tolist(), strict=True))


def of_first(figures: Mapping[str, float]) -> dict[str, float]:
    """Process 0's figures, on every process: decisions must be the same everywhere."""
    if rank_and_world()[1] == 1:
        return dict(figures)
    tensor = _figures(figures)
    dist.broadcast(tensor, 0)
    return dict(zip(figures, tensor.tolist(), strict=True))


def _figures(figures: Mapping[str, float]) -> Tensor:
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return torch.tensor(list(figures.values()), dtype=torch.float64, device=device)


def everyones(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of all processes, under `name.rank`. For small ones of one shape, on the CPU."""
    world = rank_and_world()[1]
    if world == 1:
        return {f"{name}.0": tensor for name, tensor in tensors.items()}
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = [torch.empty_like(tensor, device=device) for _ in range(world)]
        dist.all_gather(found, tensor.to(device))
        result |= {f"{name}.{rank}": one.cpu() for rank, one in enumerate(found)}
    return result


def wait() -> None:
    """Until all processes are here."""
    if rank_and_world()[1] > 1:
        dist.barrier()
