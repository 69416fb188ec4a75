"""Rows of a packed stream's hidden states, of which each of the ranks that share the stream has some."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Self

import torch

from kernels.ulysses import gather_rows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

MULTIPLE = 8
"""Tokens that a part of a stream is a multiple of. Products of fewer than four rows, and the last elements that do not
fill a vector, are computed by other instructions: with whole vectors a token's bits do not depend on where it is."""


def part_tokens(tokens: int, ranks: int) -> int:
    """Return the tokens of each rank's part of a stream of ``tokens``; the last parts may be filled up."""
    return tokens if ranks == 1 else -(-tokens // (ranks * MULTIPLE)) * MULTIPLE


@dataclass(frozen=True)
class Rows:
    """The m of M rows that this rank has: all of them where it is alone."""

    index: torch.Tensor
    """[m] where they are among the rank's hidden states."""
    own: slice
    """Which of the M rows they are."""
    counts: tuple[int, ...] = ()
    """Rows of each rank; empty where there is one."""
    group: ProcessGroup | None = None
    """The ranks."""

    @classmethod
    def of(cls, rows: torch.Tensor, tokens: int, group: ProcessGroup | None) -> Self:
        """Return the rank's part of ascending ``rows`` [M] of a stream of ``tokens``, cut as ``packed_inputs`` does."""
        if group is None:
            return cls(rows, slice(None))
        ranks, rank = group.size(), group.rank()
        part = part_tokens(tokens, ranks)
        starts = torch.arange(0, part * ranks, part, device=rows.device)
        ends = [*torch.searchsorted(rows, starts).tolist(), len(rows)]
        own = slice(ends[rank], ends[rank + 1])
        return cls(rows[own] - rank * part, own, tuple(end - start for start, end in pairwise(ends)), group)

    def of_all(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values [M, ...] of all rows from those [m, ...] of the rank's own, differentiably."""
        return values if self.group is None else gather_rows(values, self.counts, self.group)
