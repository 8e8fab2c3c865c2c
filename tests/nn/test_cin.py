"""CIN: numbers by hand, loops over every element in float64, counts."""

from __future__ import annotations

import torch

from palate.nn.cin import CIN


def test_by_hand() -> None:
    cin = CIN(2, [1])
    with torch.no_grad():
        cin.layers[0].weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
        cin.layers[0].bias.fill_(0.25)
    # Two vectors (1, 2) and (3, -1). Products 1*1: (1, 4), 1*2 and 2*1: (3, -2), 2*2: (9, 1); sums 5, 1, 1, 10. Bias once a dimension.
    assert cin(torch.tensor([[[1.0, 2.0], [3.0, -1.0]]])).tolist() == [[5 + 10 + 100 + 10_000 + 0.5]]


def test_two_layers_against_loops() -> None:
    fields, depth, sizes = 3, 2, (4, 2)
    generator = torch.Generator().manual_seed(5)
    cin = CIN(fields, sizes).double().requires_grad_(False)
    for weight in cin.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    rows = torch.randn(3, fields, depth, generator=generator, dtype=torch.float64)
    expected = []
    for x0 in rows.tolist():
        x, pooled = x0, []
        for layer, size in zip(cin.layers, sizes, strict=True):
            weight, bias = layer.weight.tolist(), layer.bias.tolist()
            before = len(x)
            x = [
                [
                    bias[h] + sum(weight[h][i * before + j] * x0[i][d] * x[j][d] for i in range(fields) for j in range(before))
                    for d in range(depth)
                ]
                for h in range(size)
            ]
            pooled += [sum(line) for line in x]
        expected.append(pooled)
    torch.testing.assert_close(cin(rows), torch.tensor(expected, dtype=torch.float64))


def test_gradient() -> None:
    cin = CIN(3, [4, 2]).double()
    assert torch.autograd.gradcheck(cin, (torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True),))


def test_parameter_counts_and_shape() -> None:
    # A 1 x 1 convolution from 10 * 10 to 64 maps with bias; three layers of 64 over 3 fields.
    assert sum(weight.numel() for weight in CIN(10, [64]).parameters()) == 6464
    assert sum(weight.numel() for weight in CIN(3, [64, 64, 64]).parameters()) == 640 + 2 * 12_352
    cin = CIN(10, [8, 6])
    assert cin(torch.zeros(5, 10, 4)).shape == (5, cin.width_out) == (5, 14)


def test_under_autocast_and_on_meta() -> None:
    cin, x = CIN(3, [4, 2]), torch.randn(5, 3, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = cin(x)
    torch.testing.assert_close(rough.float(), cin(x), rtol=0.1, atol=0.1)
    assert cin.to("meta")(x.to("meta")).shape == (5, 6)
