"""MoBA by Triton kernels: gate, lists, routed parts, merge; and back. Some key heads at a time if memory is short."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from kernels.moba import triton_backward, triton_forward, triton_gate
from kernels.moba.layout import MobaConfig, Span
from kernels.moba.lists import chunks, turn_around
from kernels.moba.tables import Tables, tables
from kernels.moba.tuning import tile_rows

WORKSPACE = 1 << 30
"""Bytes that the routed parts of one pass may take; more choices are worked off a group of key heads at a time."""


def forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sequences: Sequence[Span], config: MobaConfig, scale: float
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Output [Tq, H, D], and what ``backward`` needs beside the inputs: output, log-sum-exps, choice."""
    where = tables(sequences, config, tile_rows(q.shape[2], q.element_size()), q.device)
    out = [
        _forward_heads(q[:, heads], k[:, keys], v[:, keys], where, config, scale)
        for heads, keys in _head_groups(q, k, config, q.element_size())
    ]
    saved = out[0] if len(out) == 1 else tuple(torch.cat(parts, dim=1) for parts in zip(*out, strict=True))
    return saved[0], saved


def _head_groups(q: torch.Tensor, k: torch.Tensor, config: MobaConfig, itemsize: int) -> Iterator[tuple[slice, slice]]:
    """Query heads and the key heads they share, as many as the workspace allows for."""
    groups, width = k.shape[1], q.shape[1] // k.shape[1]
    each = max(1, q.shape[0] * width * config.routed * q.shape[2] * itemsize)
    step = max(1, min(groups, WORKSPACE // each))
    for start in range(0, groups, step):
        end = min(groups, start + step)
        yield slice(start * width, end * width), slice(start, end)


def _forward_heads(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, where: Tables, config: MobaConfig, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    means = triton_gate.block_means(k, where, config.block_size)
    chosen = triton_gate.choose_blocks(q, means, where, config.routed)
    part, part_lse = q.new_empty(0), q.new_empty(0, dtype=torch.float32)
    if config.routed:
        lists = turn_around(chosen, k.shape[1], where.blocks)
        cut = chunks(lists, where.rows)
        part, part_lse = triton_forward.routed_parts(
            q, k, v, lists, cut, where, config.routed, config.block_size, scale
        )
    out, lse = triton_forward.merge_current(q, k, v, part, part_lse, chosen, where, scale)
    return out, lse, chosen


def backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    saved: tuple[torch.Tensor, ...],
    sequences: Sequence[Span],
    config: MobaConfig,
    scale: float,
    deterministic: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v in float32. ``deterministic``: bitwise reproducible, without atomic additions."""
    where = tables(sequences, config, tile_rows(q.shape[2], q.element_size()), q.device)
    grads: list[tuple[Any, ...]] = []
    for heads, keys in _head_groups(q, k, config, 4 if deterministic else 0):
        above, out, lse, chosen = (part[:, heads].contiguous() for part in (grad, *saved))
        views = (q[:, heads], k[:, keys], v[:, keys])
        grads.append(triton_backward.gradients(above, out, lse, chosen, *views, where, config, scale, deterministic))
    if len(grads) == 1:
        return grads[0][0], grads[0][1], grads[0][2]
    grad_q, grad_k, grad_v = (torch.cat(parts, dim=1) for parts in zip(*grads, strict=True))
    return grad_q, grad_k, grad_v
