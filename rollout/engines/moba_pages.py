"""Block attention over vLLM's own CPU cache: its paged kernel reads the chosen pages, one head at a time.

To that kernel a query head of a decoding sequence is a sequence of its own, with one head, whose pages are those of the
chosen blocks and, last, of the current one. Keys carry their rotary embedding, so the order of blocks does not matter.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from vllm import _custom_ops as ops

from kernels.moba import MobaConfig, moba_attention
from kernels.moba.paged_rows import choose_rows

ROW_QUERIES = 16
"""Sequences with at most this many new tokens are computed row by row; more make gathering their keys worthwhile."""
SUMS = 1 << 22
"""Elements of page sums read at once."""
NUMBER = 16
"""Page positions are numbered below this, which every dtype holds exactly."""


@dataclass(frozen=True)
class Rows:
    """Queries, each of them a sequence of its own, or one sequence for each head."""

    row: torch.Tensor
    """[R] rows of q."""
    position: torch.Tensor
    """[R] position of each in its sequence."""
    table: torch.Tensor
    """[R, max_pages] pages of each one's sequence, int32."""
    starts: torch.Tensor
    """Int32: starts of the sequences, which vLLM's kernel wants beside the lengths."""
    lengths: torch.Tensor
    """Int32: keys that each query, or each head of it, attends to."""
    schedule: torch.Tensor
    """How vLLM's kernel shares the work among threads."""


@dataclass(frozen=True)
class Plan:
    """The work of one step, which is the same for every block layer."""

    early: Rows | None
    """Decoding rows at positions with full attention: all heads share their pages."""
    routed: Rows | None
    """Decoding rows that choose blocks."""
    chunks: list[tuple[int, slice, int]]
    """Sequence, rows of q, tokens so far: of prompts, or of pieces of them."""


@dataclass(frozen=True)
class Kernel:
    """The settings of vLLM's kernel for a group of layers."""

    heads: int
    groups: int
    dim: int
    dtype: torch.dtype
    isa: str

    def rows(
        self, members: list[tuple[int, int, int]], gate: MobaConfig, table: torch.Tensor, heads: int
    ) -> Rows | None:
        """(row, position, sequence) as ``heads`` sequences of their own each; 1: as one that all heads share."""
        if not members:
            return None
        row, position, sequence = torch.tensor(members).unbind(1)
        count = len(members) * heads
        lengths = [gate.attended(at) for _, at, _ in members]
        each = torch.tensor(lengths, dtype=torch.int32).repeat_interleave(heads)
        starts = torch.arange(count + 1, dtype=torch.int32)
        schedule = ops.cpu_attn_get_scheduler_metadata(
            num_reqs=count,
            num_heads=self.heads if heads == 1 else 1,
            num_kv_heads=self.groups if heads == 1 else 1,
            head_dim=self.dim,
            seq_lens=each,
            dtype=self.dtype,
            query_start_loc=starts,
            causal=True,
            sliding_window_size=-1,
            isa=self.isa,
            enable_kv_split=True,
        )
        return Rows(row, position, table[sequence], starts, each, schedule)


def plan(kernel: Kernel, gate: MobaConfig, ends: list[int], lengths: list[int], table: torch.Tensor) -> Plan:
    """Plan a step from ``ends`` [n + 1] of the sequences' new tokens in q, ``lengths`` [n] their tokens so far, new
    ones included.
    """
    early: list[tuple[int, int, int]] = []
    routed: list[tuple[int, int, int]] = []
    chunks = []
    for n, ((start, end), length) in enumerate(zip(pairwise(ends), lengths, strict=True)):
        if end - start > ROW_QUERIES:
            chunks.append((n, slice(start, end), length))
            continue
        for row in range(start, end):
            position = length - (end - row)
            (early if position < gate.dense_tokens else routed).append((row, position, n))
    return Plan(kernel.rows(early, gate, table, 1), kernel.rows(routed, gate, table, kernel.heads), chunks)


def add_to_sums(page_sums: torch.Tensor, key: torch.Tensor, slots: torch.Tensor, page_tokens: int) -> None:
    """Count new keys [T, H_kv, D] into the sums of their pages; a page's first token starts its sum anew."""
    real = slots >= 0
    if not bool(real.all()):
        key, slots = key[real], slots[real]
    page = slots // page_tokens
    page_sums[page[slots % page_tokens == 0]] = 0
    page_sums.index_add_(0, page, key.to(page_sums.dtype))


