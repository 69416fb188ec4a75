"""The gate: mean keys of full blocks, and the past blocks that each query and head chooses [C.1-C.3]."""

from __future__ import annotations

import torch

from kernels.moba.layout import MobaConfig
from kernels.moba.reference import gate_dtype

TILE_SCORES = 1 << 20
"""Gate scores held at once: a [queries, blocks] matrix never exists as a whole."""


def block_means(k: torch.Tensor, block_size: int) -> torch.Tensor:
    """Mean key of every full block of one sequence: k [Tk, H_kv, D] -> [n, H_kv, D] in the gate's dtype."""
    full = k.shape[0] // block_size
    return k[: full * block_size].unflatten(0, (full, block_size)).mean(dim=1, dtype=gate_dtype(k.dtype))


def top_blocks(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the ``count`` highest scores [..., n] -> int64 [..., count]; the lower index on a tie, -1 for -inf.

    ``topk`` promises nothing about ties: rows where one crosses the cut are ranked again by a stable sort.
    """
    blocks = scores.shape[-1]
    kept = min(count, blocks)
    values, index = scores.topk(min(kept + 1, blocks), dim=-1)
    if blocks > kept > 0:
        tied = (values[..., kept - 1] == values[..., kept]) & (values[..., kept] > float("-inf"))
        values, index = values[..., :kept], index[..., :kept]
        if tied.any():
            order = scores[tied].argsort(dim=-1, descending=True, stable=True)[..., :kept]
            values, index = values.clone(), index.clone()
            values[tied], index[tied] = scores[tied].gather(-1, order), order
    index = index[..., :kept].masked_fill(values[..., :kept] == float("-inf"), -1)
    return torch.nn.functional.pad(index, (0, count - kept), value=-1)


def choose_blocks(q: torch.Tensor, means: torch.Tensor, position: int, config: MobaConfig) -> torch.Tensor:
    """Past blocks of consecutive queries of one sequence, the first one at ``position``.

    q [R, H, D], means [n, H_kv, D] -> int32 [R, H, top_k - 1]; -1 where a query has fewer past blocks than that. Heads
    route one by one, also inside a group that shares keys.
    """
    rows, heads, dim = q.shape
    groups = means.shape[1]
    chosen = torch.full((rows, heads, config.routed), -1, dtype=torch.int32, device=q.device)
    if config.routed == 0:
        return chosen
    keys = means.permute(1, 2, 0)  # [H_kv, D, n]
    start = 0
    while start < rows:
        step = max(1, TILE_SCORES // max(1, heads * means.shape[0]))
        current = (position + torch.arange(start, min(rows, start + step), device=q.device)) // config.block_size
        past = int(current[-1])
        if past > 0:
            tile = q[start : start + step].to(means.dtype).reshape(len(current), groups, heads // groups, dim)
            scores = tile.permute(1, 0, 2, 3).reshape(groups, -1, dim) @ keys[:, :, :past]
            scores = scores.view(groups, len(current), heads // groups, past)
            future = torch.arange(past, device=q.device)[None, :] >= current[:, None]
            scores.masked_fill_(future[None, :, None, :], float("-inf"))
            best = top_blocks(scores, config.routed)
            chosen[start : start + step] = best.transpose(0, 1).reshape(len(current), heads, -1).int()
        start += step
    return chosen
