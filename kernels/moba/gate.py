"""The gate: mean keys of full blocks, and the past blocks that each query and head chooses [2502.13189 §2.2, §2.3]."""

from __future__ import annotations

import torch

from kernels.moba.layout import MobaConfig
from kernels.moba.reference import gate_dtype

FEW = 4
"""Choices up to which taking maxima one by one is faster than ``topk`` on a CPU (2: 3.5 times; each costs the same)."""
TILE_SCORES = 1 << 20
"""Gate scores held at once: a [queries, blocks] matrix never exists as a whole."""


def block_means(k: torch.Tensor, block_size: int) -> torch.Tensor:
    """Return the mean key of every full block of one sequence: k [Tk, H_kv, D] -> [n, H_kv, D] in the gate's dtype."""
    full = k.shape[0] // block_size
    return k[: full * block_size].unflatten(0, (full, block_size)).mean(dim=1, dtype=gate_dtype(k.dtype))


def top_blocks(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return the indices of the ``count`` highest scores [..., n]: int64 [..., count]; the lower index on a tie, -1 for
    -inf.
    """
    kept = min(count, scores.shape[-1])
    if kept == 0:
        return scores.new_full((*scores.shape[:-1], count), -1, dtype=torch.int64)
    values, index = (_one_by_one if kept <= FEW else _ranked)(scores, kept)
    index = index.masked_fill(values == float("-inf"), -1)
    return torch.nn.functional.pad(index, (0, count - kept), value=-1)


def _one_by_one(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values and indices [..., count]: the highest, then the highest of the rest; ``max`` takes the first of
    equals.
    """
    found = [scores.max(dim=-1, keepdim=True)]
    rest = scores.clone() if count > 1 else scores
    while len(found) < count:
        rest.scatter_(-1, found[-1].indices, float("-inf"))
        found.append(rest.max(dim=-1, keepdim=True))
    return torch.cat([best.values for best in found], -1), torch.cat([best.indices for best in found], -1)


def _ranked(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same by ``topk``, which promises nothing about ties: rows where one crosses the cut are sorted
    again.
    """
    blocks = scores.shape[-1]
    values, index = scores.topk(min(count + 1, blocks), dim=-1)
    if blocks > count:
        tied = (values[..., count - 1] == values[..., count]) & (values[..., count] > float("-inf"))
        values, index = values[..., :count], index[..., :count]
        if tied.any():
            order = scores[tied].argsort(dim=-1, descending=True, stable=True)[..., :count]
            values, index = values.clone(), index.clone()
            values[tied], index[tied] = scores[tied].gather(-1, order), order
    return values, index


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
