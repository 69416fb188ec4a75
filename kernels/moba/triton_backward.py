"""Triton backward pass: the scores are computed again; gradients of the parts add up [2502.13189 §2.3; 2511.11571].

Keys and values: one program per chunk of a block's list and tile of its keys. Queries: added to float32 rows atomically
by those same programs, or, deterministically, by a pass of their own that leaves each choice's part in its slot.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# (what a kernel takes are pointers, numbers and constants of the compiler, not Python types)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from kernels.moba.layout import MobaConfig
from kernels.moba.lists import Chunks, Lists, chunks, turn_around
from kernels.moba.tables import Tables
from kernels.moba.tuning import INTERPRETED, columns, precision, tuned

CHUNK = 32 if INTERPRETED else 2048
"""Queries of one list that a program takes: a block that everyone chose must not keep one program busy for long."""
KEY_TILE = 16 if INTERPRETED else 64
"""Keys whose gradients a program holds."""
CONFIGS = [
    {"num_warps": 4, "num_stages": 2},
    {"num_warps": 8, "num_stages": 2},
    {"num_warps": 4, "num_stages": 3},
]


@tuned([{"num_warps": 4}], key=["dim"])
@triton.jit
def _delta_kernel(grad, out, delta, pairs, dim, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    inside = (row < pairs)[:, None] & (column < dim)[None, :]
    at = row[:, None] * dim + column[None, :]
    product = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32) * tl.load(out + at, mask=inside, other=0.0)
    tl.store(delta + row, tl.sum(product, axis=1), mask=row < pairs)


@triton.jit
def _part(queries, keys, values, grads, lse, delta, seen, scale, PRECISION: tl.constexpr):
    """Weights [M, K] and score gradients [M, K] of queries [M, D] and keys [K, D], from the whole softmax's sums."""
    scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
    weights = tl.where(seen, tl.exp2((scores - lse[:, None]) * 1.4426950408889634), 0.0)
    grad_weights = tl.dot(grads, tl.trans(values), input_precision=PRECISION)
    return weights, weights * (grad_weights - delta[:, None]) * scale


