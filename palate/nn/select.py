"""A part of a network that sees only some of the features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from palate.config import unknown_key
from palate.types import Batch, ConfigError, Inputs


class Select(nn.Module):
    """A batch with some of its dense columns only, and the `inputs` that a part of a network which is given that batch is built for.

    names: sparse features and dense columns, in any order (None: all there are). Sparse features stay in the batch: `Embeddings` made
    for `inputs` look up theirs alone. where: what errors call it. Errors: ConfigError for a name that is not there.

    >>> from palate.types import SparseInput
    >>> Select(Inputs(("age", "price"), (SparseInput("item", "item", 9),)), ["price"], "wide").inputs
    Inputs(dense=('price',), sparse=(), tasks=('label',))
    """

    _columns: Tensor | None

    def __init__(self, inputs: Inputs, names: Sequence[str] | None, where: str) -> None:
        super().__init__()
        known = [*inputs.dense, *(feature.name for feature in inputs.sparse)]
        for name in names or ():
            if name not in known:
                raise ConfigError(f"{where}.{name}: {unknown_key(name, known)}")
        kept = known if names is None else names
        places = [place for place, name in enumerate(inputs.dense) if name in kept]
        sparse = tuple(feature for feature in inputs.sparse if feature.name in kept)
        self.inputs = replace(inputs, dense=tuple(inputs.dense[place] for place in places), sparse=sparse)
        columns = None if len(places) == len(inputs.dense) else torch.tensor(places, dtype=torch.long)
        self.register_buffer("_columns", columns, persistent=False)

    def forward(self, batch: Batch) -> Batch:
        """Batch -> Batch. Cost: nothing where all dense columns stay, else a copy of those that do."""
        return batch if self._columns is None else replace(batch, dense=batch.dense.index_select(1, self._columns))
