"""Which windows of which sources a step trains on: a pure function of the step, whatever was drawn before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rl.text.documents import TextError
from rl.text.shards import Ids, Shards
from rollout.seeds import seed_of

Counts = npt.NDArray[np.int64]


def shares(weights: Sequence[float], rows: Sequence[int]) -> Counts:
    """Return how many rows of each step come from each source, [steps, sources].

    ``rows`` [steps]: of each step. After every step each source has had its share of all rows so far, up to one.
    """
    share = np.array(weights) / np.sum(weights)
    taken = np.zeros(len(share), np.int64)
    found = np.empty((len(rows), len(share)), np.int64)
    total = 0
    for step, count in enumerate(rows):
        total += count
        due = total * share - taken
        whole = np.clip(np.floor(due), 0, None).astype(np.int64)
        rest = count - int(whole.sum())
        order = np.argsort(whole - due, kind="stable")  # who is owed most comes first
        if rest >= 0:
            for place in range(rest):
                whole[order[place % len(share)]] += 1
        else:  # rounding gave one too many: whoever is owed least waits
            for place in order[::-1][:-rest]:
                whole[place] -= 1
        found[step] = whole
        taken += whole
    return found


@dataclass
class Windows:
    """Windows of ``length`` tokens of a source, by number, from 0 on; each epoch has its own order.

    Within an epoch the shards follow each other, and the windows of a shard are shuffled.
    """

    shards: Shards
    length: int
    seed: int
    _order: dict[tuple[int, int], npt.NDArray[np.int64]] = field(default_factory=dict)

    def __getitem__(self, number: int) -> Ids:
        """Return window ``number``; makes shards as they are needed. Raises ``TextError``."""
        epoch, shard, place = self._find(number)
        key = (epoch, shard)
        if key not in self._order:
            self._order = {key: self._shuffled(*key)}
        start = int(self._order[key][place]) * self.length
        return np.asarray(self.shards.train(shard)[start : start + self.length])

    def _shuffled(self, epoch: int, shard: int) -> npt.NDArray[np.int64]:
        rng = np.random.default_rng(seed_of(self.seed, self.shards.name, self.length, epoch, shard))
        return rng.permutation(self._count(shard))

    def _count(self, shard: int) -> int:
        return self.shards[shard].tokens // self.length

    def _find(self, number: int) -> tuple[int, int, int]:
        """Return epoch, shard, and place within the shard of a window."""
        before, shard = 0, 0
        while True:
            if shard == len(self.shards):
                if self.shards.ended:
                    break
                self.shards.fill(self.shards.tokens + 1)
            count = self._count(shard)
            if number < before + count:
                return 0, shard, number - before
            before, shard = before + count, shard + 1
        if not before:
            raise TextError(
                f"text {self.shards.name!r} has {self.shards.tokens:,} tokens to train on, fewer than one sequence "
                f"({self.length:,}): add text, or lower length"
            )
        epoch, rest = divmod(number, before)
        for shard in range(len(self.shards)):
            if rest < self._count(shard):
                return epoch, shard, rest
            rest -= self._count(shard)
        raise AssertionError("a window beyond the epoch's end")


def drawn(windows: Mapping[str, Windows], counts: Mapping[str, int], first: Mapping[str, int]) -> list[Ids]:
    """Return the rows of a step: of each source the windows from number ``first`` on."""
    return [windows[name][first[name] + place] for name, count in counts.items() for place in range(count)]
