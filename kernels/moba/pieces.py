"""The pieces of work of the CPU path: dense pieces that need no routing, and lists of queries per past block
[2502.13189 §2.3].
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from kernels.moba.layout import MobaConfig, Span

ALONE = 1 << 17
"""Query-key pairs from which on a list of queries has a call of its own: it needs no padding, and its keys and values
are read where they are. Below that the overhead of a call is larger than what tiles cost."""
KEYS_AT_ONCE = 512
"""Keys that torch's fused call takes in one step: it computes all of them for every query, then masks the future."""
BAND = 128
"""Queries of a band; a square of up to ``KEYS_AT_ONCE`` is cut into bands, each with the keys up to its last query."""


@dataclass(frozen=True)
class Piece:
    """Queries and keys of all heads that one fused attention call joins, for n places of equal shape at once."""

    queries: torch.Tensor
    """[n, Lq] rows of q. All pieces together, no row twice among the causal ones of a call, or among the others."""
    keys: torch.Tensor
    """[n, Lk] rows of k and v; when ``causal`` the last Lq of them are at the queries' own positions."""
    causal: bool
    """True: bands and squares on the diagonal, one for every query. False: every query sees every key."""

    def mask(self, dtype: torch.dtype) -> torch.Tensor | None:
        """Return [1, 1, Lq, Lk] to be added to the scores of a band; squares are masked by the call itself."""
        queries, keys = self.queries.shape[1], self.keys.shape[1]
        if not self.causal or queries == keys:
            return None
        hidden = torch.full((queries, keys), float("-inf"), dtype=dtype, device=self.queries.device)
        return hidden.triu_(keys - queries + 1)[None, None]


def dense_pieces(sequences: Sequence[Span], config: MobaConfig, limit: int, device: torch.device) -> Iterator[Piece]:
    """Yield everything but the routed blocks: the early queries' whole past, and each later query's current block.

    Places of equal shape, whatever their sequence, share a piece, up to ``limit`` rows. All causal ones come before the
    rectangles to their left: they initialise what those are merged into.
    """
    places: dict[tuple[bool, int, int], list[tuple[int, int]]] = defaultdict(list)
    for span in sequences:
        for start, end, first in _diagonal(span, config):
            row = span.q_start + start - span.offset
            for begin, stop in _bands(end - start):
                places[True, stop - begin, stop].append((row + begin, span.k_start + start))
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


def _bands(length: int) -> list[tuple[int, int]]:
    """First query and end of each band of a causal square."""
    if length > KEYS_AT_ONCE:
        return [(0, length)]
    return [(begin, min(begin + BAND, length)) for begin in range(0, length, BAND)]


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
class Long:
    """The (query, head) pairs that chose one past block of one key head, where there are enough for a call alone."""

    keys: slice
    """Rows of k and v."""
    head: int
    """Of k and v."""
    pairs: torch.Tensor
    """[T] rows of the flattened [Tq * H] queries, each once."""


@dataclass(frozen=True)
class Routed:
    """Consecutive queries of one sequence that choose blocks."""

    rows: slice
    """Their rows of q."""
    k_start: int
    """First row of k of their sequence."""


def cut_routed(parts: Sequence[Routed], rows: int) -> Iterator[list[Routed]]:
    """Yield the same queries in batches of at most ``rows``."""
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


def lists_by_block(
    chosen: torch.Tensor, parts: Sequence[Routed], key_heads: int, block_size: int, limit: int
) -> Iterator[Long | Tiles]:
    """Yield the choice turned around: for every past block and key head, who chose it.

    ``chosen`` [Tq, H, m] is the choice of all queries, of which those in ``parts`` count. One ``Tiles`` holds blocks
    that have the same number in different sequences, so no pair twice. ``limit``: elements of queries, keys and values
    of one head that may be gathered at once, in rows.
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
    starts = torch.tensor([part.k_start for part in parts], device=device)
    first = starts[lists // key_heads % number] + lists // (number * key_heads) * block_size
    head = lists % key_heads
    alone = sizes * block_size >= ALONE
    yield from _long(pair.split(sizes.tolist()), first.tolist(), head.tolist(), alone.tolist(), block_size, limit)
    short = ~alone
    if short.any():
        pair = pair[short.repeat_interleave(sizes)]
        lists, sizes, first, head = (part[short] for part in (lists, sizes, first, head))
        rows = (first[:, None] + torch.arange(block_size, device=device)) * key_heads + head[:, None]
        _, per_block = torch.unique_consecutive(lists // (number * key_heads), return_counts=True)
        pairs, tiles = _tiled(pair, sizes, chosen.shape[0] * heads)
        yield from _tiles(rows, pairs, tiles.tolist(), per_block.tolist(), max(1, limit // (2 * block_size)))


def _long(
    pairs: Sequence[torch.Tensor],
    first: Sequence[int],
    head: Sequence[int],
    alone: Sequence[bool],
    block_size: int,
    limit: int,
) -> Iterator[Long]:
    """Yield the lists that are ``alone``, in pieces of at most ``limit`` pairs."""
    for own, start, number, long in zip(pairs, first, head, alone, strict=True):
        for piece in own.split(limit) if long else ():
            yield Long(slice(start, start + block_size), number, piece)


def _tiles(
    rows: torch.Tensor, pairs: torch.Tensor, per_list: Sequence[int], per_block: Sequence[int], limit: int
) -> Iterator[Tiles]:
    """Tiles of the same block number together, at most ``limit``: ``rows`` [lists, B], ``pairs`` [tiles, T]."""
    begin = list_begin = 0
    for lists_here in per_block:
        mine = range(list_begin, list_begin + lists_here)
        tile_list = [index for index in mine for _ in range(per_list[index])]
        for start in range(0, len(tile_list), limit):
            some = tile_list[start : start + limit]
            numbers = torch.tensor(some, device=pairs.device) - some[0]
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
