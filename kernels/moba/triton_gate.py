"""Triton: block means, and the top-k gate without a [queries, blocks] matrix in memory
[2502.13189 §2.3; 2511.11571].
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# (what a kernel takes are pointers, numbers and constants of the compiler, not Python types)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from kernels.moba.tables import Tables
from kernels.moba.tuning import INTERPRETED, columns, precision, tuned

GATE_CONFIGS = [  # float32 tiles of queries and means are large: one or two stages are what shared memory holds
    {"num_warps": 8, "num_stages": 1},
    {"num_warps": 4, "num_stages": 1},
    {"num_warps": 8, "num_stages": 2},
]


@tuned([{"KEYS": 64}, {"KEYS": 128}], key=["dim", "block_size"])
@triton.jit
def _means_kernel(
    k, means, block_row, block_keys, stride_kt, stride_kh, block_size, groups, dim,
    COLUMNS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    block, group = tl.program_id(0), tl.program_id(1)
    if tl.load(block_keys + block) == block_size:  # a partial block is nobody's candidate: its mean stays unwritten
        column = tl.arange(0, COLUMNS)
        start = tl.load(block_row + block).to(tl.int64)
        total = tl.zeros([COLUMNS], tl.float32)
        for first in range(0, block_size, KEYS):
            row = first + tl.arange(0, KEYS)
            address = k + (start + row)[:, None] * stride_kt + group * stride_kh + column[None, :]
            inside = (row < block_size)[:, None] & (column < dim)[None, :]
            total += tl.sum(tl.load(address, mask=inside, other=0.0).to(tl.float32), axis=0)
        out = means + (block.to(tl.int64) * groups + group) * dim + column
        tl.store(out, total / block_size, mask=column < dim)


@triton.jit
def _ranked(scores, index):
    """Keys that order by score, and on equal scores by lower index: all different, so every sort agrees on them."""
    scores = tl.where(scores == 0.0, 0.0, scores)  # -0.0 ties with 0.0
    bits = scores.to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - index).to(tl.int64)


@tuned(GATE_CONFIGS, key=["dim", "routed"])
@triton.jit
def _gate_kernel(
    q, means, chosen, tile_row, tile_count, tile_block, tile_base,
    stride_qt, stride_qh, heads, groups, dim, routed,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCKS: tl.constexpr, KEPT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    count, past = tl.load(tile_count + tile), tl.load(tile_block + tile)
    first, base = tl.load(tile_row + tile).to(tl.int64), tl.load(tile_base + tile)
    group = head // (heads // groups)
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    inside = (row < count)[:, None] & (column < dim)[None, :]
    queries = tl.load(
        q + (first + row)[:, None] * stride_qt + head * stride_qh + column[None, :], mask=inside, other=0.0
    )
    queries = queries.to(tl.float32)
    nothing = -0x7FFFFFFFFFFFFFFF - 1
    best = tl.full([ROWS, KEPT], nothing, tl.int64)
    for start in range(0, past, BLOCKS):
        block = start + tl.arange(0, BLOCKS)
        at = means + ((base + block).to(tl.int64) * groups + group)[:, None] * dim + column[None, :]
        keys = tl.load(at, mask=(block < past)[:, None] & (column < dim)[None, :], other=0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
        ranked = tl.where((block < past)[None, :], _ranked(scores, block[None, :]), nothing)
        # Late in a long sequence few tiles hold a winner, and sorting is what costs.
        if tl.max((tl.max(ranked, axis=1) > tl.min(best, axis=1)).to(tl.int32), axis=0) > 0:
            both = tl.join(best, tl.topk(ranked, KEPT))
            best = tl.topk(tl.reshape(both, [ROWS, 2 * KEPT]), KEPT)
    slot = tl.arange(0, KEPT)
    index = tl.where(best == nothing, -1, base + 0x7FFFFFFF - (best & 0xFFFFFFFF).to(tl.int32))
    out = chosen + ((first + row)[:, None] * heads + head) * routed + slot[None, :]
    tl.store(out, index, mask=(row < count)[:, None] & (slot < routed)[None, :])


def block_means(k: torch.Tensor, tables: Tables, block_size: int) -> torch.Tensor:
    """Return the mean keys of full blocks, float32 [blocks, H_kv, D]; rows of partial blocks are not initialised."""
    groups, dim = k.shape[1:]
    means = torch.empty((tables.blocks, groups, dim), dtype=torch.float32, device=k.device)
    _means_kernel[(tables.blocks, groups)](
        k, means, tables.block_row, tables.block_keys, k.stride(0), k.stride(1), block_size, groups, dim,
        COLUMNS=columns(dim),
    )  # fmt: skip
    return means


def choose_blocks(q: torch.Tensor, means: torch.Tensor, tables: Tables, routed: int) -> torch.Tensor:
    """Return the ``routed`` best past blocks of every query and head: int32 [Tq, H, routed], numbered over all
    sequences.

    -1 where a query has fewer. On a tie the earlier block wins.
    """
    heads, dim = q.shape[1:]
    chosen = torch.empty((*q.shape[:2], routed), dtype=torch.int32, device=q.device)
    blocks = 16 if INTERPRETED else 64 if dim <= 128 else 32  # as many as shared memory holds
    if routed > (64 if dim <= 128 else 32):
        raise ValueError(f"MoBA on cuda takes top_k up to 65, and up to 33 where D > 128; got {routed + 1}, D {dim}")
    if routed:
        kept = max(2, triton.next_power_of_2(routed))
        shape: dict[str, Any] = {"ROWS": tables.rows, "COLUMNS": columns(dim), "KEPT": kept}
        shape |= {"BLOCKS": max(blocks, kept), "PRECISION": precision(q.dtype, "tf32x3")}
        _gate_kernel[(tables.tiles, heads)](
            q, means, chosen, tables.tile_row, tables.tile_count, tables.tile_block, tables.tile_base,
            q.stride(0), q.stride(1), heads, means.shape[1], dim, routed, **shape,
        )  # fmt: skip
    return chosen
