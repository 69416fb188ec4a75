"""Triton decode over a paged cache: score the full blocks, rank them, attend to the chosen ones, merge.

Nothing here waits for the device, and shapes alone decide what is launched, so the calls can be captured in a graph.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# (what a kernel takes are pointers, numbers and constants of the compiler, not Python types)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from kernels.moba.layout import MobaConfig
from kernels.moba.triton_gate import _ranked
from kernels.moba.tuning import INTERPRETED, columns, tuned

SPLIT = 16 if INTERPRETED else 512
"""Keys of a block that one program reads: one request alone has to keep the whole device busy."""


@tuned([{"num_warps": 4}, {"num_warps": 2}], key=["dim", "page_size"])
@triton.jit
def _write_kernel(
    k, v, key_pages, value_pages, slots, stride_kt, stride_kh, stride_vt, stride_vh,
    stride_kp, stride_kg, stride_ks, stride_vp, stride_vg, stride_vs, dim, page_size, COLUMNS: tl.constexpr,
):  # fmt: skip
    token, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slot = tl.load(slots + token).to(tl.int64)
    if slot >= 0:
        page, offset, column = slot // page_size, slot % page_size, tl.arange(0, COLUMNS)
        inside = column < dim
        key = tl.load(k + token * stride_kt + group * stride_kh + column, mask=inside)
        value = tl.load(v + token * stride_vt + group * stride_vh + column, mask=inside)
        at = key_pages + page * stride_kp + group * stride_kg + offset * stride_ks + column
        tl.store(at, key.to(key_pages.dtype.element_ty), mask=inside)
        at = value_pages + page * stride_vp + group * stride_vg + offset * stride_vs + column
        tl.store(at, value.to(value_pages.dtype.element_ty), mask=inside)


@tuned([{"num_warps": 4}, {"num_warps": 1}], key=["dim", "page_size"])
@triton.jit
def _sum_kernel(
    key_pages, sums, slots, stride_kp, stride_kg, stride_ks, groups, dim, page_size,
    COLUMNS: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    slot, group = tl.load(slots + tl.program_id(0)).to(tl.int64), tl.program_id(1)
    if (slot >= 0) & (slot % page_size == page_size - 1):  # this token closed its page
        page, column, row = slot // page_size, tl.arange(0, COLUMNS), tl.arange(0, SLOTS)
        at = key_pages + page * stride_kp + group * stride_kg + row[:, None] * stride_ks + column[None, :]
        inside = (row < page_size)[:, None] & (column < dim)[None, :]
        total = tl.sum(tl.load(at, mask=inside, other=0.0).to(tl.float32), axis=0)
        tl.store(sums + (page * groups + group) * dim + column, total, mask=column < dim)


@tuned([{"num_warps": 4}, {"num_warps": 8}], key=["dim", "per_block"])
@triton.jit
def _score_kernel(
    q, sums, tables, position, scores, stride_qt, stride_qh, stride_table,
    heads, groups, dim, block_size, per_block, most,
    COLUMNS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    past = tl.load(position + row).to(tl.int32) // block_size
    block, column = tl.program_id(2) * BLOCKS + tl.arange(0, BLOCKS), tl.arange(0, COLUMNS)
    if tl.program_id(2) * BLOCKS < past:
        inside = (block < past)[:, None] & (column < dim)[None, :]
        total = tl.zeros([BLOCKS, COLUMNS], tl.float32)
        for number in range(per_block):
            page = tl.load(tables + row * stride_table + block * per_block + number, mask=block < past, other=0)
            at = sums + (page.to(tl.int64) * groups + group)[:, None] * dim + column[None, :]
            total += tl.load(at, mask=inside, other=0.0)
        means = total / block_size
        for number in range(heads // groups):
            head = group * (heads // groups) + number
            query = tl.load(q + row * stride_qt + head * stride_qh + column, mask=column < dim, other=0.0)
            score = tl.sum(means * query.to(tl.float32)[None, :], axis=1)
            tl.store(scores + (row * heads + head) * most + block, score, mask=block < past)


@tuned([{"num_warps": 4}, {"num_warps": 1}], key=["routed"])
@triton.jit
def _rank_kernel(scores, position, chosen, heads, block_size, most, routed, BLOCKS: tl.constexpr, KEPT: tl.constexpr):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    past = tl.load(position + row).to(tl.int32) // block_size
    nothing = -0x7FFFFFFFFFFFFFFF - 1
    best = tl.full([1, KEPT], nothing, tl.int64)
    for start in range(0, past, BLOCKS):
        block = start + tl.arange(0, BLOCKS)[None, :]
        score = tl.load(scores + (row * heads + head) * most + block, mask=block < past, other=0.0)
        ranked = tl.where(block < past, _ranked(score, block), nothing)
        best = tl.topk(tl.reshape(tl.join(best, tl.topk(ranked, KEPT)), [1, 2 * KEPT]), KEPT)
    slot = tl.arange(0, KEPT)[None, :]
    index = tl.where(best == nothing, -1, 0x7FFFFFFF - (best & 0xFFFFFFFF).to(tl.int32))
    tl.store(chosen + (row * heads + head) * routed + slot, index, mask=slot < routed)


@tuned(
    [{"KEYS": 64, "num_warps": 4}, {"KEYS": 32, "num_warps": 2}, {"KEYS": 128, "num_warps": 8}],
    key=["dim", "page_size"],
)
@triton.jit
def _part_kernel(
    q, key_pages, value_pages, tables, position, chosen, part, part_lse, stride_qt, stride_qh, stride_table,
    stride_kp, stride_kg, stride_ks, stride_vp, stride_vg, stride_vs,
    heads, groups, dim, routed, block_size, page_size, dense_tokens, scale, splits,
    COLUMNS: tl.constexpr, SPLIT: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    row, head, piece = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    group = head // (heads // groups)
    at = tl.load(position + row).to(tl.int32)
    slot, current = piece // splits, at // block_size
    block = slot
    if at >= dense_tokens:  # routed slots, then the current block; earlier positions take their blocks in order
        block = tl.where(slot == routed, current, -1)
        if slot < routed:
            block = tl.load(chosen + (row * heads + head) * routed + slot)
    first = (piece % splits) * SPLIT
    last = tl.minimum(tl.minimum(first + SPLIT, block_size), at + 1 - block * block_size)
    column = tl.arange(0, COLUMNS)
    out = ((row * heads + head) * tl.num_programs(2) + piece).to(tl.int64)
    if (block >= 0) & (first < last):
        query = tl.load(q + row * stride_qt + head * stride_qh + column, mask=column < dim, other=0.0)
        query = query.to(tl.float32) * (scale * 1.4426950408889634)
        top, total, merged = -float("inf"), 0.0, tl.zeros([COLUMNS], tl.float32)
        for begin in range(first, last, KEYS):
            key = begin + tl.arange(0, KEYS)
            there = key < last
            inside = there[:, None] & (column < dim)[None, :]
            token = block * block_size + key
            page = tl.load(tables + row * stride_table + token // page_size, mask=there, other=0).to(tl.int64)
            where = page * stride_kp + group * stride_kg + (token % page_size) * stride_ks
            keys = tl.load(key_pages + where[:, None] + column[None, :], mask=inside, other=0.0).to(tl.float32)
            scores = tl.where(there, tl.sum(keys * query[None, :], axis=1), -float("inf"))
            new_top = tl.maximum(top, tl.max(scores, axis=0))
            shrink, weights = tl.exp2(top - new_top), tl.exp2(scores - new_top)
            where = page * stride_vp + group * stride_vg + (token % page_size) * stride_vs
            values = tl.load(value_pages + where[:, None] + column[None, :], mask=inside, other=0.0).to(tl.float32)
            merged = merged * shrink + tl.sum(values * weights[:, None], axis=0)
            total = total * shrink + tl.sum(weights, axis=0)
            top = new_top
        tl.store(part + out * dim + column, merged / total, mask=column < dim)
        tl.store(part_lse + out, top + tl.log2(total))
    else:
        tl.store(part_lse + out, -float("inf"))


@tuned([{"num_warps": 4}, {"num_warps": 1}], key=["dim", "pieces"])
@triton.jit
def _merge_kernel(part, part_lse, out, heads, dim, pieces, COLUMNS: tl.constexpr):
    pair, column = tl.program_id(0).to(tl.int64) * heads + tl.program_id(1), tl.arange(0, COLUMNS)
    top, total, merged = -float("inf"), 0.0, tl.zeros([COLUMNS], tl.float32)
    for piece in range(pieces):
        lse = tl.load(part_lse + pair * pieces + piece)
        if lse > -float("inf"):
            other = tl.load(part + (pair * pieces + piece) * dim + column, mask=column < dim, other=0.0)
            new_top = tl.maximum(top, lse)
            shrink, weight = tl.exp2(top - new_top), tl.exp2(lse - new_top)
            merged, total, top = merged * shrink + other * weight, total * shrink + weight, new_top
    tl.store(out + pair * dim + column, (merged / total).to(out.dtype.element_ty), mask=column < dim)


def write_pages(
    k: torch.Tensor,
    v: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    page_sums: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    """``kernels.moba.write_pages`` on the device."""
    groups, dim, page_size = k.shape[1], k.shape[2], key_pages.shape[2]
    paged = (*key_pages.stride()[:3], *value_pages.stride()[:3])
    _write_kernel[(k.shape[0], groups)](
        k, v, key_pages, value_pages, slots, *k.stride()[:2], *v.stride()[:2], *paged, dim, page_size,
        COLUMNS=columns(dim),
    )  # fmt: skip
    sum_pages(key_pages, page_sums, slots)


def sum_pages(key_pages: torch.Tensor, page_sums: torch.Tensor, slots: torch.Tensor) -> None:
    """Sum the keys of the pages whose last slot is among ``slots``, after something else has written them."""
    groups, page_size, dim = key_pages.shape[1:]
    _sum_kernel[(slots.shape[0], groups)](
        key_pages, page_sums, slots, *key_pages.stride()[:3], groups, dim, page_size,
        COLUMNS=columns(dim), SLOTS=triton.next_power_of_2(page_size),
    )  # fmt: skip


def attend_rows(
    q: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    page_sums: torch.Tensor,
    tables: torch.Tensor,
    position: torch.Tensor,
    config: MobaConfig,
    scale: float,
) -> torch.Tensor:
    """Attention of q [R, H, D] -> [R, H, D]: row r is at ``position[r]`` of the sequence with pages ``tables[r]``."""
    rows, heads, dim = q.shape
    groups, page_size = key_pages.shape[1:3]
    size, routed = config.block_size, config.routed
    chosen = torch.empty((rows, heads, routed), dtype=torch.int32, device=q.device)
    most = tables.shape[1] * page_size // size
    if routed and most:
        scores = torch.empty((rows, heads, most), dtype=torch.float32, device=q.device)
        blocks = 16 if INTERPRETED else 64
        _score_kernel[(rows, groups, triton.cdiv(most, blocks))](
            q, page_sums, tables, position, scores, *q.stride()[:2], tables.stride(0),
            heads, groups, dim, size, size // page_size, most, COLUMNS=columns(dim), BLOCKS=blocks,
        )  # fmt: skip
        kept = max(2, triton.next_power_of_2(routed))
        shape: dict[str, Any] = {"BLOCKS": max(16 if INTERPRETED else 128, kept), "KEPT": kept}
        _rank_kernel[(rows, heads)](scores, position, chosen, heads, size, most, routed, **shape)
    splits = triton.cdiv(size, SPLIT)
    pieces = config.dense_tokens // size * splits
    part = torch.empty((rows, heads, pieces, dim), dtype=torch.float32, device=q.device)
    part_lse = torch.empty((rows, heads, pieces), dtype=torch.float32, device=q.device)
    _part_kernel[(rows, heads, pieces)](
        q, key_pages, value_pages, tables, position, chosen, part, part_lse, *q.stride()[:2], tables.stride(0),
        *key_pages.stride()[:3], *value_pages.stride()[:3],
        heads, groups, dim, routed, size, page_size, config.dense_tokens, scale, splits,
        COLUMNS=columns(dim), SPLIT=SPLIT,
    )  # fmt: skip
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    _merge_kernel[(rows, heads)](part, part_lse, out, heads, dim, pieces, COLUMNS=columns(dim))
    return out
