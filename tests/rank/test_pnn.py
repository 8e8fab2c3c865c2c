"""PNN: the contract, all three products with weights set by hand and against loops, the published parameter count."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.features.spec import Categorical, FeatureSet
from palate.metrics import pointwise
from palate.rank.lr import LR
from palate.rank.neural import NeuralRanker
from palate.rank.pnn import PNN, PNNNetwork
from palate.testing.ranker_contract import RankerContract, planted_examples, run_for
from palate.types import Batch, ConfigError, Inputs, Ragged, SparseInput


class TestInner(RankerContract):
    ranker = PNN
    settings: ClassVar[dict[str, Any]] = {
        "width": 8,
        "layers": (16,),
        "train": {"epochs": 3, "batch_size": 256, "lr": 1e-2, "sparse_lr": 0.2},
    }


class TestBoth(RankerContract):
    ranker = PNN
    settings: ClassVar[dict[str, Any]] = {
        "width": 5,
        "layers": (16,),
        "product": "both",
        "batch_norm": True,
        "dropout": 0.1,
        "train": {"epochs": 3, "batch_size": 256, "lr": 3e-2, "sparse": "dense"},
    }


def network(inputs: Inputs, width: int, product: str, layers: tuple[int, ...] = (), **settings: Any) -> PNNNetwork:
    built = PNN(width=width, product=product, layers=layers, train={"sparse": "dense"}, **settings).build(inputs)
    assert isinstance(built, PNNNetwork)
    return built


def two_rows(tasks: tuple[str, ...] = ("label",)) -> tuple[Inputs, Batch]:
    inputs = Inputs(("a",), (SparseInput("user", "user", 3), SparseInput("item", "item", 3)), tasks)
    encoded = Encoded(np.array([[2.0], [-1.0]], dtype=np.float32), {"user": Ragged.of([[1], [2]]), "item": Ragged.of([[2], [1]])}, inputs)
    return inputs, collate(encoded)


# Row 1: user (1, 2), item (6, 7), a = 2 (.25, -1) = (.5, -2). Their sum (7.5, 7). Row 2: (3, 5), (-1, 4), (-.25, 1); (1.75, 10).
LINEAR = [[1, 2, 6, 7, 0.5, -2], [3, 5, -1, 4, -0.25, 1]]
INNER = [[20, -3.5, -11], [17, 4.25, 4.25]]  # item.user, a.user, a.item
OUTER = [[56.25, 52.5, 49], [3.0625, 17.5, 100]]


@pytest.mark.parametrize(
    ("product", "products"), [("inner", INNER), ("outer", OUTER), ("both", [INNER[0] + OUTER[0], INNER[1] + OUTER[1]])]
)
def test_two_rows_by_hand(product: str, products: list[list[float]]) -> None:
    inputs, batch = two_rows()
    pnn = network(inputs, 2, product, (3,))
    weights = torch.arange(1.0, 7 + len(products[0]))
    hidden = pnn.mlp.hidden[0]
    assert isinstance(hidden, torch.nn.Linear)
    assert pnn.fields.vectors is not None
    with torch.no_grad():
        tables = pnn.fields.embeddings.tables()
        tables["user"][1:] = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
        tables["item"][1:] = torch.tensor([[-1.0, 4.0], [6.0, 7.0]])
        pnn.fields.vectors[0] = torch.tensor([0.25, -1.0])
        hidden.weight.copy_(torch.stack([weights, -weights, torch.zeros_like(weights)]))
        hidden.bias.copy_(torch.tensor([0.5, 0.0, 0.25]))
        pnn.head.weight.copy_(torch.tensor([[0.1, 1.0, -1.0]]))
        pnn.head.bias.fill_(0.125)
        logits = pnn(batch)
    # Hidden: the weighted sum of all of them is positive, so relu lets it and the constant through, but not its negative.
    sums = [sum((k + 1) * value for k, value in enumerate(LINEAR[row] + products[row])) for row in range(2)]
    assert min(sums) > 0
    torch.testing.assert_close(logits, torch.tensor([[0.1 * (total + 0.5) - 0.25 + 0.125] for total in sums]))


@pytest.mark.parametrize("product", ["inner", "outer", "both"])
@pytest.mark.parametrize("seed", range(4))
def test_oracle_loops(product: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tasks, width, rows = int(rng.integers(1, 3)), int(rng.integers(1, 5)), 5
    sparse = tuple(SparseInput(f"f{place}", f"f{place}", 9) for place in range(int(rng.integers(0, 5))))
    inputs = Inputs(tuple("abc")[: int(rng.integers(2, 4))], sparse, tuple("xy")[:tasks])
    ids = {f.name: rng.integers(1, 9, rows) for f in sparse}
    dense = rng.normal(size=(rows, len(inputs.dense))).astype(np.float32)
    pnn = network(inputs, width, product)
    with torch.no_grad():
        for weight in pnn.parameters():
            weight.normal_()
        logits = pnn(collate(Encoded(dense, {name: Ragged.of([[int(i)] for i in column]) for name, column in ids.items()}, inputs))).numpy()
    weights = {name: weight.detach().double().numpy() for name, weight in pnn.named_parameters()}
    tables = {name: table.detach().double().numpy() for name, table in pnn.fields.embeddings.tables().items()}
    for row in range(rows):
        vectors = [tables[f.name][ids[f.name][row]] for f in sparse]
        vectors += [float(x) * weights["fields.vectors"][place] for place, x in enumerate(dense[row])]
        joint = [float(number) for vector in vectors for number in vector]
        if product != "outer":
            joint += [float(vectors[i] @ vectors[j]) for i in range(len(vectors)) for j in range(i)]
        if product != "inner":
            summed = np.zeros((width, width))
            for one in vectors:
                for other in vectors:
                    summed += np.outer(one, other)
            joint += [float(summed[k, m]) for k in range(width) for m in range(k + 1)]
        expected = weights["head.weight"] @ np.array(joint) + weights["head.bias"]
        np.testing.assert_allclose(logits[row], expected, rtol=1e-4, atol=1e-3)


def test_bf16_gives_float32_logits() -> None:
    inputs, batch = two_rows(("click", "buy"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(inputs, 4, "both", (8,), batch_norm=True)(batch).dtype == torch.float32


def test_parameter_count_of_the_published_model() -> None:
    # Frappe: 10 categorical fields of 5,389 ids in all, width 10, 400-400-400 without batch normalisation: the BARS log of IPNN says
    # 433,491 = 53,890 + an MLP of 100 + 45 inputs. The others have 55 outer products for the inner ones, or beside them.
    rows = [*[100] * 9, 5389 - 900]
    inputs = Inputs((), tuple(SparseInput(f"f{place}", f"f{place}", size) for place, size in enumerate(rows)))
    counts = {
        product: sum(weight.numel() for weight in network(inputs, 10, product, (400, 400, 400)).parameters())
        for product in ("inner", "outer", "both")
    }
    assert counts == {"inner": 433_491, "outer": 433_491 + 10 * 400, "both": 433_491 + 55 * 400}


def test_one_feature_has_no_product() -> None:
    with pytest.raises(ConfigError, match="pnn: products need two features, got 1"):
        PNN().build(Inputs((), (SparseInput("user", "user", 3),)))


@pytest.mark.parametrize("product", ["inner", "outer"])
def test_it_learns_an_interaction_that_lr_cannot(product: str) -> None:
    # Only the user's taste and the item's kind: which item is wanted depends on the two together, and on neither alone.
    features = FeatureSet(features=(Categorical(source="user.taste"), Categorical(source="item.kind")))
    examples = planted_examples(features, said=False).examples
    held = examples.validation[:, None] & examples.candidates.present
    found = {}
    rankers: tuple[NeuralRanker, ...] = (
        PNN(product=product, width=8, layers=(16,), train={"epochs": 5, "batch_size": 256, "lr": 1e-2, "sparse_lr": 0.4}),
        LR(train={"epochs": 5, "batch_size": 256}),
    )
    for ranker in rankers:
        scores = ranker.fit(examples, run_for(ranker)).score(examples.queries, examples.candidates, examples.encoder)
        found[ranker.name] = pointwise.auc(examples.labels[held][:, 0], scores[held][:, 0])
    assert found["pnn"] > 0.9
    assert found["lr"] < 0.65
