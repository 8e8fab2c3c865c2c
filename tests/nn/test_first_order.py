import warnings

import numpy as np
import torch

from palate.config import Training
from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.nn.embedding import Embeddings
from palate.nn.first_order import FirstOrder, width_for
from palate.types import Batch, Inputs, Ragged, SparseInput


def example(dense: tuple[str, ...] = ("a", "b")) -> tuple[Inputs, Batch]:
    inputs = Inputs(dense, (SparseInput("user", "user", 3), SparseInput("genres", "genres", 4, "mean")), ("click", "buy"))
    columns = np.array([[1.0, 2.0], [0.0, -1.0]], dtype=np.float32)[:, : len(dense)]
    return inputs, collate(Encoded(columns, {"user": Ragged.of([[1], [2]]), "genres": Ragged.of([[1, 3], []])}, inputs))


def set_by_hand(part: FirstOrder) -> None:
    with torch.no_grad():
        tables = part.embeddings.tables()
        tables["user"][:, :2] = torch.tensor([[0.0, 0.0], [3.0, 30.0], [-2.0, -20.0]])
        tables["genres"][:, :2] = torch.tensor([[0.0, 0.0], [4.0, 40.0], [9.0, 90.0], [6.0, 60.0]])
        part.dense.weight.copy_(torch.tensor([[0.5, -0.25], [5.0, -2.5]]))


def test_hand_computed() -> None:
    inputs, batch = example()
    for wide, sparse in ((2, "dense"), (4, "adagrad")):
        part = FirstOrder(inputs, Embeddings(inputs, wide, Training.parse({"sparse": sparse}, "train"), "normal", 0.0))
        set_by_hand(part)
        with torch.no_grad():
            part.dense.bias.copy_(torch.tensor([0.1, 0.2]))
            # user, mean of genres, a, b
            assert part.terms(batch)[:, :, 0].tolist() == [[3.0, 5.0, 0.5, -0.5], [-2.0, 0.0, 0.0, 0.25]]
            assert part.terms(batch)[:, :, 1].tolist() == [[30.0, 50.0, 5.0, -5.0], [-20.0, 0.0, 0.0, 2.5]]
            torch.testing.assert_close(part(batch), torch.tensor([[8.1, 80.2], [-1.65, -17.3]]))


def test_starts_at_zero_without_a_word() -> None:
    for dense in (("a", "b"), ()):
        for bias in (True, False):
            inputs, batch = example(dense)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                part = FirstOrder(inputs, Embeddings(inputs, 2, Training(sparse="dense"), "normal", 0.0), bias)
            assert part(batch).tolist() == [[0.0, 0.0], [0.0, 0.0]]
            assert sum(weight.numel() for weight in part.dense.parameters()) == 2 * (len(dense) + bias)


def test_float32_under_autocast() -> None:
    inputs, batch = example()
    part = FirstOrder(inputs, Embeddings(inputs, 2, Training(sparse="dense"), "normal", 0.0), bias=False)
    set_by_hand(part)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, terms = part(batch), part.terms(batch)
    assert (logits.dtype, terms.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(terms.sum(dim=1), logits)


def test_width_for() -> None:
    assert [width_for(tasks, fused=True) for tasks in (1, 4, 5)] == [4, 4, 8]
    assert [width_for(tasks, fused=False) for tasks in (1, 4, 5)] == [1, 4, 5]
