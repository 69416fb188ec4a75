"""Which rank orthogonalises which matrix: pure functions of shapes, the same on every rank."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from rl.optim.routing import Split, is_stack
from rl.optim.shards import chunk


@dataclass(frozen=True)
class Layout:
    """Matrices that are exchanged together."""

    shapes: Sequence[tuple[int, int]]
    """Rows and columns of each."""
    owners: Sequence[int]
    """Rank of each that gets it whole."""
    ranks: int

    def count(self, rank: int, matrix: int) -> int:
        """Return how many elements of a matrix a rank has."""
        rows, columns = self.shapes[matrix]
        return len(chunk(rows, self.ranks, rank)) * columns

    def owned(self, rank: int) -> list[int]:
        """Return the matrices that a rank owns."""
        return [matrix for matrix, owner in enumerate(self.owners) if owner == rank]

    def sent(self, rank: int) -> int:
        """Return how many elements leave a rank, both ways together; as many arrive.

        With l elements here, o owned and b both: l - b to the owners and o - b back. Of P elements on N ranks, l is P/N
        (for rows that divide) and b is o/N, so that this is P/N + o (1 - 2/N): at most 2 P/N for every rank that owns
        no more than P/(N - 2), and 2 P/N (1 - 1/N) in the mean over the ranks, whoever owns what.
        """
        here = sum(self.count(rank, matrix) for matrix in range(len(self.shapes)))
        owned = sum(rows * columns for rows, columns in (self.shapes[m] for m in self.owned(rank)))
        both = sum(self.count(rank, matrix) for matrix in self.owned(rank))
        return here + owned - 2 * both


def cost(rows: int, columns: int) -> int:
    """Return about the FLOPs of five Newton-Schulz steps on a matrix: 20 m^2 n + 10 m^3, m the smaller side."""
    m, n = sorted((rows, columns))
    return 20 * m * m * n + 10 * m**3


def assign(costs: Sequence[int], busy: Sequence[int], before: Sequence[int]) -> list[int]:
    """Return the owner of each matrix, by longest processing time: the costliest first, each to the rank with least
    to do.

    ``busy`` [one per rank]: what each has to do anyway. ``before``: what each did in earlier rounds, which settles
    ties.
    """
    loads = list(busy)
    owners = [0] * len(costs)
    for matrix in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        owner = min(range(len(loads)), key=lambda rank: (loads[rank], before[rank], rank))
        owners[matrix] = owner
        loads[owner] += costs[matrix]
    return owners


def buckets(sizes: Iterable[int], limit: int) -> list[list[int]]:
    """Return the numbers of ``sizes`` in consecutive lists that sum to at most ``limit`` each, or hold one number."""
    found: list[list[int]] = []
    filled = 0
    for index, size in enumerate(sizes):
        if not found or filled + size > limit:
            found.append([])
            filled = 0
        found[-1].append(index)
        filled += size
    return found


@dataclass(frozen=True)
class Bucket:
    """Parameters that are stepped together, by their numbers."""

    exchanged: Sequence[int]
    """Those whose matrices are cut by the sharding."""
    layout: Layout
    """Of ``exchanged``."""
    stacks: Sequence[int]
    """Those whose matrices are whole: experts."""


def plan(shapes: Sequence[Sequence[int]], splits: Sequence[Split], ranks: int, limit: int) -> list[Bucket]:
    """Return who does what for parameters of these global shapes, sharded by rows over ``ranks``.

    ``limit``: elements of a bucket that a rank has. Experts stay where they are, and count for what their ranks do.
    """
    planned = []
    before = [0] * ranks
    for members in buckets([len(chunk(rows, ranks, 0)) * math.prod(rest) for rows, *rest in shapes], limit):
        stacks = [i for i in members if is_stack(shapes[i], splits[i])]
        exchanged = [i for i in members if i not in stacks]
        loads = [
            sum(_cost((len(chunk(shapes[i][0], ranks, rank)), *shapes[i][1:]), splits[i]) for i in stacks)
            for rank in range(ranks)
        ]
        costs = [_cost(shapes[i], splits[i]) for i in exchanged]
        owners = assign(costs, loads, before)
        for owner, matrix in zip(owners, costs, strict=True):
            loads[owner] += matrix
        before = [done + load for done, load in zip(before, loads, strict=True)]
        flat = [(shapes[i][0], math.prod(shapes[i][1:])) for i in exchanged]
        planned.append(Bucket(exchanged, Layout(flat, owners, ranks), stacks))
    return planned


def _cost(shape: Sequence[int], split: Split) -> int:
    matrices = split(torch.empty(*shape, device="meta"))
    return sum(cost(*matrix.flatten(0, -2).shape) for matrix in matrices)
