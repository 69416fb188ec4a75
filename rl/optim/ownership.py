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


def assign(costs: Sequence[int], busy: Sequence[int]) -> list[int]:
    """Return the owner of each matrix, by longest processing time: the costliest first, each to the rank with least
    to do. ``busy`` [one per rank]: what each has to do anyway.
    """
    loads = list(busy)
    owners = [0] * len(costs)
    for matrix in _costliest_first(costs):
        owners[matrix] = min(range(len(loads)), key=lambda rank: (loads[rank], rank))
        loads[owners[matrix]] += costs[matrix]
    return owners


def rounds(costs: Sequence[int], owners: Sequence[int], sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Return the matrices of each round: every owner takes its costliest next, up to ``limit`` in size together but at
    least one.

    The limit is raised to the largest size, which somebody has to take anyway. Owners wait for each other in every
    round, so all of them take what is costly in the early ones.
    """
    limit = max(limit, *sizes) if sizes else limit
    found: list[list[int]] = []
    at, filled = dict.fromkeys(owners, 0), dict.fromkeys(owners, 0)
    for matrix in _costliest_first(costs):
        owner = owners[matrix]
        filled[owner] += sizes[matrix]
        if filled[owner] > limit:
            at[owner], filled[owner] = at[owner] + 1, sizes[matrix]
        if at[owner] == len(found):
            found.append([])
        found[at[owner]].append(matrix)
    return found


def _costliest_first(costs: Sequence[int]) -> list[int]:
    return sorted(range(len(costs)), key=lambda matrix: (-costs[matrix], matrix))


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
class Plan:
    """Who orthogonalises what, of parameters by their numbers."""

    rounds: Sequence[tuple[Sequence[int], Layout]]
    """Parameters that are exchanged together, and how."""
    stacks: Sequence[Sequence[int]]
    """Stacks of experts that are stepped together, each rank its own experts."""


def plan(shapes: Sequence[Sequence[int]], splits: Sequence[Split], ranks: int, limit: int) -> Plan:
    """Return the plan for parameters of these global shapes, sharded by rows over ``ranks``.

    ``limit``: elements of whole matrices that a rank has at a time. Experts stay where they are, and count for what
    their ranks have to do.
    """
    stacks = [i for i, shape in enumerate(shapes) if is_stack(shape, splits[i])]
    cut = [i for i in range(len(shapes)) if i not in set(stacks)]
    experts = [_cost((1, *shapes[i][1:]), splits[i]) for i in stacks]
    busy = [
        sum(each * len(chunk(shapes[i][0], ranks, rank)) for i, each in zip(stacks, experts, strict=True))
        for rank in range(ranks)
    ]
    costs = [_cost(shapes[i], splits[i]) for i in cut]
    flat = [(shapes[i][0], math.prod(shapes[i][1:])) for i in cut]
    owners = assign(costs, busy)
    exchanged = [
        ([cut[m] for m in members], Layout([flat[m] for m in members], [owners[m] for m in members], ranks))
        for members in rounds(costs, owners, [rows * columns for rows, columns in flat], limit)
    ]
    most = [len(chunk(shapes[i][0], ranks, 0)) * math.prod(shapes[i][1:]) for i in stacks]
    return Plan(exchanged, [[stacks[i] for i in bucket] for bucket in buckets(most, limit)])


def _cost(shape: Sequence[int], split: Split) -> int:
    matrices = split(torch.empty(*shape, device="meta"))
    return sum(cost(*matrix.flatten(0, -2).shape) for matrix in matrices)
