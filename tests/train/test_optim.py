import math

import numpy as np
import pytest
import torch
from small_run import FEATURES, INPUTS, ROWS, Net, World, bce
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from palate.config import Training
from palate.nn.embedding import Embeddings
from palate.train.optim import Optimizers, multiplier
from palate.types import BundleError, Inputs, SparseInput

BAGS = [[1, 3], [2], [], [3, 3, 4, 0]]  # a row without ids, an id twice in one bag, an id in two bags, a PAD


def rowwise_adagrad(table, momentum, gradient, rate, eps):
    """m_i += mean over the width of g_i^2;  w_i -= rate g_i / (sqrt(m_i) + eps), for the rows that were looked up."""
    momentum += (gradient**2).mean(1)
    table -= rate * gradient / (np.sqrt(momentum) + eps)[:, None]


def adagrad(table, momentum, gradient, rate, eps):
    momentum += gradient**2
    table -= rate * gradient / (np.sqrt(momentum) + eps)


def sgd(table, momentum, gradient, rate, eps):
    table -= rate * gradient


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize(("kind", "rule"), [("rowwise_adagrad", rowwise_adagrad), ("adagrad", adagrad), ("sgd", sgd)])
def test_fused_updates_against_a_hand_written_oracle(kind: str, rule, pooling: str) -> None:
    torch.manual_seed(0)
    width, rates = 4, [0.1, 0.05, 0.2]
    training = Training(sparse=kind, sparse_lr=0.1, sparse_eps=1e-3, epochs=1)
    model = nn.ModuleDict({"embed": Embeddings(Inputs(sparse=(SparseInput("f", "t", 6, pooling),)), width, training)})
    optimizers = Optimizers(model, training)
    values = torch.tensor([i for bag in BAGS for i in bag])
    batch = KeyedJaggedTensor(["f"], values, lengths=torch.tensor([len(bag) for bag in BAGS]))
    expected = model["embed"].tables()["t"].detach().numpy().astype(np.float64)
    momentum = np.zeros_like(expected) if kind == "adagrad" else np.zeros(len(expected))
    for rate in rates:
        optimizers.set_rates(rate / training.sparse_lr)
        vectors = model["embed"](batch)[:, 0]
        (vectors**2).sum().backward()
        optimizers.step()
        gradient = np.zeros_like(expected)
        for bag in ([i for i in bag if i] for bag in BAGS):
            share = 1.0 / len(bag) if pooling == "mean" and bag else 1.0
            pooled = sum((expected[i] for i in bag), np.zeros(width)) * share
            for i in bag:
                gradient[i] += 2 * pooled * share
        touched = sorted({i for bag in BAGS for i in bag if i})
        part, state = expected[touched], momentum[touched]
        rule(part, state, gradient[touched], rate, training.sparse_eps)
        expected[touched], momentum[touched] = part, state
        np.testing.assert_allclose(model["embed"].tables()["t"].detach().numpy(), expected, rtol=2e-5, atol=1e-6)
    if kind != "sgd":
        np.testing.assert_allclose(optimizers.state()["fused.embed.t"].reshape(momentum.shape), momentum, rtol=2e-5)


