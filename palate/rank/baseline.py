"""What ratings come to by user and item alone: where boosted trees begin when they learn ratings.

    b_i = sum_{u in R(i)} (r_ui - mu) / (l2_items + |R(i)|)
    b_u = sum_{i in R(u)} (r_ui - mu - b_i) / (l2_users + |R(u)|)                baseline(u, i) = mu + b_u + b_i

Koren 2010, "Factor in the Neighbors: Scalable and Accurate Collaborative Filtering", section 2.2, whose 25 and 10 these are. Numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from palate.types import Floats, Ints

L2_ITEMS, L2_USERS = 25.0, 10.0
COLUMNS = ("user.bias", "user.ratings", "item.bias", "item.ratings")


class Rated(NamedTuple):
    """R ratings: codes of users and items, and values float32 [R]."""

    users: Ints
    items: Ints
    values: Floats

    @classmethod
    def none(cls) -> Self:
        """No ratings."""
        return cls(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32))

    def and_of_known(self, other: Rated) -> Rated:
        """These, and those of the other whose user is known; of several ratings of a pair the last."""
        known = other.users >= 0
        users, items = np.concatenate([self.users, other.users[known]]), np.concatenate([self.items, other.items[known]])
        pairs = users.astype(np.int64) * (int(items.max(initial=0)) + 1) + items
        last = len(pairs) - 1 - np.unique(pairs[::-1], return_index=True)[1]
        return Rated(users[last], items[last], np.concatenate([self.values, other.values[known]])[last])


@dataclass(frozen=True)
class Baseline:
    """mean: mu; least, most: of all ratings. users, items: bias and number of ratings by code, [U, 2] and [N, 2]."""

    mean: float
    least: float
    most: float
    users: Floats
    items: Floats

    @classmethod
    def fit(cls, rated: Rated, n_users: int, n_items: int) -> Self:
        """Cost: linear. Of no ratings at all nothing is known: mu is 0."""
        values = rated.values.astype(np.float64)
        mean = float(values.mean()) if len(values) else 0.0
        of_items = _bias(rated.items, values - mean, n_items, L2_ITEMS)
        of_users = _bias(rated.users, values - mean - of_items[rated.items, 0], n_users, L2_USERS)
        ends = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
        return cls(mean, *ends, of_users.astype(np.float32), of_items.astype(np.float32))

    def without_bias(self) -> Self:
        """The same mean for everybody."""
        return replace(self, users=np.zeros_like(self.users), items=np.zeros_like(self.items))

    def __call__(self, users: Ints, items: Ints) -> Floats:
        """The baseline of R pairs, float32 [R]; somebody unknown (-1) has no bias."""
        columns = self.columns(users, items)
        return np.asarray(self.mean + columns[:, 0] + columns[:, 2], dtype=np.float32)

    def columns(self, users: Ints, items: Ints) -> Floats:
        """What trees may see of it: COLUMNS, float32 [R, 4]."""
        known = users >= 0
        of_users = (
            np.where(known[:, None], self.users[np.where(known, users, 0)], np.float32(0)) if len(self.users) else np.zeros((len(users), 2))
        )
        return np.concatenate([of_users, self.items[items]], axis=1, dtype=np.float32)

    def arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """As arrays, for a State."""
        scale = np.array([self.mean, self.least, self.most], dtype=np.float64)
        return {f"{name}.scale": scale, f"{name}.users": self.users, f"{name}.items": self.items}

    @classmethod
    def of_arrays(cls, name: str, arrays: Any) -> Self:
        """From what `arrays` gave."""
        mean, least, most = (float(value) for value in arrays[f"{name}.scale"])
        return cls(mean, least, most, np.array(arrays[f"{name}.users"]), np.array(arrays[f"{name}.items"]))


def _bias(codes: Ints, residuals: npt.NDArray[np.float64], size: int, l2: float) -> npt.NDArray[np.float64]:
    counts = np.bincount(codes, minlength=size).astype(np.float64)
    return np.stack([np.bincount(codes, residuals, minlength=size) / (l2 + counts), counts], axis=1)
