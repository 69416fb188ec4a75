"""The groups of one call to the pool, while their rollouts come to rest one by one, and the news of it."""

from __future__ import annotations

import queue
from collections.abc import Callable, Collection, Sequence

from rollout.engine import Delta
from rollout.pool.board import Completion
from rollout.types import Group, Rollout

News = list[Delta] | Completion
"""Progress on requests, or one that has come to rest."""


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


def tokens_only(on_progress: Callable[[News], None] | None) -> Callable[[News], None]:
    """Return the callback after an interrupt, which passes on tokens but no finished groups."""

    def take(item: News) -> None:
        if on_progress is not None and isinstance(item, list):
            on_progress(item)

    return take


def drain(
    news: queue.SimpleQueue[News | None], on_progress: Callable[[News], None] | None, timeout_s: float | None = None
) -> None:
    """Hand progress on until the work has ended. Raises ``queue.Empty`` when nothing comes for ``timeout_s``."""
    while (item := news.get(timeout=timeout_s)) is not None:
        if on_progress is not None:
            on_progress(item)
