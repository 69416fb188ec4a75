"""Engines that join a run where the cluster has room, and leave with their nodes, while the run goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from rl.beside import beside
from rollout import timeline
from rollout.engine import Engine
from rollout.pool.pool import Pool

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

    from rl.bundles import Resources

LOOK_S = 5.0
"""Seconds between two looks at the cluster."""
CLOSE_S = 5.0
"""Patience with a look that goes on when the run ends."""


class Place(Protocol):
    """Room for one engine that was asked for."""

    def ready(self) -> bool:
        """Return whether it is there; does not wait."""

    def lost(self) -> bool:
        """Return whether it was there, and its node is gone."""

    def release(self) -> None:
        """Give it back, or take the wish for it back."""

    def spawn(self, index: int) -> Engine:
        """Return engine ``index`` there, not yet started."""


class Elastic:
    """Keeps one wish for room open until the pool has ``most`` engines, on a thread of its own; a context manager.

    A cluster that grows by demand sees the wish. An engine that joined and was given up gives its room back, which
    is not asked for again: ``most`` becomes one less. ``tell`` gets a line whenever an engine joins or leaves, and
    when none can: once, until that changes.
    """

    def __init__(self, pool: Pool, most: int, ask: Callable[[], Place], tell: Callable[[str], None]) -> None:
        self.pool, self.most, self.ask, self.tell = pool, most, ask, tell
        self.joined: dict[int, Place] = {}
        """Places of the engines that joined, by their numbers."""
        self.leaving: dict[Future[None], dict[int, Place]] = {}
        """Places of engines that are just leaving."""
        self.wish: Place | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="elastic", daemon=True)

    def look(self) -> None:
        """Let engines leave whose nodes are gone or that were given up, and one join if there is room for it now.

        Never waits for an engine: others may be lost meanwhile.
        """
        for left in [left for left in self.leaving if left.done()]:
            for index, place in self.leaving.pop(left).items():
                timeline.leave(timeline.engine_lane(index))
                place.release()
            left.result()
        members = set(self.pool.members).difference(*self.leaving.values())
        given_up = members & {*self.pool.given_up}
        lost = {index for index, place in self.joined.items() if place.lost()}
        worn = given_up & self.joined.keys() - lost
        if lost and not members - given_up - lost:
            lost.remove(max(lost))  # it stays, and is started again when its node is back
        if going := sorted(lost | worn):
            places = {index: self.joined.pop(index) for index in going}
            self.most -= len(worn)
            self.leaving[beside("leave", self.pool.leave, *going)] = places
            for index in going:
                why = "its node is gone" if index in lost else "it did not stay alive"
                self.tell(f"engine {index} leaves: {why}")
        if self.wish is None and len(members) - len(going) < self.most:
            self.wish = self.ask()
        if self.wish is not None and self.wish.ready():
            index = self.pool.join(self.wish.spawn)
            timeline.join(timeline.engine_lane(index))
            self.joined[index], self.wish = self.wish, None
            self.tell(f"engine {index} joins: the cluster has room for it")

    def _run(self) -> None:
        told = ""
        while not self._end.wait(LOOK_S):
            fault = ""
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - told; a run goes on with the engines that it has
                fault = f"no engine can join or leave now: {error}"
            if fault and fault != told and not self._end.is_set():
                self.tell(fault)
            told = fault

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(CLOSE_S)
        for place in (self.wish, *(place for places in self.leaving.values() for place in places.values())):
            if place is not None:
                place.release()


class RayPlace:
    """A placement group of one bundle. ``spawn`` makes an engine there."""

    def __init__(self, bundle: Resources, spawn: Callable[[PlacementGroup], Engine]) -> None:
        from ray.util.placement_group import placement_group

        self._group = placement_group([dict(bundle)])
        self._spawn = spawn

    def _state(self) -> str:
        from ray.util.placement_group import placement_group_table

        return str(placement_group_table(self._group)["state"])

    def ready(self) -> bool:
        """See ``Place``."""
        return self._state() == "CREATED"

    def lost(self) -> bool:
        """See ``Place``: Ray looks for another node meanwhile, where the engine would be a new one."""
        return self._state() != "CREATED"

    def release(self) -> None:
        """See ``Place``."""
        from ray.util.placement_group import remove_placement_group

        remove_placement_group(self._group)

    def spawn(self, index: int) -> Engine:  # noqa: ARG002
        """See ``Place``."""
        return self._spawn(self._group)
