"""The largest attention logit of each head over packed sequences, for whoever wants to bound it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

from kernels.varlen.host import Boundaries, boundaries

ROWS = 256
"""Queries whose logits exist at a time."""
WATCH = "k15_watch_logits"
"""Attribute of an attention layer: a function that is told the largest logit of each head [H] of every pass."""


@torch.no_grad()
def largest_logits(q: torch.Tensor, k: torch.Tensor, cu_seqlens: Boundaries, scale: float) -> torch.Tensor:
    """Return the largest scale x q . k of each head [H], over a token and those before it in its sequence.

    q [T, H, D], k [T, H_kv, D]. What block attention leaves out counts, too: it is a bound for that.
    """
    heads, groups = q.shape[1], q.shape[1] // k.shape[1]
    precise = torch.promote_types(q.dtype, torch.float32)
    found = torch.full((heads,), -torch.inf, dtype=precise, device=q.device)
    for start, end in pairwise(boundaries(cu_seqlens)):
        keys = k[start:end].permute(1, 2, 0).to(precise)
        for first in range(start, end, ROWS):
            last = min(first + ROWS, end)
            queries = q[first:last].to(precise).permute(1, 0, 2).unflatten(0, (-1, groups))
            logits = queries @ keys[:, None, :, : last - start] * scale
            rows = torch.arange(first, last, device=q.device)[:, None]
            later = torch.arange(start, last, device=q.device) > rows
            found = torch.maximum(found, logits.masked_fill(later, -torch.inf).amax((-2, -1)).flatten())
    return found


def watched(module: Any, q: torch.Tensor, k: torch.Tensor, cu_seqlens: Boundaries, scale: float) -> None:
    """Tell a layer that is watched what its largest logits are; others cost nothing."""
    watch = module.__dict__.get(WATCH)
    if watch is not None and torch.is_grad_enabled():
        watch(largest_logits(q, k, cu_seqlens, scale))