def test_dense_adam_with_l2_and_clip_against_an_explicit_loop() -> None:
    """Adam on mean loss + l2 / 2 x the squared norm of every whole table (autograd takes its gradient), global norm clipped: as FuxiCTR."""
    training = Training(sparse="dense", dense="adam", lr=0.01, l2=0.05, clip=0.1)
    world = World(256)
    ours = Net(training, seed=1)
    optimizers = Optimizers(ours, training)

    tables = [nn.Parameter(weight.detach().clone()) for weight in ours.embeddings.tables().values()]
    mlp = Net(training, seed=1).mlp
    parameters = [*tables, *mlp.parameters()]
    adam = torch.optim.Adam(parameters, lr=0.01)
    clipped = 0
    for start in range(0, 256, 32):
        batch = world.batch(range(start, start + 32))
        optimizers.set_rates(1.0)
        optimizers.zero_grad()
        bce(ours, batch)["loss"].backward()
        norm = optimizers.step()

        ids = batch.sparse.values().view(FEATURES, 32)
        x = torch.cat([table[row] for table, row in zip(tables, ids, strict=True)] + [batch.dense], 1)
        loss = nn.functional.binary_cross_entropy_with_logits(mlp(x), batch.labels)
        loss = loss + training.l2 / 2 * sum((table**2).sum() for table in tables)
        adam.zero_grad()
        loss.backward()
        expected_norm = float(nn.utils.clip_grad_norm_(parameters, 0.1))
        adam.step()
        clipped += expected_norm > 0.1
        assert norm == pytest.approx(expected_norm, rel=1e-5)
    assert clipped > 0
    for found, expected in zip(ours.embeddings.tables().values(), tables, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for found, expected in zip(ours.mlp.parameters(), mlp.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_l2_shrinks_rows_that_no_batch_has() -> None:
    training = Training(sparse="dense", l2=0.1)
    net = Net(training)
    optimizers = Optimizers(net, training)
    before = net.embeddings.tables()["f0"].detach().clone()
    world = World(8)
    unseen = sorted(set(range(1, ROWS)) - set(world.ids[0].tolist()))
    bce(net, world.batch(range(8)))["loss"].backward()
    optimizers.step()
    after = net.embeddings.tables()["f0"].detach()
    assert (after[unseen].abs() < before[unseen].abs()).all()
    assert not after[0].any()  # PAD


def test_weight_decay_is_for_the_network_only() -> None:
    training = Training(sparse="dense", dense="sgd", lr=0.5, weight_decay=0.1)
    net = Net(training)
    optimizers = Optimizers(net, training)
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    optimizers.set_rates(1.0)
    (sum(weight.sum() for weight in net.parameters()) * 0.0).backward()
    optimizers.step()
    for name, weight in net.named_parameters():
        factor = 1.0 if name.startswith("embeddings") else 0.95
        torch.testing.assert_close(weight.detach(), before[name] * factor)


@pytest.mark.parametrize("dense", ["adam", "adamw", "adagrad", "sgd"])
@pytest.mark.parametrize("sparse", ["rowwise_adagrad", "adagrad", "sgd", "dense"])
def test_state_goes_out_and_in(dense: str, sparse: str) -> None:
    training = Training(sparse=sparse, dense=dense, lr=0.05)
    world = World(128)

    def some_steps(net: Net, optimizers: Optimizers, start: int) -> None:
        for at in range(start, start + 64, 16):
            optimizers.set_rates(1.0)
            optimizers.zero_grad()
            bce(net, world.batch(range(at, at + 16)))["loss"].backward()
            optimizers.step()

    first = Net(training)
    optimizers = Optimizers(first, training)
    some_steps(first, optimizers, 0)
    second = Net(training, seed=7)
    second.load_state_dict(first.state_dict())
    others = Optimizers(second, training)
    others.restore({name: tensor.clone() for name, tensor in optimizers.state().items()})
    some_steps(first, optimizers, 64)
    some_steps(second, others, 64)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_state_of_another_network_is_refused() -> None:
    training = Training(sparse="rowwise_adagrad")
    optimizers = Optimizers(Net(training), training)
    with pytest.raises(BundleError, match=r"expected 'fused.embeddings.f0' of shape \(50,\), found none"):
        optimizers.restore({})
    with pytest.raises(BundleError, match=r"state of 'dense.other.weight.exp_avg'"):
        optimizers.restore({**optimizers.state(), "dense.other.weight.exp_avg": torch.zeros(1)})


def test_fused_tables_are_no_torch_optimisers_business() -> None:
    training = Training(sparse="adagrad", clip=1.0)
    net = Net(training)
    optimizers = Optimizers(net, training)
    assert all(not name.startswith("embeddings") for name in optimizers.named)
    only_tables = nn.ModuleDict({"e": Embeddings(INPUTS, 4, training)})
    assert Optimizers(only_tables, training).dense is None


def test_schedules() -> None:
    assert [multiplier("constant", step, 4) for step in range(4)] == [1.0] * 4
    assert [multiplier("plateau", step, 4, warmup=2) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]
    assert [multiplier("linear", step, 4) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    cosine = [multiplier("cosine", step, 6, warmup=2) for step in range(7)]
    assert cosine == pytest.approx([0.5, 1.0, 1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0.0])


def test_rates_reach_every_optimiser_and_stop_at_the_lowest() -> None:
    training = Training(sparse="sgd", sparse_lr=0.1, lr=1e-3)
    net = Net(training)
    optimizers = Optimizers(net, training)
    optimizers.set_rates(0.5)
    assert optimizers.rate == pytest.approx(5e-4)
    assert net.embeddings.collection.fused_optimizer().param_groups[0]["lr"] == pytest.approx(0.05)
    optimizers.scale = 0.1**9  # the plateau schedule of FuxiCTR goes no lower than 1e-6
    optimizers.set_rates(1.0)
    assert optimizers.rate == pytest.approx(1e-6)
