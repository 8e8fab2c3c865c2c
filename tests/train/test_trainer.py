from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from palate.config import Training
from palate.nn.embedding import Embeddings
from palate.nn.mlp import MLP
from palate.train.trainer import Trainer
from palate.types import Batch, Inputs, Run, SparseInput

ROWS, FEATURES = 50, 2
INPUTS = Inputs(dense=("x",), sparse=tuple(SparseInput(f"f{n}", f"f{n}", ROWS, "sum") for n in range(FEATURES)))


def batches(number: int, size: int, seed: int = 0) -> list[Batch]:
    """A planted world: each id has a hidden weight, the label is drawn from the sigmoid of their sum."""
    draw = torch.Generator().manual_seed(99)
    hidden = torch.randn(FEATURES, ROWS, generator=draw) * 2
    draw = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(number):
        ids = torch.randint(1, ROWS, (FEATURES, size), generator=draw)
        logits = hidden.gather(1, ids).sum(0)
        labels = torch.bernoulli(torch.sigmoid(logits), generator=draw)
        sparse = KeyedJaggedTensor([f.name for f in INPUTS.sparse], ids.reshape(-1), lengths=torch.ones(FEATURES * size, dtype=torch.long))
        made.append(Batch(torch.rand(size, 1, generator=draw), sparse, labels[:, None], torch.ones(size)))
    return made


class ListLoader:
    def __init__(self, batches: list[Batch]) -> None:
        self.batches, self.epoch, self.batch = batches, 0, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.batches), generator=torch.Generator().manual_seed(self.epoch)).tolist()
        while self.batch < len(order):
            self.batch += 1
            yield self.batches[order[self.batch - 1]]
        self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.epoch, self.batch = state["epoch"], state["batch"]


class Net(nn.Module):
    def __init__(self, training: Training, seed: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embeddings = Embeddings(INPUTS, 4, training)
        self.mlp = MLP(FEATURES * 4 + 1, [8], dropout=dropout, out=1)

    def forward(self, batch: Batch) -> Tensor:
        return self.mlp(torch.cat([self.embeddings(batch.sparse).flatten(1), batch.dense], 1))


def bce(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    return {"loss": nn.functional.binary_cross_entropy_with_logits(model(batch), batch.labels)}


@pytest.mark.parametrize("sparse", ["rowwise_adagrad", "adagrad", "sgd", "dense"])
def test_learns(sparse: str) -> None:
    rate = 5.0 if sparse == "sgd" else 0.1
    training = Training(epochs=10, sparse=sparse, sparse_lr=rate, lr=0.01)
    net = Net(training)
    curves = Trainer()(net, ListLoader(batches(20, 64)), bce, training, name="net", run=Run())
    assert len(curves["loss"]) == 10
    assert curves["loss"][-1] < 0.75 * curves["loss"][0]
    assert not net.training
