"""The lengths of packed sequences on the host: read once and planned for once, not in each layer.

A tensor of lengths on a GPU makes the host wait for all work before it; a model's layers all get the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

PLANS = 32
"""Plans kept per kind: those of one forward pass, which cuts its stream in a few ways. The layers after the first, and
the backward pass, find them there."""

Boundaries = torch.Tensor | Sequence[int]
"""[n + 1]: 0 and the end of each sequence in the packed stream, increasing ints; on the host or on a device."""

_read = WeakTensorKeyDictionary()


def boundaries(cu_seqlens: Boundaries) -> tuple[int, ...]:
    """Return ``cu_seqlens`` on the host. One on a GPU is waited for once in its life, unless it changes."""
    if not isinstance(cu_seqlens, torch.Tensor):
        return tuple(cu_seqlens)
    if cu_seqlens.is_inference():  # nothing counts its changes
        return tuple(cu_seqlens.tolist())
    version, known = _read.get(cu_seqlens, (None, ()))
    if version != cu_seqlens._version:
        known = tuple(cu_seqlens.tolist())
        if cu_seqlens.device.type != "cpu":
            _read[cu_seqlens] = (cu_seqlens._version, known)
    return known


def index(rows: Any, device: torch.device) -> torch.Tensor:
    """Return rows (numbers, or an array of them) as an index that later calls may use, those with gradients too."""
    with torch.inference_mode(False):
        return torch.as_tensor(rows, dtype=torch.int64).to(device)
