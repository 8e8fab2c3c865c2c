"""What several tasks share of a representation: a bottom, a mixture of experts with a gate a task, or progressive extraction.

Each turns x [B, H] into one vector a task, [B, T, D]; `Towers` reads the logits off those.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from palate.nn.mlp import MLP, Head, linear


class SharedBottom(nn.Module):
    """One network for all tasks: f(x) for each of them. [B, H] -> [B, T, D], D the last of `layers`.

    Caruana 1997, "Multitask Learning", section 2.1; it is the baseline of Ma et al. 2018, equation 1.
    """

    def __init__(self, width: int, tasks: int, layers: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        self.tasks = tasks
        self.bottom = MLP(width, layers, dropout=dropout)
        self.width_out = self.bottom.width_out

    def forward(self, x: Tensor) -> Tensor:
        """[B, H] -> [B, T, D]."""
        return self.bottom(x).unsqueeze(1).expand(-1, self.tasks, -1)


class Experts(nn.Module):
    """n networks of one shape, side by side: [B, H] -> [B, n, D]."""

    def __init__(self, width: int, count: int, layers: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        self.experts = nn.ModuleList(MLP(width, layers, dropout=dropout) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        """[B, H] -> [B, n, D]."""
        return torch.stack([expert(x) for expert in self.experts], dim=1)


class Gate(nn.Module):
    """Mixes n vectors by a softmax of the input: sum_i softmax(W x)_i v_i. x [B, H], vectors [B, n, D] -> [B, D].

    The softmax is taken in float32, also under autocast.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.choose = linear(width, count, bias=False)

    def forward(self, x: Tensor, vectors: Tensor) -> Tensor:
        """[B, H] and [B, n, D] -> [B, D]."""
        shares = torch.softmax(self.choose(x).float(), dim=1)
        return (shares.unsqueeze(2).to(vectors.dtype) * vectors).sum(dim=1)


class MMoE(nn.Module):
    """Multi-gate mixture of experts: all experts serve all tasks, each task mixes them by a gate of its own.

        f_t(x) = sum_i g_t(x)_i f_i(x),     g_t(x) = softmax(W_t x)              i = 1 .. experts

    Ma et al. 2018, "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", equations 6 and 7.
    [B, H] -> [B, T, D].
    """

    def __init__(self, width: int, tasks: int, layers: Sequence[int], experts: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.experts = Experts(width, experts, layers, dropout)
        self.gates = nn.ModuleList(Gate(width, experts) for _ in range(tasks))
        self.width_out = layers[-1]

    def forward(self, x: Tensor) -> Tensor:
        """[B, H] -> [B, T, D]."""
        vectors = self.experts(x)
        return torch.stack([gate(x, vectors) for gate in self.gates], dim=1)


class Extraction(nn.Module):
    """One level of PLE: experts of each task and shared ones, from the task's own and the shared input.

        S_t = [E_t(x_t), E_s(x_s)]                   the experts of task t, then the shared ones
        y_t = sum_i softmax(W_t x_t)_i  S_t,i        task t sees its own experts and the shared ones, never another task's
        y_s = sum_i softmax(W_s x_s)_i  [E_1(x_1), ..., E_T(x_T), E_s(x_s)]_i     (not at the last level, where nothing follows)

    Tang et al. 2020, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model for Personalized Recommendations",
    equations 1 to 4 (one level is CGC) and section 4.2. Every task holds experts of its own here, so none can be mistaken for another's.
    """

    def __init__(self, width: int, tasks: int, layers: Sequence[int], shared: int, own: int, last: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.own = nn.ModuleList(Experts(width, own, layers, dropout) for _ in range(tasks))
        self.shared = Experts(width, shared, layers, dropout)
        self.gates = nn.ModuleList(Gate(width, own + shared) for _ in range(tasks))
        self.shared_gate = None if last else Gate(width, tasks * own + shared)

    def forward(self, tasks: Sequence[Tensor], common: Tensor) -> tuple[list[Tensor], Tensor]:
        """T inputs [B, H] and the shared one [B, H] -> T outputs [B, D] and the shared one (the shared input again at the last level)."""
        shared = self.shared(common)
        own = [experts(x) for experts, x in zip(self.own, tasks, strict=True)]
        mixed = [gate(x, torch.cat([mine, shared], dim=1)) for gate, x, mine in zip(self.gates, tasks, own, strict=True)]
        return mixed, common if self.shared_gate is None else self.shared_gate(common, torch.cat([*own, shared], dim=1))


class PLE(nn.Module):
    """Progressive layered extraction: levels of `Extraction`, the first of which gives every task the same x. [B, H] -> [B, T, D].

    Tang et al. 2020, section 4.2, equations 5 to 7. One level is CGC, customised gate control (section 4.1).
    shared: shared experts a level. own: experts of each task a level.
    """

    def __init__(self, width: int, tasks: int, layers: Sequence[int], shared: int, own: int, levels: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        widths = [width, *[layers[-1]] * (levels - 1)]
        self.tasks = tasks
        self.levels = nn.ModuleList(
            Extraction(size, tasks, layers, shared, own, level == levels - 1, dropout) for level, size in enumerate(widths)
        )
        self.width_out = layers[-1]

    def forward(self, x: Tensor) -> Tensor:
        """[B, H] -> [B, T, D]."""
        tasks, common = [x] * self.tasks, x
        for level in self.levels:
            tasks, common = level(tasks, common)
        return torch.stack(tasks, dim=1)


class Towers(nn.Module):
    """A small network and a linear head for each task: [B, T, D] -> logits [B, T], float32."""

    def __init__(self, width: int, tasks: int, layers: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        self.towers = nn.ModuleList(MLP(width, layers, dropout=dropout) for _ in range(tasks))
        self.heads = nn.ModuleList(Head(layers[-1] if layers else width, 1) for _ in range(tasks))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T]."""
        return torch.cat([head(tower(x[:, t])) for t, (tower, head) in enumerate(zip(self.towers, self.heads, strict=True))], dim=1)
