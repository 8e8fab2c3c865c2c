"""Attention among fields: numbers by hand, loops over every element in float64, counts."""

from __future__ import annotations

import math

import pytest
import torch

from palate.nn.attention import FieldAttention
from palate.types import ConfigError


def test_by_hand() -> None:
    # One head of width 1 over two fields 1 and 3. Q = 1, K = 0: all scores 0, so each field takes the mean of V x = 2 x, which is 4;
    # with the residual 4 + 1 and 4 + 3. With K = -ln 3 / 2, field 1 scores (-ln 3 / 2, -3 ln 3 / 2): weights 3/4 and 1/4, 2 * 1.5 + 1 = 4.
    layer = FieldAttention(1, 1)
    x = torch.tensor([[[1.0], [3.0]]])
    with torch.no_grad():
        layer.project.weight.copy_(torch.tensor([[1.0], [0.0], [2.0]]))
        assert layer(x).tolist() == [[[5.0], [7.0]]]
        layer.project.weight[1] = -math.log(3) / 2
        torch.testing.assert_close(layer(x)[0, 0], torch.tensor([4.0]))
        layer.project.weight[2] = -2.0  # -3 + 1 < 0
        assert layer(x)[0, 0].tolist() == [0.0]


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize(("width", "residual"), [(3, True), (4, True), (3, False)])
def test_against_loops(width: int, residual: bool, scale: bool) -> None:
    attention, heads, fields = 4, 2, 3
    each = attention // heads
    generator = torch.Generator().manual_seed(4)
    layer = FieldAttention(width, attention, heads, residual, scale, layer_norm=True).double().requires_grad_(False)
    for weight in layer.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    rows = torch.randn(2, fields, width, generator=generator, dtype=torch.float64)
    project = layer.project.weight.tolist()
    assert layer.norm is not None
    gain, shift = layer.norm.weight.tolist(), layer.norm.bias.tolist()

    def times(matrix: list[list[float]], x: list[float]) -> list[float]:
        return [sum(a * b for a, b in zip(line, x, strict=True)) for line in matrix]

    expected = []
    for x in rows.tolist():
        queries, keys, values = ([times(project[part * attention : (part + 1) * attention], x_i) for x_i in x] for part in range(3))
        out = []
        for i in range(fields):
            y: list[float] = []
            for head in range(heads):
                mine = slice(head * each, (head + 1) * each)
                raw = [sum(q * k for q, k in zip(queries[i][mine], keys[j][mine], strict=True)) for j in range(fields)]
                weights = [math.exp(s / math.sqrt(each) if scale else s) for s in raw]
                y += [sum(weights[j] * values[j][mine][d] for j in range(fields)) / sum(weights) for d in range(each)]
            if residual:
                rest = x[i] if layer.match is None else times(layer.match.weight.tolist(), x[i])
                y = [a + b for a, b in zip(y, rest, strict=True)]
            mean = sum(y) / attention
            deviation = math.sqrt(sum((a - mean) ** 2 for a in y) / attention + 1e-5)
            out.append([max(0.0, (a - mean) / deviation * g + s) for a, g, s in zip(y, gain, shift, strict=True)])
        expected.append(out)
    torch.testing.assert_close(layer(rows), torch.tensor(expected, dtype=torch.float64))


def test_order_of_fields_only_reorders() -> None:
    layer, x = FieldAttention(4, 6, 3, scale=True), torch.randn(5, 3, 4)
    torch.testing.assert_close(layer(x[:, [2, 0, 1]]), layer(x)[:, [2, 0, 1]])


def test_parameter_counts() -> None:
    def count(width: int, layer_norm: bool) -> int:
        return sum(weight.numel() for weight in FieldAttention(width, 128, 4, layer_norm=layer_norm).parameters())

    assert count(10, True) == 3_840 + 1_280 + 256
    assert count(128, False) == 3 * 128 * 128


def test_start() -> None:
    torch.manual_seed(0)
    assert float(FieldAttention(100, 400).project.weight.detach().std()) == pytest.approx((2 / 500) ** 0.5, rel=0.02)


def test_dropout_only_in_training() -> None:
    layer, x = FieldAttention(4, 4, dropout=0.5), torch.randn(50, 3, 4)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_under_autocast_and_on_meta() -> None:
    layer, x = FieldAttention(4, 6, 2, scale=True, layer_norm=True), torch.randn(5, 3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = layer(x)
    torch.testing.assert_close(rough.float(), layer(x), rtol=0.1, atol=0.1)
    assert layer.to("meta")(x.to("meta")).shape == (5, 3, 6)


def test_heads_must_share_the_width() -> None:
    with pytest.raises(ConfigError, match="width of 6 cannot be shared by 4 heads"):
        FieldAttention(4, 6, 4)