def attend(
    work: Plan,
    gate: MobaConfig,
    scale: float,
    isa: str,
    qkv: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    kv_cache: torch.Tensor,
    page_sums: torch.Tensor,
    table: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """Fill out [T, H, D]. q, k and v are the step's tokens, in the cache [pages, H_kv, page, 2 D] already."""
    q, k, v = qkv
    pages, groups, page_tokens, width = kv_cache.shape
    if work.early is not None:
        _attend_rows(q[work.early.row], work.early, work.early.table, kv_cache, scale, out)
    if work.routed is not None:
        rows = work.routed
        queries = q[rows.row]
        blocks = _choose(queries, page_sums, rows, gate, page_tokens)
        chosen = _pages_of_heads(blocks, rows.table, groups, page_tokens, gate)
        one_head = kv_cache.view(pages * groups, 1, page_tokens, width)
        _attend_rows(queries, rows, chosen, one_head, scale, out)
    for n, rows_of_q, length in work.chunks:
        keys, values = k[rows_of_q], v[rows_of_q]
        if length > keys.shape[0]:
            keys, values = gather(kv_cache, table[n], length, isa)
        ends_q, ends_k = (torch.tensor([0, part.shape[0]]) for part in (q[rows_of_q], keys))
        size, top_k, below = gate.block_size, gate.top_k, gate.full_below
        out[rows_of_q] = moba_attention(
            q[rows_of_q], keys, values, ends_q, size, top_k, cu_seqlens_k=ends_k, scale=scale, full_below=below
        )


def _choose(q: torch.Tensor, page_sums: torch.Tensor, rows: Rows, gate: MobaConfig, page_tokens: int) -> torch.Tensor:
    """Return the blocks of each query and head [R, H, top_k], the current one last; a few queries at a time."""
    step = max(1, SUMS // (rows.table.shape[1] * page_sums[0].numel()))
    parts = zip(q.split(step), rows.table.split(step), rows.position.split(step), strict=True)
    return torch.cat([choose_rows(queries, page_sums, table, at, gate, page_tokens) for queries, table, at in parts])


def _pages_of_heads(
    blocks: torch.Tensor, table: torch.Tensor, groups: int, page_tokens: int, gate: MobaConfig
) -> torch.Tensor:
    """Turn blocks [R, H, top_k] into pages of the cache seen as one head, int32 [R * H, top_k * pages per block]."""
    rows, heads = blocks.shape[:2]
    per_block = gate.block_size // page_tokens
    logical = (blocks[..., None] * per_block + torch.arange(per_block)).view(rows, -1)
    # The current block's later pages are not there yet; the kernel stops before them.
    physical = table.long().gather(1, logical.clamp_max(table.shape[1] - 1)).clamp_min(0).view(rows, heads, -1)
    group = torch.arange(heads) * groups // heads
    return (physical * groups + group[None, :, None]).flatten(0, 1).int()


def _attend_rows(
    q: torch.Tensor, rows: Rows, table: torch.Tensor, kv_cache: torch.Tensor, scale: float, out: torch.Tensor
) -> None:
    """Run vLLM's kernel on queries [R, H, D]; the cache has their number of heads, or one for each of theirs."""
    keys, values = halves(kv_cache)
    queries = q.reshape(rows.lengths.shape[0], -1, q.shape[-1])
    part = torch.empty_like(queries)
    ops.cpu_attention_with_kv_cache(
        query=queries,
        key_cache=keys,
        value_cache=values,
        output=part,
        query_start_loc=rows.starts,
        seq_lens=rows.lengths,
        scale=scale,
        causal=True,
        alibi_slopes=None,
        sliding_window=-1,
        block_table=table.contiguous(),
        softcap=0.0,
        scheduler_metadata=rows.schedule,
        s_aux=None,
    )
    out[rows.row] = part.view_as(q)


def halves(kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values [pages, heads, page, D] of vLLM's CPU cache: one after the other in each head's page."""
    pages, heads, page_tokens, width = kv_cache.shape
    keys, values = kv_cache.view(pages, heads, 2 * page_tokens, width // 2).chunk(2, dim=2)
    return keys, values


def gather(kv_cache: torch.Tensor, table: torch.Tensor, length: int, isa: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first ``length`` keys and values of one sequence with pages ``table``, in their own order: [length,
    H_kv, D].
    """
    page_tokens, dim = kv_cache.shape[2], kv_cache.shape[3] // 2
    used = table[: -(-length // page_tokens)].long()
    found = []
    for part, order in zip(halves(kv_cache), page_order(isa, page_tokens, dim, kv_cache.dtype), strict=True):
        pages = part[used].flatten(2).index_select(2, order).unflatten(2, (page_tokens, dim))
        found.append(pages.transpose(1, 2).flatten(0, 1)[:length])
    return found[0], found[1]


@functools.cache
def page_order(isa: str, page_tokens: int, dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where vLLM puts channel c of token t within a head's page: [page * D] each for keys and values, at t D +
    c.

    It depends on the instruction set and is documented nowhere, so a numbered page is written and read back. Raises
    ``RuntimeError`` if that is no permutation.
    """
    tokens, channels = torch.meshgrid(torch.arange(page_tokens), torch.arange(dim), indexing="ij")
    digits = [part // NUMBER**power % NUMBER for part in (tokens, channels) for power in range(3)]
    written = [_write_and_read(number.to(dtype), isa) for number in digits]
    orders = []
    for page in zip(*written, strict=True):
        token, channel = (sum(page[i + power] * NUMBER**power for power in range(3)) for i in (0, 3))
        place: Any = token * dim + channel
        if not torch.equal(place.sort().values, torch.arange(page_tokens * dim)):
            raise RuntimeError(f"vLLM's CPU cache ({isa}, {dtype}) does not hold a page's keys as they were written")
        orders.append(place.argsort())
    return orders[0], orders[1]


def _write_and_read(numbers: torch.Tensor, isa: str) -> tuple[torch.Tensor, torch.Tensor]:
    page_tokens, dim = numbers.shape
    cache = torch.zeros(1, 1, page_tokens, 2 * dim, dtype=numbers.dtype)
    keys, values = halves(cache)
    part = numbers[:, None].contiguous()
    ops.cpu_attn_reshape_and_cache(part, part, keys, values, torch.arange(page_tokens), isa)
    return keys.flatten().long(), values.flatten().long()
