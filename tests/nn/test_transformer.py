import pytest
import torch
from torch import nn

from palate.nn.transformer import TransformerLayer
from palate.types import ConfigError


def test_hand_computed() -> None:
    # Width 2, one head: Q = K = 0, so every vector sees the mean of all values; V = X; W_o = 1; the network adds nothing.
    layer = TransformerLayer(2, heads=1)
    with torch.no_grad():
        layer.queries_keys_values.weight.copy_(torch.cat([torch.zeros(4, 2), torch.eye(2)]))
        layer.out.weight.copy_(torch.eye(2))
        for part in layer.mlp.modules():
            if isinstance(part, nn.Linear):
                part.weight.zero_()
    # X = (1, 2), (3, 8): mean (2, 5); sums (3, 7), (5, 13); a norm of two numbers (p, q), p < q, is (-1, 1), and so is its norm.
    got = layer(torch.tensor([[[1.0, 2.0], [3.0, 8.0]]]))
    torch.testing.assert_close(got, torch.tensor([[[-1.0, 1.0], [-1.0, 1.0]]]), rtol=1e-4, atol=1e-4)


def test_attention_by_hand_in_both_heads() -> None:
    # Width 2, two heads of one number: q = k = v = x. Vectors (0, 1), (ln 3, 0). Without norms.
    # head 1: x = (0, ln 3). Query 0: weights 1/2, 1/2 -> ln(3) / 2. Query ln 3: exp(0), exp(ln(3)^2).
    # head 2: x = (1, 0). Query 1: e / (e + 1). Query 0: 1/2.
    layer = TransformerLayer(2, heads=2)
    nothing = nn.Linear(2, 2)
    layer.norm, layer.mlp_norm, layer.mlp = nn.Identity(), nn.Identity(), nn.Sequential(nothing)  # type: ignore[assignment]
    log3, e = torch.log(torch.tensor(3.0)), torch.exp(torch.tensor(1.0))
    with torch.no_grad():
        nothing.weight.zero_()
        nothing.bias.zero_()
        layer.queries_keys_values.weight.copy_(torch.cat([torch.eye(2)] * 3))
        layer.out.weight.copy_(10 * torch.eye(2))
    x = torch.tensor([[[0.0, 1.0], [float(log3), 0.0]]])
    strong = torch.exp(log3**2)
    want = x + 10 * torch.tensor([[[float(log3) / 2, float(e / (e + 1))], [float(strong / (1 + strong) * log3), 0.5]]])
    torch.testing.assert_close(layer(x), want)


def test_it_is_torchs_encoder_layer() -> None:
    torch.manual_seed(0)
    own = TransformerLayer(8, heads=2)
    theirs = nn.TransformerEncoderLayer(8, 2, dim_feedforward=32, dropout=0.0, batch_first=True)
    pairs = [
        (own.queries_keys_values.weight, theirs.self_attn.in_proj_weight),
        (own.queries_keys_values.bias, theirs.self_attn.in_proj_bias),
        (own.out.weight, theirs.self_attn.out_proj.weight),
        (own.out.bias, theirs.self_attn.out_proj.bias),
        *zip([w for part in own.mlp for w in part.parameters()], [*theirs.linear1.parameters(), *theirs.linear2.parameters()], strict=True),
    ]
    with torch.no_grad():
        for mine, other in pairs:
            mine.copy_(other)
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(own(x), theirs(x))
    assert sum(w.numel() for w in own.parameters()) == sum(w.numel() for w in theirs.parameters()) == 12 * 64 + 13 * 8


def test_heads_that_do_not_divide_are_an_error() -> None:
    with pytest.raises(ConfigError, match="heads: 3 do not divide the width 8"):
        TransformerLayer(8, heads=3)
