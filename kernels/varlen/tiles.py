"""Causal attention in tiles of queries: for what fused kernels have no argument for, sliding windows and soft-capping.

A tile meets only the keys that its queries may see, so under a window time and memory grow with the length and not with
its square. Nothing of a tile is kept for the backward pass, which computes it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

TILE_ROWS = 128
"""Queries in a tile: at least, where scores stay inside the fused kernel; at most, where they are written out."""
SCORE_ELEMENTS = 1 << 24
"""Scores that exist at a time where they are written out: 64 MiB in float32."""


@dataclass(frozen=True)
class Scoring:
    """Scale, window and cap of the attention scores."""

    scale: float
    """Factor on q . k."""
    window: int | None = None
    """Keys that a query sees, itself included; ``None``: its whole past."""
    softcap: float | None = None
    """c: a score s becomes c tanh(s / c) before the softmax; ``None``: it stays as it is."""

    def plain(self, length: int) -> bool:
        """Return True when sequences of ``length`` tokens need nothing but causal attention."""
        return self.softcap is None and (self.window is None or length <= self.window)


@dataclass(frozen=True)
class Tile:
    """Queries ``start`` to ``end`` of a sequence, and the keys ``first`` to ``end``."""

    start: int
    end: int
    first: int

    def visible(self, window: int | None, device: torch.device) -> torch.Tensor:
        """Return [queries, keys] bool."""
        query = torch.arange(self.start, self.end, device=device)[:, None]
        key = torch.arange(self.first, self.end, device=device)
        seen = key <= query
        return seen if window is None else seen & (key > query - window)


def tiles(length: int, window: int | None, rows: int, opening: int) -> Iterator[Tile]:
    """Cut ``length`` queries into a tile of ``opening`` and then tiles of ``rows``."""
    span = length if window is None else window
    start, end = 0, min(length, opening)
    while start < length:
        yield Tile(start, end, max(0, start - span + 1))
        start, end = end, min(length, end + rows)


def _cut(q: torch.Tensor, scoring: Scoring) -> Iterator[Tile]:
    n, heads, length, _ = q.shape
    if scoring.softcap is None:
        assert scoring.window is not None
        # Up to the window attention is plainly causal; after it half a window wastes a third of a tile's scores.
        return tiles(length, scoring.window, max(TILE_ROWS, scoring.window // 2), scoring.window)
    keys = length if scoring.window is None else min(length, scoring.window + TILE_ROWS)
    rows = max(1, min(TILE_ROWS, SCORE_ELEMENTS // (n * heads * keys)))
    return tiles(length, scoring.window, rows, rows)


def _written_out(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor, scale: float, softcap: float
) -> torch.Tensor:
    """Soft-capped attention of one tile, softmax in float32 at least; shapes as in ``tiled_attention``."""
    groups = q.shape[1] // k.shape[1]
    rows = q.unflatten(1, (-1, groups)).flatten(2, 3)  # query heads that share a key head lie below each other
    scores = softcap * torch.tanh((rows @ k.mT).mul(scale / softcap))
    scores = scores.unflatten(2, (groups, -1)).masked_fill(~seen, float("-inf"))
    dtype = torch.promote_types(q.dtype, torch.float32)
    weights = scores.softmax(-1, dtype=dtype).to(v.dtype).flatten(2, 3)
    return (weights @ v).unflatten(2, (groups, -1)).flatten(1, 2)


def _tile(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tile: Tile, scoring: Scoring) -> torch.Tensor:
    """Attend within one tile: q [n, H, queries, D], k [n, H_kv, keys, D], v [n, H_kv, keys, Dv] -> [n, H,
    queries, Dv].
    """
    if scoring.softcap is not None:
        return _written_out(q, k, v, tile.visible(scoring.window, q.device), scoring.scale, scoring.softcap)
    causal = tile.start == 0  # the opening is no longer than the window
    mask = None if causal else tile.visible(scoring.window, q.device)
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scoring.scale, enable_gqa=grouped
    )


def _parts(tensors: Sequence[torch.Tensor], tile: Tile) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    q, k, v = tensors
    return q[:, :, tile.start : tile.end], k[:, :, tile.first : tile.end], v[:, :, tile.first : tile.end]


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scoring: Scoring) -> torch.Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.scoring = scoring
        out = q.new_empty((*q.shape[:3], v.shape[3]))
        for tile in _cut(q, scoring):
            out[:, :, tile.start : tile.end] = _tile(*_parts((q, k, v), tile), tile, scoring)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved = ctx.saved_tensors
        totals = [torch.zeros_like(part) for part in saved]
        for tile in _cut(saved[0], ctx.scoring):
            with torch.enable_grad():
                q, k, v = (part.detach().requires_grad_() for part in _parts(saved, tile))
                out = _tile(q, k, v, tile, ctx.scoring)
            found = torch.autograd.grad(out, (q, k, v), grads[0][:, :, tile.start : tile.end])
            torch._foreach_add_(_parts(totals, tile), found)
        return *totals, None


def tiled_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scoring: Scoring) -> torch.Tensor:
    """q [n, H, L, D], k [n, H_kv, L, D], v [n, H_kv, L, Dv], H a multiple of H_kv -> [n, H, L, Dv]."""
    return _Tiled.apply(q, k, v, scoring)
