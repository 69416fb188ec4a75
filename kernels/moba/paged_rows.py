"""One query against its pages: choose blocks by the page sums, then read the chosen pages only."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kernels.moba.gate import top_blocks
from kernels.moba.layout import MobaConfig
from kernels.moba.reference import gate_dtype

GATHERED = 1 << 19
"""Elements of keys gathered at once, as many of values: what a core's cache holds until they are used."""


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
    """Attention of q [R, H, D] -> [R, H, D]: row r is at ``position[r]`` of the sequence with pages ``tables[r]``.

    Rows are taken in order of position and in batches of bounded memory, since a batch is padded to its longest row.
    """
    out = torch.empty_like(q)
    order = position.argsort(stable=True)
    dense = int((position < config.dense_tokens).sum())
    groups, width = key_pages.shape[1], q.shape[1] // key_pages.shape[1]
    for rows in _batches(position, order[:dense], config, groups * q.shape[2], routed=False):
        # Every past block: the heads of a group read the same pages, once.
        last = int(position[rows].max()) // config.block_size
        blocks = torch.arange(last + 1, device=q.device).expand(len(rows), groups, -1)
        queries = q[rows].unflatten(1, (groups, width))
        whole = int(position[rows].min()) // config.block_size
        part = _attend(queries, key_pages, value_pages, tables[rows], position[rows], blocks, whole, config, scale)
        out[rows] = part.flatten(1, 2).to(out.dtype)
    for rows in _batches(position, order[dense:], config, q.shape[1] * q.shape[2], routed=True):
        blocks = choose_rows(q[rows], page_sums, tables[rows], position[rows], config, key_pages.shape[2])
        each = q[rows, :, None]
        whole = config.routed  # such rows have more past blocks than they may choose
        part = _attend(each, key_pages, value_pages, tables[rows], position[rows], blocks, whole, config, scale)
        out[rows] = part.squeeze(2).to(out.dtype)
    return out


def _batches(
    position: torch.Tensor, rows: torch.Tensor, config: MobaConfig, per_key: int, routed: bool
) -> Iterator[torch.Tensor]:
    """Cut rows, sorted by position, into batches whose gathered keys (and block means) stay within ``GATHERED``."""
    start, heights = 0, position[rows].tolist()
    for end in range(1, len(heights) + 1):
        # Of the row that would join next, the longest of the batch by then.
        keys = 0 if end == len(heights) else _keys_read(heights[end], config, routed)
        if end == len(heights) or (end + 1 - start) * keys * per_key > GATHERED:
            yield rows[start:end]
            start = end


def _keys_read(position: int, config: MobaConfig, routed: bool) -> int:
    blocks = position // config.block_size + 1
    return max(config.top_k * config.block_size, blocks) if routed else blocks * config.block_size


def choose_rows(
    q: torch.Tensor,
    page_sums: torch.Tensor,
    tables: torch.Tensor,
    position: torch.Tensor,
    config: MobaConfig,
    page_size: int,
) -> torch.Tensor:
    """Chosen past blocks and, last, the current one [R, H, top_k], for rows that have enough past blocks."""
    rows, heads, dim = q.shape
    current = position // config.block_size
    past, per_block = int(current.max()), config.block_size // page_size
    pages = tables[:, : past * per_block].clamp_min(0).flatten()  # -1 where a shorter row has no page
    sums = page_sums.index_select(0, pages)
    means = sums.view(rows, past, per_block, *page_sums.shape[1:]).sum(dim=2).div_(config.block_size)
    queries = q.to(means.dtype).view(rows, means.shape[2], -1, dim)
    scores = queries @ means.permute(0, 2, 3, 1)  # [R, H_kv, group, past]
    future = torch.arange(past, device=q.device)[None, :] >= current[:, None]
    chosen = top_blocks(scores.masked_fill_(future[:, None, None, :], float("-inf")), config.routed)
    return torch.cat([chosen.reshape(rows, heads, -1), current[:, None, None].expand(-1, heads, 1)], dim=2)


def _attend(
    q: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    tables: torch.Tensor,
    position: torch.Tensor,
    blocks: torch.Tensor,
    whole: int,
    config: MobaConfig,
    scale: float,
) -> torch.Tensor:
    """q [R, G, w, D] against ``blocks`` [R, G, S] of the pages of key head g * H_kv // G -> [R, G, w, D].

    Every row sees all of its first ``whole`` blocks; in the others, keys beyond its position are hidden. Computed in
    float32 (float64 stays), as the sums are.
    """
    rows, groups, count = blocks.shape
    head = torch.arange(groups, device=q.device) * key_pages.shape[1] // groups
    step = max(1, GATHERED // (rows * count * config.block_size * q.shape[3]))
    parts = []
    for start in range(0, groups, step):
        some = slice(start, start + step)
        pages = (key_pages, value_pages, tables, head[some])
        parts.append(_attend_heads(q[:, some], *pages, position, blocks[:, some], whole, config, scale))
    return torch.cat(parts, dim=1)


def _attend_heads(
    q: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    tables: torch.Tensor,
    head: torch.Tensor,
    position: torch.Tensor,
    blocks: torch.Tensor,
    whole: int,
    config: MobaConfig,
    scale: float,
) -> torch.Tensor:
    """Return the same for some of the G heads, whose key heads are ``head``."""
    page_size, dtype = key_pages.shape[2], gate_dtype(q.dtype)
    rows, groups = blocks.shape[:2]
    per_block = config.block_size // page_size
    logical = blocks[..., None] * per_block + torch.arange(per_block, device=q.device)
    # Pages beyond a row's position may be unwritten or another request's: page 0 stands in, and is hidden below.
    beyond = logical * page_size > position[:, None, None, None]
    index = logical.clamp_max(tables.shape[1] - 1).view(rows, -1)
    pages = tables.gather(1, index.to(torch.int64)).view(logical.shape).masked_fill_(beyond, 0)
    taken = (_take(part, pages, head[:, None, None]) for part in (key_pages, value_pages))
    keys, values = (part.view(rows, groups, -1, q.shape[-1]).to(dtype) for part in taken)
    scores = (q.to(dtype) * scale) @ keys.mT  # [R, G, w, S * B]
    uncertain = blocks[..., whole:, None] * config.block_size + torch.arange(config.block_size, device=q.device)
    hidden = (uncertain > position[:, None, None, None]).flatten(2)
    start = whole * config.block_size
    scores[..., start:].masked_fill_(hidden[:, :, None], float("-inf"))
    values[:, :, start:].masked_fill_(hidden[..., None], 0.0)  # what lies there may be NaN, and 0 * NaN is NaN
    return scores.softmax(dim=-1) @ values


def _take(part: torch.Tensor, pages: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Pages [...] of heads [...] (broadcast) out of [pages, H_kv, page_size, D], as a fresh tensor."""
    heads = part.shape[1]
    if part.stride(0) == heads * part.stride(1):  # then pages and heads are one axis, and whole pages are copied
        return part.flatten(0, 1).index_select(0, (pages * heads + head).flatten())
    return part[pages, head.expand_as(pages)]
