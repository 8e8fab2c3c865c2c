"""A network that goes on from another: its weights at the start are those of an earlier network, matched by id and by name.

    table[r] = earlier_table[rows[r]]                     rows: which earlier row each row of a table starts from
    layer    = earlier_layer                              where both read the same inputs in the same order

What cannot be matched starts as ever. State of optimisers is not taken over: it speaks of gradients long gone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from palate.nn.embedding import Embeddings
from palate.types import Inputs, Longs


def go_on(network: nn.Module, earlier: nn.Module, rows: Mapping[str, Longs], same_inputs: bool) -> None:
    """Gives the network the weights of an earlier one, in place.

    rows: for each table by name, the row of the earlier table from which each row starts; tables not named start as ever, and so does a
    compressed one, whose rows many ids share, unless all its ids kept their places. same_inputs: whether dense layers read the same
    columns; if not, only tables are taken over. A layer of another shape starts as ever.
    """
    theirs, in_tables = dict(earlier.named_modules()), set()
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, Embeddings):
                in_tables.add(f"{name}." if name else "")
                other = theirs.get(name)
                if isinstance(other, Embeddings):
                    _tables(module, other, rows)
        if same_inputs:
            weights = earlier.state_dict()
            for key, own in network.state_dict().items():
                found = weights.get(key)
                if found is not None and found.shape == own.shape and not any(key.startswith(prefix) for prefix in in_tables):
                    own.copy_(found)


def _tables(own: Embeddings, other: Embeddings, rows: Mapping[str, Longs]) -> None:
    earlier, kinds = other.tables(), {feature.table: feature.embedding for feature in other.inputs.sparse}
    sizes = {feature.table: feature.rows for feature in other.inputs.sparse}
    whole = {feature.table: (feature.rows, feature.embedding) for feature in own.inputs.sparse}
    for table, weight in own.tables().items():
        found = earlier.get(table)
        if found is None or found.shape[1] != weight.shape[1]:
            continue
        if table in rows and found.shape[0] == sizes.get(table) and weight.shape[0] == len(rows[table]):
            weight.copy_(_taken(found, rows[table]))
            continue
        # Part of a compressed table, `table:part`: ids find the same rows only where nothing moved.
        name = table.rpartition(":")[0]
        if name in rows and whole.get(name) == (sizes.get(name), kinds.get(name)) and found.shape == weight.shape and _stays(rows[name]):
            weight.copy_(found)


def _taken(table: Tensor, rows: Longs) -> Tensor:
    return table[torch.from_numpy(np.asarray(rows, dtype=np.int64)).to(table.device)]


def _stays(rows: Longs) -> bool:
    return bool((rows == np.arange(len(rows))).all())


def same_columns(one: Inputs, other: Inputs) -> bool:
    """Whether layers built for both read the same columns: dense ones by name, sparse ones by name and pooling, and tell the same tasks."""

    def seen(inputs: Inputs) -> tuple[object, ...]:
        return inputs.dense, tuple((feature.name, feature.pooling) for feature in inputs.sparse), inputs.tasks

    return seen(one) == seen(other)
