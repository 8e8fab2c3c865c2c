"""Full precision inside autocast: where bfloat16 has too few bits (logits, long sums)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A context in which autocast is off. Devices that have no autocast ("meta") need none."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()
