"""Matrices from their rows on every rank to their owners, and back: two all-to-alls."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from rl.optim.ownership import Layout
from rl.optim.shards import Shards, chunk


class Exchange:
    """Moves the matrices of ``layout`` between the ranks of ``shards``, in ``dtype``."""

    def __init__(self, layout: Layout, shards: Shards, dtype: torch.dtype) -> None:
        self.layout = layout
        self._shards = shards
        self._dtype = dtype
        ranks, matrices = range(layout.ranks), range(len(layout.shapes))
        self.owned = layout.owned(shards.rank)
        """The matrices that this rank gets."""
        # What is on the wire, in this order: for every peer, for every matrix, the rows of one of the two.
        self._to_peers = [(peer, matrix) for peer in ranks for matrix in matrices if layout.owners[matrix] == peer]
        self._from_peers = [(peer, matrix) for peer in ranks for matrix in self.owned]
        self._mine = [layout.count(shards.rank, matrix) for _, matrix in self._to_peers]
        self._theirs = [layout.count(peer, matrix) for peer, matrix in self._from_peers]
        self._split_mine = [sum(layout.count(shards.rank, m) for m in layout.owned(peer)) for peer in ranks]
        self._split_theirs = [sum(layout.count(peer, m) for m in self.owned) for peer in ranks]

    def to_owners(self, rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Give this rank's rows of every matrix, get the whole matrices [R, C] that it owns."""
        pieces = [rows[matrix] for _, matrix in self._to_peers]
        arrived = self._all_to_all(pieces, self._mine, self._split_mine, self._split_theirs).split(self._theirs)
        whole = []
        for number, matrix in enumerate(self.owned):
            columns = self.layout.shapes[matrix][1]
            whole.append(torch.cat([piece.view(-1, columns) for piece in arrived[number :: len(self.owned)]]))
        return whole

    def to_rows(self, whole: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Give the matrices [R, C] that this rank owns, get its rows of every matrix."""
        own = dict(zip(self.owned, whole, strict=True))
        pieces = []
        for peer, matrix in self._from_peers:
            part = chunk(self.layout.shapes[matrix][0], self.layout.ranks, peer)
            pieces.append(own[matrix][part.start : part.stop])
        arrived = self._all_to_all(pieces, self._theirs, self._split_theirs, self._split_mine).split(self._mine)
        of_matrix = {matrix: piece for (_, matrix), piece in zip(self._to_peers, arrived, strict=True)}
        return [of_matrix[m].view(-1, columns) for m, (_, columns) in enumerate(self.layout.shapes)]

    def _all_to_all(
        self, pieces: Sequence[torch.Tensor], counts: list[int], sent: list[int], received: list[int]
    ) -> torch.Tensor:
        """Send ``pieces`` of ``counts`` elements; ``sent`` and ``received`` are elements per peer."""
        outgoing = torch.empty(sum(sent), dtype=self._dtype, device=self._shards.device)
        for slot, piece in zip(outgoing.split(counts), pieces, strict=True):
            slot.view(piece.shape).copy_(piece)
        incoming = torch.empty(sum(received), dtype=self._dtype, device=self._shards.device)
        dist.all_to_all_single(incoming, outgoing, received, sent, group=self._shards.group)
        return incoming
