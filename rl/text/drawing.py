"""Which windows of which sources a step trains on: a pure function of the step, whatever was drawn before."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rl.text.shards import Ids, Shards
from rl.text.stretch import TextError
from rollout.seeds import seed_of

Counts = npt.NDArray[np.int64]
ROUNDING = 1e-6
"""Of a row, by which a product of floats may miss a whole number."""


def shares(weights: Sequence[float], rows: Sequence[int]) -> Counts:
    """Return how many rows of each step come from each source, [steps, sources].

    ``rows`` [steps]: of each step. After every step each source has had its share of all rows so far, up to one: of the
    rows that it may have by then, first come those that it must have first (earliest deadline first, which finds such
    counts wherever there are some [Tijdeman 1980]).
    """
    share = np.array(weights, np.float64) / np.sum(weights)
    taken = np.zeros(len(share), np.int64)
    found = np.empty((len(rows), len(share)), np.int64)
    total = 0
    for step, count in enumerate(rows):
        total += count
        due = total * share
        counts = np.maximum(np.floor(due + ROUNDING).astype(np.int64) - taken, 0)
        may = np.flatnonzero(np.ceil(due - ROUNDING).astype(np.int64) > taken + counts)
        deadline = (taken + counts + 1)[may] / share[may]
        counts[may[np.argsort(deadline, kind="stable")[: count - int(counts.sum())]]] += 1
        found[step] = counts
        taken += counts
    return found


class Windows:
    """Windows of ``length`` tokens of a source, by number, from 0 on; each epoch has its own order.

    Within an epoch the shards follow each other, and the windows of a shard are shuffled.
    """

    def __init__(self, shards: Shards, length: int, seed: int) -> None:
        self.shards, self.length, self._seed = shards, length, seed
        self._ends: list[int] = []
        """Windows of an epoch up to the end of each known shard."""
        self._order: tuple[tuple[int, int], Counts] = ((-1, -1), np.empty(0, np.int64))
        """Epoch and shard that were drawn from last, and their order."""

    def __getitem__(self, number: int) -> Ids:
        """Return window ``number``; makes shards as they are needed. Raises ``TextError``."""
        epoch, shard, place = self._find(number)
        if self._order[0] != (epoch, shard):
            rng = np.random.default_rng(seed_of(self._seed, self.shards.name, self.length, epoch, shard))
            self._order = (epoch, shard), rng.permutation(self.shards[shard].tokens // self.length)
        start = int(self._order[1][place]) * self.length
        return np.asarray(self.shards.train(shard)[start : start + self.length])

    def _find(self, number: int) -> tuple[int, int, int]:
        """Return epoch, shard, and place within the shard of a window."""
        while not self._ends or number >= self._ends[-1]:
            if len(self._ends) == len(self.shards):
                if self.shards.ended:
                    break
                self.shards.fill(self.shards.tokens + 1)
            for shard in range(len(self._ends), len(self.shards)):
                before = self._ends[-1] if self._ends else 0
                self._ends.append(before + self.shards[shard].tokens // self.length)
        if not self._ends[-1]:
            raise TextError(
                f"text {self.shards.name!r} has {self.shards.tokens:,} tokens to train on, fewer than one sequence "
                f"({self.length:,}): add text, or lower length"
            )
        epoch, rest = divmod(number, self._ends[-1])
        shard = bisect_right(self._ends, rest)
        return epoch, shard, rest - (self._ends[shard - 1] if shard else 0)
