"""MoBA over a paged key-value cache: decode, chunked prefill and prefix-cache hits.

Block means come from one sum per physical page, taken when the page becomes full. A sum thus belongs to the page's
content, as the keys do: shared prefixes, preempted requests and reused pages need no bookkeeping of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import accumulate
from types import ModuleType

import torch

from kernels.moba import paged_rows
from kernels.moba.layout import MobaConfig, Span, spans
from kernels.moba.op import attend, check_heads, path_of
from kernels.moba.reference import gate_dtype
from kernels.varlen import PLANS, index

ROW_QUERIES = 16
"""Sequences with at most this many new tokens are computed row by row; more make gathering their keys worthwhile."""


def new_page_sums(key_pages: torch.Tensor) -> torch.Tensor:
    """Room for the sum of each page's keys: key_pages [pages, H_kv, page_size, D] -> [pages, H_kv, D], float32."""
    pages, heads, _, dim = key_pages.shape
    return torch.zeros((pages, heads, dim), dtype=gate_dtype(key_pages.dtype), device=key_pages.device)


def write_pages(
    k: torch.Tensor,
    v: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    page_sums: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    """Write new keys and values [T, H_kv, D] to their slots [T] and sum the keys of the pages that became full.

    A slot is page * page_size + offset; negative ones are padding and are left out. Tokens of a page must arrive in
    order, as they do in every causal cache: the last slot's write is what closes a page.
    """
    if k.is_cuda:
        return _rows_path(k).write_pages(k, v, key_pages, value_pages, page_sums, slots)
    real = slots >= 0
    if not bool(real.all()):
        k, v, slots = k[real], v[real], slots[real]
    page, offset = slots // key_pages.shape[2], slots % key_pages.shape[2]
    key_pages[page, :, offset] = k.to(key_pages.dtype)
    value_pages[page, :, offset] = v.to(value_pages.dtype)
    closed = page[offset == key_pages.shape[2] - 1]
    page_sums[closed] = key_pages[closed].sum(dim=2, dtype=page_sums.dtype)
    return None


def _rows_path(q: torch.Tensor) -> ModuleType:
    """Return the module whose ``attend_rows`` computes on this tensor's device."""
    if q.device.type == "cpu":
        return paged_rows
    from kernels.moba import triton_decode  # needs Triton, which CPU builds of torch do not bring

    return triton_decode


def moba_paged_attention(
    q: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    page_sums: torch.Tensor,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    config: MobaConfig,
    scale: float | None = None,
    max_query_len: int | None = None,
    on_host: tuple[Sequence[int], Sequence[int]] | None = None,
) -> torch.Tensor:
    """Return what ``moba_attention`` gives for the last tokens of sequences whose keys and values lie in pages; no
    gradient.

    q [Tq, H, D] holds each sequence's new tokens, whose keys and values ``write_pages`` has written. key_pages,
    value_pages [pages, H_kv, page_size, D] with any strides; page_sums as ``write_pages`` keeps it; block_table
    [n, max_pages] the pages of each sequence in order; seq_lens [n] its tokens, new ones included; cu_seqlens_q [n + 1]
    its rows in q. Returns [Tq, H, D]. ``ValueError`` if page_size does not divide ``config.block_size``.

    ``max_query_len``: an upper bound of a sequence's new tokens, where the caller knows one. With a small one (decode)
    lengths are not read by the host, so on GPUs nothing waits and the call can be captured in a graph; nothing checks
    the lengths then. ``on_host``: ``seq_lens`` and ``cu_seqlens_q`` once more, where the host knows them; else other
    calls than such wait for the device to read them.
    """
    check_heads(q, key_pages[:, :, 0], value_pages[:, :, 0])
    page_size = key_pages.shape[2]
    if config.block_size % page_size:
        raise ValueError(f"MoBA block_size {config.block_size} must be a multiple of the cache's page size {page_size}")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    pages = (key_pages, value_pages, page_sums)
    if max_query_len is not None and max_query_len <= ROW_QUERIES:
        return _attend_all_rows(q, pages, block_table, seq_lens, cu_seqlens_q, config, scale)
    lengths, ends_q = on_host or (seq_lens.tolist(), cu_seqlens_q.tolist())
    ends_k = [0, *accumulate(lengths)]
    sequences = spans(ends_q, ends_k, q.shape[0], ends_k[-1])
    out, path = torch.empty_like(q), path_of(q)
    if (rows := _rows(tuple(sequences), q.device)) is not None:
        row, position, sequence = rows
        out[row] = _rows_path(q).attend_rows(q[row], *pages, block_table[sequence], position, config, scale)
    for n, span in enumerate(sequences):
        if span.q_len > ROW_QUERIES:
            keys, values = (gather_pages(part, block_table[n], span.k_len) for part in (key_pages, value_pages))
            alone = Span(0, span.q_len, 0, span.k_len)
            out[span.queries] = attend(q[span.queries], keys, values, [alone], config, scale, path)
    return out


def _attend_all_rows(
    q: torch.Tensor,
    pages: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    config: MobaConfig,
    scale: float,
) -> torch.Tensor:
    """Attend each row by itself; its sequence is looked up on the device."""
    row = torch.arange(q.shape[0], device=q.device)
    ends = cu_seqlens_q[1:].to(row.dtype)
    sequence = torch.searchsorted(ends, row, right=True).clamp_max(ends.shape[0] - 1)  # graphs pad q with idle rows
    position = (seq_lens[sequence] - (ends[sequence] - row)).clamp_min(0).to(row.dtype)
    return _rows_path(q).attend_rows(q, *pages, block_table[sequence], position, config, scale)


@functools.lru_cache(PLANS)
def _rows(sequences: tuple[Span, ...], device: torch.device) -> tuple[torch.Tensor, ...] | None:
    """Row of q, position and sequence of every query that is computed row by row; ``None`` where there is none."""
    short = [(n, span) for n, span in enumerate(sequences) if span.q_len <= ROW_QUERIES]
    rows = [(span.q_start + i, span.offset + i, n) for n, span in short for i in range(span.q_len)]
    return index(rows, device).unbind(1) if rows else None


def gather_pages(pages: torch.Tensor, table: torch.Tensor, length: int) -> torch.Tensor:
    """First ``length`` tokens of a sequence: pages [pages, H_kv, page_size, D], table [n] -> [length, H_kv, D]."""
    page_size = pages.shape[2]
    part = pages[table[: -(-length // page_size)]]
    return part.transpose(1, 2).flatten(0, 1)[:length]
