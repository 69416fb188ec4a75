"""Work on one stream of requests: its board, and a worker for each slot. On the pool's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from rollout.engine import AllEnginesDead
from rollout.partial import Stretch
from rollout.pool.board import Board, News, Turns
from rollout.pool.fleet import Fleet, PublishReport, gathered
from rollout.pool.slot import Publication, Slot
from rollout.pool.worker import Worker


@dataclass(frozen=True)
class Failed:
    """The work cannot go on."""

    error: BaseException


class Shift:
    """Serves a board until it is closed. ``emit`` gets all news, and once at most what ended the work."""

    def __init__(self, fleet: Fleet, emit: Callable[[News | Failed], None], turns: Turns | None, most: int) -> None:
        """``most``: failures of engines after which a request is given up."""
        self.fleet = fleet
        self.workers: dict[int, Worker] = {}
        """By slot."""
        self.held = False
        """Whether the engines are free of this work for a while."""
        self.closing: asyncio.Task[None] | None = None
        """The end of the work, once it was begun."""
        self.board = Board(lambda: fleet.version, most, fleet.config.max_model_len, emit, emit, self.fail, turns)
        self._emit = emit
        self._publishing: asyncio.Task[PublishReport] | None = None
        self._failed = asyncio.get_running_loop().create_future()
        fleet.shifts.append(self)
        for slot in fleet.slots:
            self.employ(slot)

    def employ(self, slot: Slot) -> None:
        """Have a slot take part, unless the work is ending."""
        if self.closing is not None:
            return
        self.workers[slot.index] = Worker(slot, self.board, self._share, self._balance)
        self._start(self.workers[slot.index])

    async def dismiss(self, slot: Slot, seconds: float) -> None:
        """Have a slot take part no longer; its requests go back, and that is no failure."""
        if worker := self.workers.pop(slot.index, None):
            await worker.halt(seconds)
        self._look()

    async def add(self, stretches: Sequence[Stretch]) -> None:
        """See ``Stream.submit``."""
        self.board.add(stretches)

    async def drop(self, keys: Collection[str]) -> None:
        """See ``Stream.drop``."""
        self.board.drop(keys)

    async def hold(self) -> None:
        """Recall all requests, and hand out none until ``resume``. A publish in progress is waited for."""
        async with self.fleet.changing:
            self.held = True
            await gathered(worker.halt() for worker in self.workers.values())

    async def resume(self) -> None:
        """Go on after ``hold``."""
        self.held = False
        for worker in self.workers.values():
            self._start(worker)

    async def publish(self, publication: Publication) -> PublishReport:
        """New weights in flight: each engine takes them by itself, while the others go on; see ``Fleet.publish``.

        Raises what ends the work meanwhile, be it ``close``.
        """
        work = self._publishing = asyncio.create_task(self.fleet.publish(publication, self._renewed))
        try:
            await asyncio.wait({work, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self._failed.result()
            return work.result()
        except BaseException as error:
            interrupted = RuntimeError(f"the publish of version {publication.version} was interrupted")
            self.fail(error if isinstance(error, Exception) else interrupted)
            raise
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def close(self, seconds: float) -> None:
        """End the work: engines drop what they have within ``seconds``, or are lost. The last tokens are recorded. A
        publish in progress is cut short.

        It goes on if the waiter is cancelled.
        """
        if self.closing is None:
            self.closing = asyncio.create_task(self._close(seconds))
        await asyncio.shield(self.closing)

    async def _close(self, seconds: float) -> None:
        try:
            if self._publishing is not None and not self._publishing.done():
                self.fail(RuntimeError("the stream was left while its engines took weights"))
                self._publishing.cancel()
                await asyncio.wait({self._publishing})
            await self.board.close()
            await asyncio.gather(*(worker.halt(seconds) for worker in self.workers.values()))
        finally:
            self.fleet.shifts.remove(self)

    def _start(self, worker: Worker) -> None:
        if not self.held and self.closing is None:
            worker.start(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Look at why a worker has ended by itself."""
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            self.fail(error)
        else:
            self._look()

    def _look(self) -> None:
        """End the work if nobody is left to do it."""
        if all(slot.given_up for slot in self.fleet.slots):
            try:
                self.fleet.serving()
            except AllEnginesDead as dead:
                self.fail(dead)

    def fail(self, error: BaseException) -> None:
        """End the work with an error; only the first counts."""
        if not self._failed.done():
            self._failed.set_exception(error)
            self._failed.exception()  # it is told to whoever asks, and need not be asked for
            self._emit(Failed(error))

    def _share(self, worker: Worker) -> int:
        """Return how many more requests this slot may take: an even share of what is left, and a few more than it can
        decode.

        A single engine gets everything at once and schedules it itself, so what it batches together depends only on the
        order of the requests.
        """
        if worker.slot.given_up:
            return -len(worker.in_flight)
        if len(self.fleet.slots) == 1:
            return self.board.waiting
        live = max(1, sum(slot.life is not None for slot in self.fleet.slots))
        most = self.fleet.config.max_concurrency + self.fleet.config.max_concurrency // 8
        return min(-(-self.board.unfinished // live), most) - len(worker.in_flight)

    def _balance(self, newcomer: Worker) -> None:
        """Have an engine that has just come get its share of what the others have."""
        for worker in self.workers.values():
            if worker is not newcomer and self._share(worker) < 0:
                worker.shed()

    async def _renewed(self, publication: Publication) -> None:
        """Have the engines that live take the weights now, and those that are being started when they are up."""
        workers = list(self.workers.values())
        roster = await self._met(workers) if publication.together else []
        self.fleet.aim(publication)
        await gathered(self._renew(worker, publication, roster or [worker.slot.index]) for worker in workers)

    async def _met(self, workers: list[Worker]) -> list[int]:
        """Return the slots whose engines can take weights together, and have those that need it drop their requests."""
        lives = [(worker, worker.slot.life) for worker in workers]
        await gathered(worker.halt() for worker, life in lives if life is None or not life.engine.takes_in_flight)
        return await self.fleet.roster()

    async def _renew(self, worker: Worker, publication: Publication, roster: list[int]) -> None:
        if worker.slot.worn_out():
            await worker.halt()
            await worker.slot.give_up()
        else:
            await worker.renew(publication, roster)
        self._start(worker)
