"""All engines of a pool: which weights they serve, who joins and leaves. On the pool's event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from rollout.config import EngineConfig
from rollout.engine import AllEnginesDead, Engine, EngineError, EngineStats
from rollout.pool.slot import Calibration, Publication, Slot, limited
from rollout.timeline import ENGINE
from rollout.types import WeightVersion

if TYPE_CHECKING:
    from rollout.pool.shift import Shift

T = TypeVar("T")


@dataclass(frozen=True)
class PublishReport:
    """One publish of weights to all engines."""

    version: WeightVersion
    seconds: float
    """Wall time: transfer, loading and probe on all engines."""
    bytes: int
    """Bytes of the weights."""
    max_gap: float
    """Largest |engine - learner| log-prob over the probe and the engines, in nats."""
    mean_gap: float
    """Largest mean |engine - learner| log-prob over the engines, in nats a token."""


@dataclass(frozen=True)
class PoolStats:
    """Counters since the pool began."""

    engines: tuple[EngineStats, ...]
    """Of the engines that serve now."""
    failures: int
    """Engines lost so far; each was restarted unless ``given_up`` says otherwise."""
    given_up: int
    """Slots whose engine could not be kept alive."""
    sleep_s: float | None = None
    """Seconds in which they fell asleep the last time; ``None``: they never did."""
    wake_s: float | None = None
    """Seconds in which they woke up the last time; their weights come after that."""


class Fleet:
    """The slots, and the weights that count: ``publication`` is what every engine that serves has taken."""

    def __init__(self, spawn: Callable[[int], Engine], config: EngineConfig, name: str = ENGINE) -> None:
        self.config = config
        self.name = name
        """What the engines are called in the timeline."""
        self.slots: list[Slot] = []
        """Those that take part; engines that join get numbers that no other had."""
        self.publication: Publication | None = None
        """Weights published last; ``None``: those that the engines were loaded with."""
        self.shifts: list[Shift] = []
        """Who works with the engines, the innermost last: the others are held."""
        self.changing = asyncio.Lock()
        """Held by a publish, and while an engine leaves."""
        self.withdrawn = False
        """Whether the weights published last cannot be had any more."""
        self._spawn = spawn
        self._asleep = False
        self._sleep_s: float | None = None
        self._wake_s: float | None = None
        self._numbers = count()
        self._target: Publication | None = None
        self._calibration: Calibration | None = None
        self._leaving: list[Slot] = []
        """Slots that take part no longer, and whose engines are not closed yet."""
        self._past_failures = 0
        """Of slots that have left."""
        self._past_given_up = 0
        """Slots that have left since their engine could not be kept alive."""
        self._arrival = asyncio.Event()
        """Set when one more slot takes part."""
        self._tasks: set[asyncio.Task[Any]] = set()
        """What goes on although nobody waits for it."""
        for _ in range(config.count):
            self._add(spawn)

    @property
    def version(self) -> WeightVersion:
        """Weights that the engines serve; 0 before the first publish."""
        return 0 if self.publication is None else self.publication.version

    def _add(self, spawn: Callable[[int], Engine]) -> Slot:
        self.slots.append(slot := Slot(next(self._numbers), spawn, self.config, self.name))
        slot.calibration = self._calibration
        slot.asleep = self._asleep
        if self.withdrawn:
            slot.withdraw()
        else:
            slot.aim(self._target)
        return slot

    def calibrate(self, calibration: Calibration) -> None:
        """See ``Pool.calibrate``."""
        self._calibration = calibration
        for slot in self.slots:
            slot.calibration = calibration

    def aim(self, publication: Publication | None) -> None:
        """Let no engine begin to serve other weights."""
        self._target, self.withdrawn = publication, False
        for slot in self.slots:
            slot.aim(publication)

    async def begin(self) -> None:
        """Begin to load the engines."""
        for slot in self.slots:
            self._keep(slot.ready())

    def _keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin work that goes on whoever waits for it."""
        self._tasks.add(task := asyncio.create_task(work))
        task.add_done_callback(self._dropped)
        return task

    def _dropped(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        _ = task.cancelled() or task.exception()  # whoever needs the engine meets the error too

    async def loaded(self) -> None:
        """Wait until every slot serves or is given up. Raises ``AllEnginesDead`` when none serves."""
        self.served()
        await gathered(slot.ready() for slot in self.slots)
        self.serving()

    async def join(self, spawn: Callable[[int], Engine] | None) -> int:
        """See ``Pool.join``."""
        slot = self._add(spawn or self._spawn)
        for shift in self.shifts:
            shift.employ(slot)
        self._keep(slot.ready())
        self._arrival.set()
        self._arrival = asyncio.Event()
        return slot.index

    async def leave(self, indices: Sequence[int]) -> None:
        """See ``Pool.leave``."""
        members = {slot.index: slot for slot in self.slots}
        if gone := [index for index in indices if index not in members]:
            raise ValueError(f"no engine {gone[0]} is in the pool; there are {list(members)}")
        if len(members) == len(set(indices)):
            raise ValueError(f"engine {indices[0]} is the only one: let another join before it leaves")
        leaving = [members[index] for index in dict.fromkeys(indices)]
        for slot in leaving:
            self.slots.remove(slot)
            self._leaving.append(slot)
            self._past_given_up += slot.given_up
            slot.retire()  # a publish may be waiting for the engine that is to start there
        await asyncio.shield(self._keep(self._dismissed(leaving)))

    async def _dismissed(self, leaving: Sequence[Slot]) -> None:
        limit = self.config.call_timeout_s
        try:
            async with self.changing:
                await gathered(shift.dismiss(slot, limit) for shift in self.shifts for slot in leaving)
        finally:
            await gathered(slot.close() for slot in leaving)
            for slot in leaving:
                self._past_failures += slot.failures
                self._leaving.remove(slot)

    async def withdraw(self) -> None:
        """See ``Pool.withdraw``."""
        self.publication, self._target, self.withdrawn = None, None, True
        for slot in self.slots:
            slot.withdraw()

    async def free(self) -> None:
        """Wait for what is just ending. Raises ``RuntimeError`` unless other work can begin on the engines then."""
        await self.idle()
        self.served()

    async def idle(self) -> None:
        """Wait for what is just ending. Raises ``RuntimeError`` when the engines have other work then."""
        async with self.changing:
            while self.shifts and self.shifts[-1].closing is not None:
                await asyncio.shield(self.shifts[-1].closing)
        if self.shifts and not self.shifts[-1].held:
            raise RuntimeError("the engines work on an open stream; leave it, or hold it meanwhile (Stream.held)")

    def served(self) -> None:
        """Raises ``RuntimeError`` while there are no weights to be served."""
        if self.withdrawn:
            raise RuntimeError("the weights of the engines were withdrawn; publish some first")

    async def publish(
        self, publication: Publication, renew: Callable[[Publication], Awaitable[None]] | None = None
    ) -> PublishReport:
        """Have all engines take weights; the version counts once they have, and the probe has passed on each.

        ``renew``: how, where they are at work; by default each slot takes part, and is waited for.
        """
        began = time.monotonic()
        async with self.changing:
            withdrawn = self.withdrawn
            try:
                await (renew or self._adopted)(publication)
                await self._taken(publication)
                serving = [slot for slot in self.serving() if slot.life is not None and slot.life.has(publication)]
            except BaseException:
                self.aim(self.publication)
                if withdrawn:
                    await self.withdraw()
                raise
            self.publication = publication
            self.aim(publication)
        return PublishReport(
            version=publication.version,
            seconds=time.monotonic() - began,
            bytes=publication.update.payload.get("size", 0),
            max_gap=max(slot.gap.largest for slot in serving),
            mean_gap=max(slot.gap.mean for slot in serving),
        )

    async def _adopted(self, publication: Publication) -> None:
        if self.shifts and not self.shifts[-1].held:
            raise RuntimeError("an open stream takes new weights in flight (Stream.publish)")
        await gathered(slot.settled() for slot in self.slots)
        roster = await self.roster()
        self.aim(publication)
        await gathered(slot.adopt(publication, roster) for slot in self.slots)

    async def _taken(self, publication: Publication) -> None:
        """Wait until an engine has these weights: where none of those that lived is left, one that is being started.

        Raises ``AllEnginesDead`` when there will be none.
        """
        while not any(slot.life is not None and slot.life.has(publication) for slot in self.slots):
            coming = [slot for slot in self.slots if not slot.given_up]
            if not coming:
                raise self._dead()
            await first([*(slot.ready() for slot in coming), self._arrival.wait()])

    async def roster(self) -> list[int]:
        """Return the slots whose engines can take weights together. Dead engines are lost here."""
        slots = list(self.slots)
        alive = await gathered(slot.check(self.config.call_timeout_s) for slot in slots)
        return [slot.index for slot, lives in zip(slots, alive, strict=True) if lives and not slot.given_up]

    def serving(self) -> list[Slot]:
        """Return the slots with a live engine; raises ``AllEnginesDead`` when there are none."""
        slots = [slot for slot in self.slots if slot.life is not None]
        if not slots:
            raise self._dead()
        return slots

    def _dead(self) -> AllEnginesDead:
        errors = [slot.last_error for slot in self.slots if slot.last_error]
        return AllEnginesDead(
            f"all {len(self.slots)} rollout engines are dead: {self.config.max_restarts} restarts in a row, or "
            f"restarts in so many iterations in a row, did not help; last error: "
            f"{errors[-1] if errors else 'none recorded'}"
        )

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See ``Pool.score``."""
        await self.free()
        while slots := [slot for slot in self.slots if not slot.given_up]:
            slot = slots[0]
            if not await slot.ready():
                continue
            life = slot.life
            assert life is not None
            try:
                return await limited(life.engine.score(sequences), self.config.call_timeout_s, "scoring")
            except EngineError as error:
                await slot.lose(life, error)
        raise self._dead()

    async def stats(self) -> PoolStats:
        """See ``Pool.stats``."""
        found = []
        for slot in list(self.slots):
            if (life := slot.life) is None:
                continue
            try:
                found.append(await limited(life.engine.stats(), self.config.call_timeout_s, "health check"))
            except EngineError as error:
                worker = self.shifts[-1].workers.get(slot.index) if self.shifts else None
                await (worker.suspect if worker else slot.lose)(life, error)
        failures = self._past_failures + sum(slot.failures for slot in (*self.slots, *self._leaving))
        given_up = self._past_given_up + sum(slot.given_up for slot in self.slots)
        return PoolStats(tuple(found), failures, given_up, self._sleep_s, self._wake_s)

    async def sleep(self) -> None:
        """See ``Pool.sleep``."""
        await self.idle()
        began, self._asleep = time.monotonic(), True
        await gathered(slot.sleep() for slot in self.slots)
        self._sleep_s = time.monotonic() - began

    async def wake(self) -> None:
        """See ``Pool.wake``."""
        began, self._asleep = time.monotonic(), False
        await gathered(slot.wake() for slot in self.slots)
        self._wake_s = time.monotonic() - began

    async def close(self) -> None:
        """End all work, and stop all engines."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for shift in self.shifts:
            shift.fail(RuntimeError("the pool was closed"))  # for whoever waits for news in another thread
        await asyncio.gather(*(shift.close(0) for shift in self.shifts), return_exceptions=True)
        await asyncio.gather(*(slot.close() for slot in (*self.slots, *self._leaving)))


async def gathered(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all, side by side; when one raises, or the waiter is cancelled, the others are cancelled and waited for."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def first(calls: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Await the first that returns or raises; the others are cancelled."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
