import torch

from palate.nn.feature_gate import FeatureGate


def test_hand_computed() -> None:
    gate = FeatureGate(2, context=1, hidden=(2,))
    layer = gate.hidden.hidden[0]
    assert isinstance(layer, torch.nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        gate.out.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        gate.out.bias.copy_(torch.tensor([0.0, 1.0]))
    # c = 2: relu(2, -2) = (2, 0) -> (2, 1).  c = -1: relu(-1, 1) = (0, 1) -> (0, 0).
    x = torch.tensor([[10.0, 100.0], [10.0, 100.0]])
    said = torch.sigmoid(torch.tensor([[2.0, 1.0], [0.0, 0.0]]))
    torch.testing.assert_close(gate(x, torch.tensor([[2.0], [-1.0]])), 2 * said * x)


def test_a_learnt_context_starts_at_zero_and_lets_all_pass() -> None:
    gate = FeatureGate(3, context=2, hidden=(4,), learnt=True)
    x = torch.randn(5, 3)
    torch.testing.assert_close(gate(x), x)  # 2 sigmoid(0) = 1, for all biases are zero
    layer = gate.hidden.hidden[0]
    assert isinstance(layer, torch.nn.Linear)
    with torch.no_grad():
        layer.bias.fill_(1.0)  # at the start no gradient passes through relu(0), as published
    gate(x).sum().backward()
    assert gate.context is not None
    assert gate.context.grad is not None
    assert bool((gate.context.grad != 0).any())
    assert sum(weight.numel() for weight in gate.parameters()) == 2 + (2 * 4 + 4) + (4 * 3 + 3)
