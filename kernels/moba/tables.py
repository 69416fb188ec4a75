"""Indices into a packed call, as tensors that kernels read: made on the host from lengths, copied once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels.moba.layout import MobaConfig, Span
from kernels.varlen import PLANS


@dataclass(frozen=True)
class Tables:
    """All entries are int32 and count rows of the packed tensors; blocks are numbered over all sequences."""

    rows: int
    """Queries per tile, at most."""
    tile_row: torch.Tensor
    """[tiles] first query of a tile. A tile lies in one block: its queries share their past and current blocks."""
    tile_count: torch.Tensor
    """[tiles] queries in it."""
    tile_block: torch.Tensor
    """[tiles] past blocks, which is also the number of the current one within its sequence."""
    tile_base: torch.Tensor
    """[tiles] number of the sequence's first block."""
    tile_offset: torch.Tensor
    """[tiles] position of its first query within its current block."""
    block_row: torch.Tensor
    """[blocks] first key of a block."""
    block_keys: torch.Tensor
    """[blocks] keys in it."""
    block_query: torch.Tensor
    """[blocks] first query whose current block it is."""
    block_queries: torch.Tensor
    """[blocks] number of such queries."""

    @property
    def tiles(self) -> int:
        """Number of query tiles."""
        return self.tile_row.shape[0]

    @property
    def blocks(self) -> int:
        """Number of blocks, partial ones included."""
        return self.block_row.shape[0]


def tables(sequences: Sequence[Span], config: MobaConfig, rows: int, device: torch.device) -> Tables:
    """Tables of these sequences, with query tiles of at most ``rows``; made once for all layers."""
    return _tables(tuple(sequences), config, rows, device)


@functools.lru_cache(PLANS)
def _tables(sequences: tuple[Span, ...], config: MobaConfig, rows: int, device: torch.device) -> Tables:
    tile_rows: list[tuple[int, int, int, int, int]] = []
    block_rows: list[tuple[int, int, int, int]] = []
    size = config.block_size
    for span in sequences:
        base = len(block_rows)
        for block in range(-(-span.k_len // size)):
            start, end = block * size, min((block + 1) * size, span.k_len)
            begin = min(max(start, span.offset), end)  # positions begin ... end - 1 have queries
            query = span.q_start + begin - span.offset
            block_rows.append((span.k_start + start, end - start, query, end - begin))
            for position in range(begin, end, rows):
                count = min(rows, end - position)
                tile_rows.append((query + position - begin, count, block, base, position - start))
    with torch.inference_mode(False):  # for later calls, too
        tiles = torch.tensor(tile_rows, dtype=torch.int32).T.contiguous().to(device)
        blocks = torch.tensor(block_rows, dtype=torch.int32).T.contiguous().to(device)
    return Tables(rows, *tiles.unbind(0), *blocks.unbind(0))
