"""Experts, gates and extraction against numbers worked out by hand, and against loops over the formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from palate.nn.experts import PLE, Extraction, Gate, MMoE, SharedBottom, Towers
from palate.nn.mlp import MLP, Head


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def set_layer(network: nn.Module, weight: list[list[float]]) -> None:
    """An MLP of one layer, or a gate, without biases."""
    layer = network.hidden[0] if isinstance(network, MLP) else network.choose
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if layer.bias is not None:
            layer.bias.zero_()


def experts_of(module: nn.Module) -> list[MLP]:
    return list(module.experts)  # type: ignore[arg-type]


def test_mmoe_by_hand() -> None:
    # Two experts of width 1 on x = (1, 2): f_1 = relu(1 + 2) = 3, f_2 = relu(2 - 2 ... ) = relu(4 x_1 + 1 x_2) = 6.
    # Gate of task 1: logits (0, ln 3) -> (1/4, 3/4): 3/4 + 18/4 = 5.25. Gate of task 2: logits (ln 2, 0) -> (2/3, 1/3): 2 + 2 = 4.
    mmoe = MMoE(2, tasks=2, layers=(1,), experts=2)
    set_layer(experts_of(mmoe.experts)[0], [[1.0, 1.0]])
    set_layer(experts_of(mmoe.experts)[1], [[4.0, 1.0]])
    set_layer(mmoe.gates[0], [[0.0, 0.0], [math.log(3.0), 0.0]])
    set_layer(mmoe.gates[1], [[0.0, math.log(2.0) / 2], [0.0, 0.0]])
    torch.testing.assert_close(mmoe(torch.tensor([[1.0, 2.0]])), torch.tensor([[[5.25], [4.0]]]))


def one_level(last: bool) -> Extraction:
    """Two tasks, one expert each and one shared, of width 1 on inputs of width 1; each multiplies by 1, 10 and 100."""
    level = Extraction(1, tasks=2, layers=(1,), shared=1, own=1, last=last)
    set_layer(experts_of(level.own[0])[0], [[1.0]])
    set_layer(experts_of(level.own[1])[0], [[10.0]])
    set_layer(experts_of(level.shared)[0], [[100.0]])
    set_layer(level.gates[0], [[0.0], [math.log(3.0)]])  # at x = 1: own 1/4, shared 3/4
    set_layer(level.gates[1], [[0.0], [0.0]])  # half and half
    if not last:
        set_layer(level.shared_gate, [[0.0], [0.0], [math.log(2.0)]])  # type: ignore[arg-type]  # at x = 1: 1/4, 1/4, 1/2
    return level


def test_extraction_by_hand() -> None:
    x = torch.ones(1, 1)
    tasks, common = one_level(last=False)([x, x], x)
    torch.testing.assert_close(torch.cat(tasks, 1), torch.tensor([[0.25 * 1 + 0.75 * 100, 0.5 * 10 + 0.5 * 100]]))
    torch.testing.assert_close(common, torch.tensor([[0.25 * 1 + 0.25 * 10 + 0.5 * 100]]))
    # Each reads its own input: task 1 gets 2, task 2 gets 3, the shared experts 1. The gate of task 1 at 2: logits (0, 2 ln 3) -> (.1, .9).
    tasks, common = one_level(last=False)([2 * x, 3 * x], x)
    torch.testing.assert_close(torch.cat(tasks, 1), torch.tensor([[0.1 * 2 + 0.9 * 100, 0.5 * 30 + 0.5 * 100]]))
    torch.testing.assert_close(common, torch.tensor([[0.25 * 2 + 0.25 * 30 + 0.5 * 100]]))


def test_ple_of_two_levels_by_hand() -> None:
    # Level 1 at x = 1 gives 75.25, 55 and 52.75 (above). Level 2: gates all zero, experts x 1, x 10, x 100:
    # task 1: (75.25 + 5275) / 2, task 2: (550 + 5275) / 2.
    ple = PLE(1, tasks=2, layers=(1,), shared=1, own=1, levels=2)
    ple.levels[0], ple.levels[1] = one_level(last=False), one_level(last=True)
    for gate in ple.levels[1].gates:  # type: ignore[union-attr]
        set_layer(gate, [[0.0], [0.0]])
    torch.testing.assert_close(ple(torch.ones(1, 1)), torch.tensor([[[2675.125], [2912.5]]]))


@pytest.mark.parametrize(("shared", "own", "tasks"), [(1, 1, 2), (3, 2, 3), (1, 4, 2)])
def test_ple_oracle_every_task_sees_its_own_experts_and_the_shared_ones_only(shared: int, own: int, tasks: int) -> None:
    """The bug of Paddle's PLE (experts taken at i x tasks instead of i x experts a task) would give a task another's experts."""
    torch.manual_seed(0)
    ple = PLE(5, tasks, (4, 3), shared, own, levels=1)
    x = torch.randn(6, 5)
    level = ple.levels[0]
    assert isinstance(level, Extraction)
    for task in range(tasks):
        vectors = [expert(x) for expert in (*experts_of(level.own[task]), *experts_of(level.shared))]
        logits = level.gates[task].choose(x)  # type: ignore[operator, union-attr]
        expected = sum(torch.softmax(logits, 1)[:, [n]] * vector for n, vector in enumerate(vectors))
        torch.testing.assert_close(ple(x)[:, task], expected)
    # the gradient of one task never reaches another's experts
    ple(x)[:, 0].sum().backward()
    for task in range(tasks):
        seen = any(weight.grad is not None and bool(weight.grad.abs().sum() > 0) for weight in level.own[task].parameters())
        assert seen == (task == 0)
    assert all(weight.grad is not None for weight in level.shared.parameters())


def test_shared_bottom_is_one_network_for_all() -> None:
    bottom = SharedBottom(4, tasks=3, layers=(5,))
    out = bottom(torch.randn(2, 4))
    assert out.shape == (2, 3, 5)
    torch.testing.assert_close(out[:, 0], out[:, 2])


def test_towers_by_hand() -> None:
    towers = Towers(2, tasks=2, layers=())
    with torch.no_grad():
        for head, weight in zip(towers.heads, ([1.0, 2.0], [3.0, -1.0]), strict=True):
            assert isinstance(head, Head)
            head.weight.copy_(torch.tensor([weight]))
            head.bias.fill_(0.5)
    # task 1 reads (1, 2): 1 + 4 + .5; task 2 reads (3, 4): 9 - 4 + .5
    torch.testing.assert_close(towers(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])), torch.tensor([[5.5, 5.5]]))


def test_parameter_counts() -> None:
    h, d, t = 6, 4, 3
    expert = h * d + d
    assert count(SharedBottom(h, t, (d,))) == expert
    assert count(MMoE(h, t, (d,), experts=5)) == 5 * expert + t * 5 * h
    assert count(PLE(h, t, (d,), shared=2, own=3)) == (2 + 3 * t) * expert + t * (2 + 3) * h
    second = d * d + d
    gates = t * (2 + 3)
    assert count(PLE(h, t, (d,), shared=2, own=3, levels=2)) == (2 + 3 * t) * (expert + second) + gates * (h + d) + (2 + 3 * t) * h
    assert count(Towers(d, t, (2,))) == t * (d * 2 + 2 + 2 + 1)


@pytest.mark.parametrize(
    "experts", [SharedBottom(4, 2, (3,)), MMoE(4, 2, (3,), 2), PLE(4, 2, (3,), 1, 1, levels=2)], ids=["shared_bottom", "mmoe", "ple"]
)
def test_bf16_gives_float32_logits_near_the_others_and_all_learn(experts: nn.Module) -> None:
    torch.manual_seed(1)
    towers, x = Towers(3, 2, (3,)), torch.randn(8, 4)
    exact: Tensor = towers(experts(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough: Tensor = towers(experts(x))
    assert exact.dtype == rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.05)
    exact.sum().backward()
    assert all(weight.grad is not None for weight in (*experts.parameters(), *towers.parameters()))


def test_on_the_meta_device() -> None:
    x = torch.zeros(8, 4, device="meta")
    for experts in (SharedBottom(4, 2, (3,)), MMoE(4, 2, (3,), 2), PLE(4, 2, (3,), 2, 1, levels=2)):
        assert experts.to("meta")(x).shape == (8, 2, 3)


def test_a_gate_mixes_to_a_mean_when_it_knows_nothing() -> None:
    gate = Gate(3, 4)
    nn.init.zeros_(gate.choose.weight)
    vectors = torch.randn(5, 4, 2)
    torch.testing.assert_close(gate(torch.randn(5, 3), vectors), vectors.mean(1))
