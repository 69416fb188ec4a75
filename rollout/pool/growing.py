"""The groups of one call to the pool, while their rollouts come to rest one by one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from rollout.types import Group, Rollout


class Growing:
    """Takes each rollout as it settles, and tells of every group as soon as it is finished.

    ``keys``: ids of the rollouts that are to grow; groups that need none of them are told of at once.
    """

    def __init__(self, groups: Sequence[Group], keys: Collection[str], finished: Callable[[Group], None]) -> None:
        self.groups = list(groups)
        self._place = {rollout.id: (g, j) for g, group in enumerate(groups) for j, rollout in enumerate(group.rollouts)}
        self._open = [sum(rollout.id in keys for rollout in group.rollouts) for group in groups]
        self._finished = finished
        for g in range(len(groups)):
            self._tell(g)

    def settle(self, key: str, grow: Callable[[Rollout], Rollout]) -> None:
        """Settle a rollout, which gets nothing more in this call."""
        g, j = self._place[key]
        rollouts = list(self.groups[g].rollouts)
        rollouts[j] = grow(rollouts[j])
        self.groups[g] = self.groups[g].with_rollouts(rollouts)
        self._open[g] -= 1
        self._tell(g)

    def _tell(self, g: int) -> None:
        if not self._open[g] and self.groups[g].finished:
            self._finished(self.groups[g])