@tuned(CONFIGS, key=["dim"])
@triton.jit
def _current_keys_kernel(
    grad, q, k, v, lse, delta, grad_k, grad_v, block_row, block_keys, block_query, block_queries,
    stride_qt, stride_qh, stride_kt, stride_kh, stride_vt, stride_vh,
    heads, groups, dim, scale,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, KEY_TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    block, group = tl.program_id(0), tl.program_id(2)
    start, size = tl.load(block_row + block).to(tl.int64), tl.load(block_keys + block)
    first, count = tl.load(block_query + block).to(tl.int64), tl.load(block_queries + block)
    offset = size - count  # of the first query within the block; a block's queries are its last positions
    key, column = tl.program_id(1) * KEY_TILE + tl.arange(0, KEY_TILE), tl.arange(0, COLUMNS)
    inside = (key < size)[:, None] & (column < dim)[None, :]
    keys = tl.load(k + (start + key)[:, None] * stride_kt + group * stride_kh + column[None, :], mask=inside, other=0.0)
    values = tl.load(
        v + (start + key)[:, None] * stride_vt + group * stride_vh + column[None, :], mask=inside, other=0.0
    )
    sum_k, sum_v = tl.zeros([KEY_TILE, COLUMNS], tl.float32), tl.zeros([KEY_TILE, COLUMNS], tl.float32)
    for number in range(heads // groups):
        head = group * (heads // groups) + number
        for begin in range(0, count, ROWS):
            row = begin + tl.arange(0, ROWS)
            real = row < count
            there = real[:, None] & (column < dim)[None, :]
            pair = (first + row) * heads + head
            address = q + (first + row)[:, None] * stride_qt + head * stride_qh + column[None, :]
            queries = tl.load(address, mask=there, other=0.0)
            grads = tl.load(grad + pair[:, None] * dim + column[None, :], mask=there, other=0.0)
            seen = real[:, None] & (key[None, :] <= (offset + row)[:, None])
            pair_lse, pair_delta = (
                tl.load(lse + pair, mask=real, other=0.0),
                tl.load(delta + pair, mask=real, other=0.0),
            )
            weights, grad_scores = _part(queries, keys, values, grads, pair_lse, pair_delta, seen, scale, PRECISION)
            sum_v += tl.dot(tl.trans(weights).to(grads.dtype), grads, input_precision=PRECISION)
            sum_k += tl.dot(tl.trans(grad_scores).to(queries.dtype), queries, input_precision=PRECISION)
    cell = ((start + key) * groups + group)[:, None] * dim + column[None, :]
    tl.store(grad_k + cell, sum_k, mask=inside)
    tl.store(grad_v + cell, sum_v, mask=inside)


@tuned(CONFIGS, key=["dim", "routed"])
@triton.jit
def _current_queries_kernel(
    grad, q, k, v, lse, delta, part, chosen, grad_q,
    tile_row, tile_count, tile_block, tile_base, tile_offset, block_row,
    stride_qt, stride_qh, stride_kt, stride_kh, stride_vt, stride_vh,
    heads, groups, dim, routed, scale,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, KEY_TILE: tl.constexpr, PRECISION: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    count, offset = tl.load(tile_count + tile), tl.load(tile_offset + tile)
    first = tl.load(tile_row + tile).to(tl.int64)
    group = head // (heads // groups)
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    real = row < count
    inside = real[:, None] & (column < dim)[None, :]
    pair = (first + row) * heads + head
    address = q + (first + row)[:, None] * stride_qt + head * stride_qh + column[None, :]
    queries = tl.load(address, mask=inside, other=0.0)
    grads = tl.load(grad + pair[:, None] * dim + column[None, :], mask=inside, other=0.0)
    pair_lse, pair_delta = tl.load(lse + pair, mask=real, other=0.0), tl.load(delta + pair, mask=real, other=0.0)
    start = tl.load(block_row + tl.load(tile_base + tile) + tl.load(tile_block + tile)).to(tl.int64)
    k += start * stride_kt + group * stride_kh
    v += start * stride_vt + group * stride_vh
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for begin in range(0, offset + count, KEY_TILE):
        key = begin + tl.arange(0, KEY_TILE)
        there = (key < offset + count)[:, None] & (column < dim)[None, :]
        keys = tl.load(k + key[:, None] * stride_kt + column[None, :], mask=there, other=0.0)
        values = tl.load(v + key[:, None] * stride_vt + column[None, :], mask=there, other=0.0)
        seen = real[:, None] & (key[None, :] <= (offset + row)[:, None])
        _, grad_scores = _part(queries, keys, values, grads, pair_lse, pair_delta, seen, scale, PRECISION)
        total += tl.dot(grad_scores.to(keys.dtype), keys, input_precision=PRECISION)
    if PARTS:
        for slot in range(routed):
            entry = pair * routed + slot
            has = real & (tl.load(chosen + entry, mask=real, other=-1) >= 0)
            at = part + entry[:, None] * dim + column[None, :]
            total += tl.load(at, mask=has[:, None] & (column < dim)[None, :], other=0.0)
    tl.store(grad_q + pair[:, None] * dim + column[None, :], total, mask=inside)


@tuned(CONFIGS, key=["dim", "block_size"], restore=["grad_q", "grad_k", "grad_v"])
@triton.jit
def _routed_keys_kernel(
    grad, q, k, v, lse, delta, grad_q, grad_k, grad_v, order, ends, owner, first_chunk, block_row,
    stride_qt, stride_qh, stride_kt, stride_kh, stride_vt, stride_vh,
    lists, heads, groups, dim, routed, block_size, scale, chunk_size,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, KEY_TILE: tl.constexpr, PRECISION: tl.constexpr, ATOMIC: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    owned = tl.load(owner + chunk)
    if owned < lists:
        start = tl.load(ends + owned) + (chunk - tl.load(first_chunk + owned)) * chunk_size
        end = tl.load(ends + owned + 1)
        if ATOMIC:
            end = tl.minimum(end, start + chunk_size)
        if start < end:  # never so for a partial block: nobody chose it, and part of it may not exist
            group, block = owned % groups, tl.load(block_row + owned // groups).to(tl.int64)
            key, column = tl.program_id(1) * KEY_TILE + tl.arange(0, KEY_TILE), tl.arange(0, COLUMNS)
            inside = (key < block_size)[:, None] & (column < dim)[None, :]
            at = (block + key)[:, None]
            keys = tl.load(k + at * stride_kt + group * stride_kh + column[None, :], mask=inside, other=0.0)
            values = tl.load(v + at * stride_vt + group * stride_vh + column[None, :], mask=inside, other=0.0)
            sum_k, sum_v = tl.zeros([KEY_TILE, COLUMNS], tl.float32), tl.zeros([KEY_TILE, COLUMNS], tl.float32)
            for begin in range(start, end, ROWS):
                slot = begin + tl.arange(0, ROWS)
                real = slot < end
                there = real[:, None] & (column < dim)[None, :]
                pair = tl.load(order + slot, mask=real, other=0).to(tl.int64) // routed
                address = (
                    q + (pair // heads)[:, None] * stride_qt + (pair % heads)[:, None] * stride_qh + column[None, :]
                )
                queries = tl.load(address, mask=there, other=0.0)
                grads = tl.load(grad + pair[:, None] * dim + column[None, :], mask=there, other=0.0)
                seen = real[:, None] & (key < block_size)[None, :]
                pair_lse, pair_delta = (
                    tl.load(lse + pair, mask=real, other=0.0),
                    tl.load(delta + pair, mask=real, other=0.0),
                )
                weights, grad_scores = _part(queries, keys, values, grads, pair_lse, pair_delta, seen, scale, PRECISION)
                sum_v += tl.dot(tl.trans(weights).to(grads.dtype), grads, input_precision=PRECISION)
                sum_k += tl.dot(tl.trans(grad_scores).to(queries.dtype), queries, input_precision=PRECISION)
                if ATOMIC:
                    part = tl.dot(grad_scores.to(keys.dtype), keys, input_precision=PRECISION)
                    tl.atomic_add(grad_q + pair[:, None] * dim + column[None, :], part, mask=there, sem="relaxed")
            at = (at * groups + group) * dim + column[None, :]
            if ATOMIC:
                tl.atomic_add(grad_k + at, sum_k, mask=inside, sem="relaxed")
                tl.atomic_add(grad_v + at, sum_v, mask=inside, sem="relaxed")
            else:
                tl.store(grad_k + at, tl.load(grad_k + at, mask=inside, other=0.0) + sum_k, mask=inside)
                tl.store(grad_v + at, tl.load(grad_v + at, mask=inside, other=0.0) + sum_v, mask=inside)


@tuned(CONFIGS, key=["dim", "block_size"])
@triton.jit
def _routed_queries_kernel(
    grad, q, k, v, lse, delta, part, order, ends, owner, first_chunk, block_row,
    stride_qt, stride_qh, stride_kt, stride_kh, stride_vt, stride_vh,
    lists, heads, groups, dim, routed, block_size, scale,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, KEY_TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    owned = tl.load(owner + chunk)
    if owned < lists:
        start = tl.load(ends + owned) + (chunk - tl.load(first_chunk + owned)) * ROWS
        slot, column = start + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
        real = slot < tl.load(ends + owned + 1)
        inside = real[:, None] & (column < dim)[None, :]
        entry = tl.load(order + slot, mask=real, other=0).to(tl.int64)
        pair = entry // routed
        address = q + (pair // heads)[:, None] * stride_qt + (pair % heads)[:, None] * stride_qh + column[None, :]
        queries = tl.load(address, mask=inside, other=0.0)
        grads = tl.load(grad + pair[:, None] * dim + column[None, :], mask=inside, other=0.0)
        pair_lse, pair_delta = tl.load(lse + pair, mask=real, other=0.0), tl.load(delta + pair, mask=real, other=0.0)
        group, block = owned % groups, tl.load(block_row + owned // groups).to(tl.int64)
        k += block * stride_kt + group * stride_kh
        v += block * stride_vt + group * stride_vh
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        for begin in range(0, block_size, KEY_TILE):
            key = begin + tl.arange(0, KEY_TILE)
            there = (key < block_size)[:, None] & (column < dim)[None, :]
            keys = tl.load(k + key[:, None] * stride_kt + column[None, :], mask=there, other=0.0)
            values = tl.load(v + key[:, None] * stride_vt + column[None, :], mask=there, other=0.0)
            seen = real[:, None] & (key < block_size)[None, :]
            _, grad_scores = _part(queries, keys, values, grads, pair_lse, pair_delta, seen, scale, PRECISION)
            total += tl.dot(grad_scores.to(keys.dtype), keys, input_precision=PRECISION)
        tl.store(part + entry[:, None] * dim + column[None, :], total, mask=inside)


def gradients(
    grad: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    chosen: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    tables: Tables,
    config: MobaConfig,
    scale: float,
    deterministic: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Float32 gradients of q, k, v; the first four arguments are contiguous, the next three may be views."""
    heads, dim = q.shape[1:]
    groups, routed, size = k.shape[1], config.routed, config.block_size
    grad_q, grad_k, grad_v = (torch.empty(part.shape, dtype=torch.float32, device=q.device) for part in (q, k, v))
    delta = torch.empty_like(lse)
    pairs = lse.numel()
    _delta_kernel[(triton.cdiv(pairs, 32),)](grad, out, delta, pairs, dim, ROWS=32, COLUMNS=columns(dim))
    inputs = (grad, q, k, v, lse, delta)
    strides = (*q.stride()[:2], *k.stride()[:2], *v.stride()[:2])
    shape: dict[str, Any] = {"ROWS": 16 if INTERPRETED else 64, "COLUMNS": columns(dim), "KEY_TILE": KEY_TILE}
    shape["PRECISION"] = precision(q.dtype)
    tiles = triton.cdiv(size, KEY_TILE)
    blocks = (tables.block_row, tables.block_keys, tables.block_query, tables.block_queries)
    _current_keys_kernel[(tables.blocks, tiles, groups)](
        *inputs, grad_k, grad_v, *blocks, *strides, heads, groups, dim, scale, **shape
    )
    part = torch.empty(0, dtype=torch.float32, device=q.device)
    lists = turn_around(chosen, groups, tables.blocks) if routed else None
    if lists is not None and deterministic:
        part = _query_parts(inputs, strides, lists, tables, config, groups, scale, shape)
    where = (tables.tile_row, tables.tile_count, tables.tile_block, tables.tile_base, tables.tile_offset)
    _current_queries_kernel[(tables.tiles, heads)](
        *inputs, part, chosen, grad_q, *where, tables.block_row, *strides, heads, groups, dim, routed, scale,
        **shape | {"ROWS": tables.rows}, PARTS=deterministic and routed > 0,
    )  # fmt: skip
    if lists is not None:
        cut = chunks(lists, None if deterministic else CHUNK)
        _routed_keys_kernel[(cut.bound, tiles)](
            *inputs, grad_q, grad_k, grad_v, lists.order, lists.ends, cut.owner, cut.first, tables.block_row, *strides,
            lists.ends.shape[0] - 1, heads, groups, dim, routed, size, scale, CHUNK, **shape, ATOMIC=not deterministic,
        )  # fmt: skip
    return grad_q, grad_k, grad_v


def _query_parts(
    inputs: tuple[torch.Tensor, ...],
    strides: tuple[int, ...],
    lists: Lists,
    tables: Tables,
    config: MobaConfig,
    groups: int,
    scale: float,
    shape: dict[str, Any],
) -> torch.Tensor:
    """Return each choice's own part of the queries' gradient: float32 [E, D]; entries of empty slots are not
    initialised.
    """
    heads, dim = inputs[1].shape[1:]
    part = torch.empty((lists.order.shape[0], dim), dtype=torch.float32, device=inputs[1].device)
    cut: Chunks = chunks(lists, shape["ROWS"])
    _routed_queries_kernel[(cut.bound,)](
        *inputs, part, lists.order, lists.ends, cut.owner, cut.first, tables.block_row, *strides,
        lists.ends.shape[0] - 1, heads, groups, dim, config.routed, config.block_size, scale, **shape,
    )  # fmt: skip
    return part
