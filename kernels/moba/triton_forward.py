"""Triton forward pass: gather the queries of each block into dense tiles, then merge with the current block
[2502.13189 §2.3; 2511.11571].

Routed blocks: one program takes a tile of queries that chose the same block, wherever they stand, and writes its part
of the softmax to the slots of those queries. Current block: one program takes consecutive queries, attends causally
inside their block, and folds the slots in, in order. Nothing depends on the order of programs: results are bitwise
reproducible.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# (what a kernel takes are pointers, numbers and constants of the compiler, not Python types)

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.moba.lists import Chunks, Lists
from kernels.moba.tables import Tables
from kernels.moba.tuning import columns, precision, tuned

CONFIGS = [
    {"KEYS": 64, "num_warps": 4, "num_stages": 2},
    {"KEYS": 64, "num_warps": 8, "num_stages": 3},
    {"KEYS": 128, "num_warps": 8, "num_stages": 2},
    {"KEYS": 32, "num_warps": 4, "num_stages": 3},
]


@triton.jit
def _online(scores, values, top, total, out, PRECISION: tl.constexpr):
    """One step of the online softmax in base 2: scores [M, K] (-inf: hidden), values [K, D]."""
    new_top = tl.maximum(top, tl.max(scores, axis=1))
    shrink = tl.exp2(top - new_top)
    weights = tl.exp2(scores - new_top[:, None])
    out = out * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
    return new_top, total * shrink + tl.sum(weights, axis=1), out


@tuned(CONFIGS, key=["dim", "block_size"])
@triton.jit
def _routed_kernel(
    q, k, v, part, part_lse, order, ends, owner, first_chunk, block_row,
    stride_qt, stride_qh, stride_kt, stride_kh, stride_vt, stride_vh,
    lists, heads, groups, dim, routed, block_size, scale,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    owned = tl.load(owner + chunk)
    if owned < lists:
        start = tl.load(ends + owned) + (chunk - tl.load(first_chunk + owned)) * ROWS
        slot, column = start + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
        real = slot < tl.load(ends + owned + 1)
        entry = tl.load(order + slot, mask=real, other=0).to(tl.int64)
        pair = entry // routed
        inside = real[:, None] & (column < dim)[None, :]
        address = q + (pair // heads)[:, None] * stride_qt + (pair % heads)[:, None] * stride_qh + column[None, :]
        queries = tl.load(address, mask=inside, other=0.0)
        row, group = tl.load(block_row + owned // groups).to(tl.int64), owned % groups
        k += row * stride_kt + group * stride_kh
        v += row * stride_vt + group * stride_vh
        top = tl.full([ROWS], -float("inf"), tl.float32)
        total, out = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS, COLUMNS], tl.float32)
        for begin in range(0, block_size, KEYS):
            key = begin + tl.arange(0, KEYS)
            there = (key < block_size)[:, None] & (column < dim)[None, :]
            keys = tl.load(k + key[:, None] * stride_kt + column[None, :], mask=there, other=0.0)
            values = tl.load(v + key[:, None] * stride_vt + column[None, :], mask=there, other=0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * (scale * 1.4426950408889634)
            scores = tl.where((key < block_size)[None, :], scores, -float("inf"))
            top, total, out = _online(scores, values, top, total, out, PRECISION)
        out = out / total[:, None]
        tl.store(part + entry[:, None] * dim + column[None, :], out.to(part.dtype.element_ty), mask=inside)
        tl.store(part_lse + entry, (top + tl.log2(total)) * 0.6931471805599453, mask=real)


@tuned(CONFIGS, key=["dim", "routed"])
@triton.jit
def _current_kernel(
    q, k, v, part, part_lse, chosen, out, lse, tile_row, tile_count, tile_block, tile_base, tile_offset, block_row,
    stride_qt, stride_qh, stride_kt, stride_kh, stride_vt, stride_vh,
    heads, groups, dim, routed, scale,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    count, offset = tl.load(tile_count + tile), tl.load(tile_offset + tile)
    first = tl.load(tile_row + tile).to(tl.int64)
    group = head // (heads // groups)
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    real = row < count
    inside = real[:, None] & (column < dim)[None, :]
    address = q + (first + row)[:, None] * stride_qt + head * stride_qh + column[None, :]
    queries = tl.load(address, mask=inside, other=0.0)
    start = tl.load(block_row + tl.load(tile_base + tile) + tl.load(tile_block + tile)).to(tl.int64)
    k += start * stride_kt + group * stride_kh
    v += start * stride_vt + group * stride_vh
    top = tl.full([ROWS], -float("inf"), tl.float32)
    total, merged = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS, COLUMNS], tl.float32)
    for begin in range(0, offset + count, KEYS):
        key = begin + tl.arange(0, KEYS)
        there = (key < offset + count)[:, None] & (column < dim)[None, :]
        keys = tl.load(k + key[:, None] * stride_kt + column[None, :], mask=there, other=0.0)
        values = tl.load(v + key[:, None] * stride_vt + column[None, :], mask=there, other=0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * (scale * 1.4426950408889634)
        # Rows that are padding see what the rows above them see: finite numbers that nobody stores.
        scores = tl.where(key[None, :] <= (offset + row)[:, None], scores, -float("inf"))
        top, total, merged = _online(scores, values, top, total, merged, PRECISION)
    pair = (first + row) * heads + head
    for slot in range(routed):
        entry = pair * routed + slot
        has = real & (tl.load(chosen + entry, mask=real, other=-1) >= 0)
        other_top = tl.load(part_lse + entry, mask=has, other=-float("inf")) * 1.4426950408889634
        at = part + entry[:, None] * dim + column[None, :]
        other = tl.load(at, mask=has[:, None] & (column < dim)[None, :], other=0.0).to(tl.float32)
        new_top = tl.maximum(top, other_top)
        shrink, weight = tl.exp2(top - new_top), tl.exp2(other_top - new_top)
        merged = merged * shrink[:, None] + other * weight[:, None]
        total = total * shrink + weight
        top = new_top
    merged = merged / total[:, None]
    tl.store(out + pair[:, None] * dim + column[None, :], merged.to(out.dtype.element_ty), mask=inside)
    tl.store(lse + pair, (top + tl.log2(total)) * 0.6931471805599453, mask=real)


def routed_parts(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lists: Lists,
    cut: Chunks,
    tables: Tables,
    routed: int,
    block_size: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each choice's own attention: outputs [E, D] in q's dtype and log-sum-exps [E] in float32.

    ``cut`` cuts the lists into chunks of ``tables.rows``. Entries of empty slots are not initialised.
    """
    heads, dim = q.shape[1:]
    part = torch.empty((lists.order.shape[0], dim), dtype=q.dtype, device=q.device)
    part_lse = torch.empty(lists.order.shape[0], dtype=torch.float32, device=q.device)
    _routed_kernel[(cut.bound,)](
        q, k, v, part, part_lse, lists.order, lists.ends, cut.owner, cut.first, tables.block_row,
        *q.stride()[:2], *k.stride()[:2], *v.stride()[:2],
        lists.ends.shape[0] - 1, heads, k.shape[1], dim, routed, block_size, scale,
        ROWS=tables.rows, COLUMNS=columns(dim), PRECISION=precision(q.dtype),
    )  # fmt: skip
    return part, part_lse


def merge_current(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    part: torch.Tensor,
    part_lse: torch.Tensor,
    chosen: torch.Tensor,
    tables: Tables,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Current block and routed parts as one softmax: output [Tq, H, D] in q's dtype, log-sum-exp [Tq, H] in float32."""
    heads, dim = q.shape[1:]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    _current_kernel[(tables.tiles, heads)](
        q, k, v, part, part_lse, chosen, out, lse,
        tables.tile_row, tables.tile_count, tables.tile_block, tables.tile_base, tables.tile_offset, tables.block_row,
        *q.stride()[:2], *k.stride()[:2], *v.stride()[:2],
        heads, k.shape[1], dim, chosen.shape[2], scale,
        ROWS=tables.rows, COLUMNS=columns(dim), PRECISION=precision(q.dtype),
    )  # fmt: skip
    return out, lse
