"""Dropout: how much it drops, what is left, its gradient, and that it follows the seed."""

from __future__ import annotations

import pytest
import torch

from palate.nn.dropout import Dropout
from palate.types import ConfigError


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_it_drops_a_share_of_p_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    y = Dropout(p)(torch.ones(1000, 401))
    deviation = (p * (1 - p) / y.numel()) ** 0.5
    assert abs(float((y == 0).double().mean()) - p) < 5 * deviation + 2**-16
    torch.testing.assert_close(y.unique(), torch.tensor([0.0, 1 / (1 - p)]), rtol=2e-4, atol=0)
    assert abs(float(y.double().mean()) - 1) < 5 * deviation / (1 - p)


def test_neighbours_drop_independently() -> None:
    # Four values share one random number: all pairs among them must still be independent.
    torch.manual_seed(1)
    dropped = (Dropout(0.5)(torch.ones(400_000)) == 0).double().view(-1, 4)
    both = dropped.T @ dropped / len(dropped)
    torch.testing.assert_close(
        both, torch.full((4, 4), 0.25, dtype=torch.double) + 0.25 * torch.eye(4, dtype=torch.double), rtol=0, atol=8e-3
    )


def test_the_gradient_passes_where_the_value_did() -> None:
    x = torch.full((5, 7), 3.0, requires_grad=True)
    y = Dropout(0.3)(x)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    torch.testing.assert_close(x.grad, y.detach() / 3.0)


def test_the_seed_decides_and_evaluation_leaves_all() -> None:
    layer, x = Dropout(0.4), torch.randn(3, 5)
    torch.manual_seed(2)
    first = layer(x)
    torch.manual_seed(2)
    assert torch.equal(layer(x), first)
    assert layer.eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_other_types_and_devices() -> None:
    assert Dropout(0.5)(torch.ones(4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert Dropout(0.5)(torch.ones(2, 3, device="meta")).shape == (2, 3)


def test_an_impossible_share_is_an_error() -> None:
    with pytest.raises(ConfigError, match="dropout"):
        Dropout(1.0)
