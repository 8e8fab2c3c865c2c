"""Small tables for large vocabularies: quotient-remainder and Bloom embeddings, as what ids become and how the vectors found are joined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from palate.types import Compressed, ConfigError, SparseInput

PAD = 0
# Odd constants of the golden ratio and of Steele et al. 2014 (SplitMix64), as signed 64-bit numbers: which rows an id has rests on them.
STEP, FIRST, SECOND = 0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


@dataclass(frozen=True)
class Slot:
    """One lookup of a feature: in `table` of `rows` x `width`. part: which of the feature's lookups; its PAD is row 0."""

    feature: SparseInput
    table: str
    rows: int
    width: int
    part: int = 0

    @property
    def key(self) -> str:
        """Its name among the lookups: the feature's where that has no other."""
        return self.feature.name if self.feature.embedding is None or not self.part else f"{self.feature.name}:{self.part}"

    def ids(self, ids: Tensor) -> Tensor:
        """Ids of the feature, int64, to rows of the table; PAD stays PAD."""
        how = self.feature.embedding
        if how is None or self.rows == self.feature.rows:
            return ids
        if how.kind == "qr":
            found = torch.div(ids - 1, how.collisions, rounding_mode="floor") if self.part == 0 else (ids - 1).remainder(how.collisions)
        else:
            found = hashed(ids, self.part).remainder(self.rows - 1)
        return torch.where(ids == PAD, PAD, found + 1)


def hashed(ids: Tensor, function: int) -> Tensor:
    """The hash function of this number: int64 -> int64 >= 0. SplitMix64 (Steele, Lea and Flood 2014) of id + function x 2^32."""
    mixed = (ids + (function << 32)) * STEP
    mixed = (mixed ^ _right(mixed, 30)) * FIRST
    mixed = (mixed ^ _right(mixed, 27)) * SECOND
    return (mixed ^ _right(mixed, 31)) & (2**63 - 1)


def _right(bits: Tensor, places: int) -> Tensor:
    """A shift that brings in zeros."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def is_compressed(feature: SparseInput) -> bool:
    """Whether the feature's ids share rows. Tables that are small, or would not become smaller, stay whole."""
    how = feature.embedding
    if how is None or feature.rows <= how.threshold:
        return False
    return how.rows + 1 < feature.rows if how.kind == "bloom" else how.collisions > 1


def slots_of(feature: SparseInput, width: int, fused: bool) -> Iterator[Slot]:
    """The lookups of a feature of `width`. Errors: ConfigError where halves of that width cannot be."""
    how = feature.embedding
    if how is None or not is_compressed(feature):
        yield Slot(feature, feature.table, feature.rows, width)
    elif how.kind == "bloom":
        for part in range(how.hashes):
            yield Slot(feature, f"{feature.table}:bloom", how.rows + 1, width, part)
    else:
        if how.operation == "concat" and width % (8 if fused else 2):
            need = "fused tables take multiples of 4, so that the width must be one of 8" if fused else "the width must be even"
            raise ConfigError(
                f'sparse feature {feature.name!r}: operation "concat" joins two halves of the width {width}; {need}; '
                'or take operation = "add" or "mult"'
            )
        size = width // 2 if how.operation == "concat" else width
        quotients = -(-(feature.rows - 1) // how.collisions)
        yield Slot(feature, f"{feature.table}:quotient", quotients + 1, size, 0)
        yield Slot(feature, f"{feature.table}:remainder", how.collisions + 1, size, 1)


def join(how: Compressed, parts: list[Tensor]) -> Tensor:
    """What was found for the slots of one feature, each [B, width], as its vector [B, D]."""
    if how.kind == "bloom" or how.operation == "add":
        return torch.stack(parts).sum(0)
    return parts[0] * parts[1] if how.operation == "mult" else torch.cat(parts, dim=1)
