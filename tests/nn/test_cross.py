"""Cross layers: numbers by hand, loops over every element in float64, counts, and the other forms they must equal."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from palate.nn.cross import MatrixCross, MixtureCross, VectorCross
from palate.types import ConfigError


def shaken(module: nn.Module) -> nn.Module:
    """In float64, with every parameter drawn anew, biases too."""
    generator = torch.Generator().manual_seed(7)
    module.double().requires_grad_(False)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.5)
    return module


ROWS = torch.randn(5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_vector_by_hand() -> None:
    cross = VectorCross(2, 2)
    with torch.no_grad():
        for weight, values in zip(cross.weights, ([[1.0, 3.0]], [[-1.0, 0.5]]), strict=True):
            weight.weight.copy_(torch.tensor(values))
        cross.biases.copy_(torch.tensor([[0.5, 1.0], [0.0, -2.0]]))
    # <x0, w> = 1 + 6 = 7: x1 = 7 (1, 2) + (.5, 1) + (1, 2) = (8.5, 17). <x1, w> = -8.5 + 8.5 = 0: x2 = (0, -2) + (8.5, 17).
    assert cross(torch.tensor([[1.0, 2.0]])).tolist() == [[8.5, 15.0]]


def test_matrix_by_hand() -> None:
    cross = MatrixCross(2, 1)
    with torch.no_grad():
        cross.layers[0].weight.copy_(torch.tensor([[1.0, 3.0], [0.0, -1.0]]))
        cross.layers[0].bias.copy_(torch.tensor([0.5, 1.0]))
    # W x + b = (1 + 6 + .5, -2 + 1) = (7.5, -1): x1 = (1, 2) * (7.5, -1) + (1, 2)
    assert cross(torch.tensor([[1.0, 2.0]])).tolist() == [[8.5, 0.0]]


def test_vector_against_loops() -> None:
    cross = shaken(VectorCross(4, 3))
    expected = []
    for x0 in ROWS.tolist():
        x = list(x0)
        for weight, bias in zip(cross.weights, cross.biases.tolist(), strict=True):
            s = sum(x[j] * float(weight.weight[0, j]) for j in range(4))
            x = [x0[j] * s + bias[j] + x[j] for j in range(4)]
        expected.append(x)
    torch.testing.assert_close(cross(ROWS), torch.tensor(expected, dtype=torch.float64))


def test_matrix_against_loops() -> None:
    cross = shaken(MatrixCross(4, 3))
    expected = []
    for x0 in ROWS.tolist():
        x = list(x0)
        for layer in cross.layers:
            w, b = layer.weight.tolist(), layer.bias.tolist()
            x = [x0[i] * (sum(w[i][j] * x[j] for j in range(4)) + b[i]) + x[i] for i in range(4)]
        expected.append(x)
    torch.testing.assert_close(cross(ROWS), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("activation", ["identity", "tanh"])
@pytest.mark.parametrize("experts", [1, 3])
def test_mixture_against_loops(activation: str, experts: int) -> None:
    width, rank = 4, 2
    cross = shaken(MixtureCross(width, 2, rank, experts, activation))
    g = math.tanh if activation == "tanh" else float

    def matrix_of(weight: Tensor, expert: int) -> list[list[float]]:
        return weight[expert * rank : (expert + 1) * rank].tolist()

    def times(matrix: list[list[float]], x: list[float]) -> list[float]:
        return [sum(a * b for a, b in zip(line, x, strict=True)) for line in matrix]

    expected = []
    for x0 in ROWS.tolist():
        x = list(x0)
        for layer in range(2):
            scores = [1.0]
            if experts > 1:
                scores = [math.exp(s + float(b)) for s, b in zip(times(cross.gate.weight.tolist(), x), cross.gate.bias, strict=True)]
            found = list(x)
            for expert in range(experts):
                h = [g(value) for value in times(matrix_of(cross.down[layer].weight, expert), x)]
                if activation != "identity":
                    h = [g(value) for value in times(cross.inner[layer][expert].tolist(), h)]
                up = matrix_of(cross.up[layer].weight.t(), expert)
                for i in range(width):
                    e = x0[i] * (sum(up[r][i] * h[r] for r in range(rank)) + float(cross.up[layer].bias[i]))
                    found[i] += scores[expert] / sum(scores) * e
            x = found
        expected.append(x)
    torch.testing.assert_close(cross(ROWS), torch.tensor(expected, dtype=torch.float64))


def test_one_expert_of_full_rank_is_the_matrix_cross() -> None:
    mixture, full = MixtureCross(4, 1, rank=4), MatrixCross(4, 1)
    with torch.no_grad():
        full.layers[0].weight.copy_(mixture.up[0].weight @ mixture.down[0].weight)
        full.layers[0].bias.copy_(mixture.up[0].bias)
    torch.testing.assert_close(mixture(ROWS.float()), full(ROWS.float()))


def test_the_vector_cross_is_a_multiple_of_its_input() -> None:
    # What it can express, of Lian et al. 2018, theorem 3.1: without biases, x_L = a(x_0) x_0.
    ratio = VectorCross(4, 3)(ROWS.float()) / ROWS.float()
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=1e-4)


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_parameter_counts() -> None:
    assert count(VectorCross(100, 3)) == 3 * 200
    assert count(MatrixCross(100, 4)) == 4 * 10_100
    assert count(MixtureCross(100, 2, rank=8)) == 2 * (2 * 800 + 100)
    assert count(MixtureCross(100, 2, rank=8, experts=4, activation="tanh")) == 2 * (4 * (2 * 800 + 64) + 100) + 404


def test_no_layers_is_the_identity() -> None:
    for cross in (VectorCross(4, 0), MatrixCross(4, 0), MixtureCross(4, 0, 2)):
        assert torch.equal(cross(ROWS.float()), ROWS.float())


def test_under_autocast_and_on_meta() -> None:
    for cross in (VectorCross(4, 2), MatrixCross(4, 2), MixtureCross(4, 2, 2, 3, "tanh")):
        exact = cross(ROWS.float())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = cross(ROWS.float())
        assert rough.dtype == torch.float32
        torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.1)
        assert cross.to("meta")(ROWS.float().to("meta")).shape == (5, 4)


def test_unknown_activation() -> None:
    with pytest.raises(ConfigError, match="no 'swish'; it takes relu"):
        MixtureCross(4, 1, 2, activation="swish")
