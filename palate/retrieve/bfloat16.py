"""bfloat16 without a library: the upper half of a float32, kept as uint16, since numpy has no such numbers.

Eight bits of exponent, as float32 has, and eight of significand, so that rounding changes a number by at most 1 part in 256
(D. Kalamkar et al. 2019, "A Study of BFLOAT16 for Deep Learning Training", section 3).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from palate.types import Floats

Bits = npt.NDArray[np.uint16]


def rounded(numbers: Floats) -> Bits:
    """The nearest bfloat16, of two equally near the even one. float32 -> uint16 of the same shape. What is not finite stays so."""
    whole = np.ascontiguousarray(numbers, dtype=np.float32)
    bits = whole.view(np.uint32)
    half = ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1)))) >> 16).astype(np.uint16)
    return np.where(np.isnan(whole), np.uint16(0x7FC0), half)


def floats(numbers: npt.NDArray[Any]) -> Floats:
    """float32 of bfloat16, exactly; float32 is given back as it is."""
    if numbers.dtype != np.uint16:
        return numbers
    bits = numbers.astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)
