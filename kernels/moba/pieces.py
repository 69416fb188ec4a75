"""How the CPU path cuts its work: dense pieces that need no routing, and lists of queries per past block [C.3]."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from kernels.moba.layout import MobaConfig, Span


@dataclass(frozen=True)
class Piece:
    """Queries and keys of all heads that one fused attention call joins, for n places of equal shape at once."""

    queries: torch.Tensor
    """[n, Lq] rows of q. All pieces together, no row twice among the causal ones of a call, or among the others."""
    keys: torch.Tensor
    """[n, Lk] rows of k and v; Lk = Lq when ``causal``."""
    causal: bool
    """True: the squares on the diagonal, of which every query has exactly one. False: every query sees every key."""


def dense_pieces(sequences: Sequence[Span], config: MobaConfig, limit: int, device: torch.device) -> Iterator[Piece]:
    """Everything but the routed blocks: the early queries' whole past, and each later query's current block.

    Places of equal shape, whatever their sequence, share a piece, up to ``limit`` rows. All squares come before the
    rectangles to their left: they initialise what those are merged into.
    """
    places: dict[tuple[bool, int, int], list[tuple[int, int]]] = defaultdict(list)
    for span in sequences:
        for start, end, first in _diagonal(span, config):
            row = span.q_start + start - span.offset
            places[True, end - start, end - start].append((row, span.k_start + start))
            if first < start:
                places[False, end - start, start - first].append((row, span.k_start + first))
    for causal in (True, False):
        for (kind, q_len, k_len), starts in places.items():
            step = max(1, limit // max(q_len, k_len))
            for begin in range(0, len(starts) if kind == causal else 0, step):
                first_rows = torch.tensor(starts[begin : begin + step], device=device)
                queries, keys = (
                    first_rows[:, side, None] + torch.arange(length, device=device)
                    for side, length in enumerate((q_len, k_len))
                )
                yield Piece(queries, keys, causal)


def _diagonal(span: Span, config: MobaConfig) -> Iterator[tuple[int, int, int]]:
    """(start, end, first): the queries at positions start ... end - 1 see, unrouted, the keys from ``first`` on."""
    edge = min(config.dense_tokens, span.k_len)
    if span.offset < edge:
        yield span.offset, edge, 0
    start = max(span.offset, edge)
    while start < span.k_len:
        first = start - start % config.block_size
        end = min(first + config.block_size, span.k_len)
        yield start, end, first
        start = end


def routed_queries(span: Span, config: MobaConfig) -> slice:
    """Rows of q that choose blocks; may be empty."""
    start = max(span.offset, min(config.dense_tokens, span.k_len))
    return slice(span.q_start + start - span.offset, span.q_start + span.q_len)


@dataclass(frozen=True)
class Tiles:
    """(query, head) pairs in tiles, all of which chose the same past block of the same key head; padded to one size."""

    lists: torch.Tensor
    """[n] rising numbers, equal for tiles of the same block and key head."""
    keys: torch.Tensor
    """[lists, B] rows of the flattened [Tk * H_kv] keys that make up the block of each list."""
    pairs: torch.Tensor
    """[n, T] rows of the flattened [Tq * H] queries. A pair appears at most once; padding is row Tq * H."""


@dataclass(frozen=True)
class Routed:
    """Consecutive queries of one sequence that choose blocks."""

    rows: slice
    """Their rows of q."""
    k_start: int
    """First row of k of their sequence."""


def cut_routed(parts: Sequence[Routed], rows: int) -> Iterator[list[Routed]]:
    """The same queries in batches of at most ``rows``."""
    batch: list[Routed] = []
    room = rows
    for part in parts:
        start = part.rows.start
        while start < part.rows.stop:
            end = min(part.rows.stop, start + room)
            batch.append(Routed(slice(start, end), part.k_start))
            room -= end - start
            start = end
            if room == 0:
                yield batch
                batch, room = [], rows
    if batch:
        yield batch


def tiles_by_block(
    chosen: torch.Tensor, parts: Sequence[Routed], key_heads: int, block_size: int, limit: int
) -> Iterator[Tiles]:
    """The choice turned around: for every past block and key head, who chose it.

    ``chosen`` [Tq, H, m] is the choice of all queries, of which those in ``parts`` count. One ``Tiles`` holds blocks
    that have the same number in different sequences, so no pair twice; at most ``limit`` tiles.
    """
    heads, count = chosen.shape[1:]
    device, number = chosen.device, len(parts)
    length = torch.tensor([part.rows.stop - part.rows.start for part in parts], device=device)
    shift = torch.tensor([part.rows.start for part in parts], device=device) - (length.cumsum(0) - length)
    picked = torch.cat([chosen[part.rows] for part in parts])
    key_head = torch.arange(heads, device=device) * key_heads // heads
    owner = torch.arange(number, device=device).repeat_interleave(length)
    # One list per (block, part, key head), in this order; "none" (-1) becomes negative and is cut off.
    label = picked * (number * key_heads) + (owner[:, None, None] * key_heads + key_head[:, None])
    label, order = label.masked_fill_(picked < 0, -1).flatten().sort(stable=True)
    lists, sizes = torch.unique_consecutive(label, return_counts=True)
    missing = int(sizes[lists < 0].sum())
    lists, sizes, order = lists[lists >= 0], sizes[lists >= 0], order[missing:]
    if len(lists) == 0:
        return
    pair = order // count
    pair += (shift * heads)[owner[pair // heads]]
    pairs, tiles = _tiled(pair, sizes, chosen.shape[0] * heads)
    part, head = lists // key_heads % number, lists % key_heads
    starts = torch.tensor([part.k_start for part in parts], device=device)
    first = starts[part] + lists // (number * key_heads) * block_size
    rows = (first[:, None] + torch.arange(block_size, device=device)) * key_heads + head[:, None]
    _, per_block = torch.unique_consecutive(lists // (number * key_heads), return_counts=True)
    per_list, begin, list_begin = tiles.tolist(), 0, 0
    for lists_here in per_block.tolist():
        mine = range(list_begin, list_begin + lists_here)
        tile_list = [index for index in mine for _ in range(per_list[index])]
        for start in range(0, len(tile_list), limit):
            some = tile_list[start : start + limit]
            numbers = torch.tensor(some, device=device) - some[0]
            yield Tiles(numbers, rows[some[0] : some[-1] + 1], pairs[begin + start : begin + start + len(some)])
        begin += len(tile_list)
        list_begin += lists_here


def _tiled(pair: torch.Tensor, sizes: torch.Tensor, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lists of the given sizes, one after the other in ``pair`` -> [tiles, width], and the tiles of each list."""
    # About a quarter of a typical list, so that padding the lists' ends wastes about an eighth.
    width = min(512, max(32, -(-len(pair) // len(sizes) // 128) * 32))
    tiles = (sizes + width - 1) // width
    # Entry e of list l lands in slot first_tile[l] * width + (e - first_entry[l]).
    shift = (tiles.cumsum(0) - tiles) * width - (sizes.cumsum(0) - sizes)
    padded = torch.full((int(tiles.sum()) * width,), pad, dtype=torch.int64, device=pair.device)
    padded[torch.arange(len(pair), device=pair.device) + shift.repeat_interleave(sizes)] = pair
    return padded.view(-1, width), tiles
