"""What keeps one slot busy with the requests of a board, through any number of engines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from rollout.engine import NO_LOGPROBS, NO_TOKENS, NOT_THE_ENGINE, Delta, Engine, EngineError, EngineTimeout
from rollout.pool.board import Board
from rollout.pool.slot import Life, Publication, Slot, limited
from rollout.timeline import Switch
from rollout.types import WeightVersion

POLL_S = 1.0
"""Longest wait inside one poll."""


class Worker:
    """Hands a slot's engine its share of a board's requests, and takes in what it draws.

    It alone gives up an engine that has requests, so that they go back to the board first. A poll that has begun is
    never cut short while the engine lives: its tokens would be lost.
    """

    def __init__(
        self, slot: Slot, board: Board, share: Callable[[Worker], int], arrived: Callable[[Worker], None]
    ) -> None:
        """``share``: how many requests more the engine may take, ``arrived``: told of each new engine."""
        self.slot = slot
        self.board = board
        self.in_flight: dict[str, WeightVersion] = {}
        """Requests that the engine has, and the version below which no more of their tokens can be."""
        self._sampling = Switch(slot.lane, "sample")
        self._share = share
        self._arrived = arrived
        self._life: Life | None = None
        """The engine that worked here last."""
        self._task: asyncio.Task[None] | None = None
        self._serving = False
        self._halting = False
        self._failure: EngineError | None = None
        """What somebody else found wrong with the engine."""
        self._shedding = False
        self._told: set[str] = set()
        """Requests that the engine was told to drop."""
        self._unproven: list[Delta] = []
        """Progress that was not passed on yet, in its order."""
        self._moved = 0.0
        """When something last came of the engine, in ``time.monotonic`` seconds."""

    def start(self, ended: Callable[[asyncio.Task[None]], None]) -> None:
        """Begin to work, unless that is so; ``ended`` gets the task when it ends by itself."""
        self._halting = False
        if self._task is None or self._task.done() or self._task.cancelling():
            self._task = asyncio.create_task(self._work())
            self._task.add_done_callback(ended)

    async def halt(self, seconds: float | None = None) -> None:
        """Recall what the engine has, and return when it has nothing any more; the tokens drawn so far are recorded.

        An engine that has not let go after ``seconds`` is lost. One that is being started goes on with that.
        """
        self._halting = True
        task = self._task
        if task is None or task.done():
            return
        if not self._serving:
            task.cancel()
        self.board.touch()
        _, late = await asyncio.wait({task}, timeout=seconds)
        if late:
            task.cancel()
            await asyncio.wait({task})
            if self._life is not None and self.in_flight:
                await self._lose(self._life, EngineError("did not drop its requests in time"))

    def shed(self) -> None:
        """Recall what is more than this slot's share: the youngest requests, which the engine has hardly begun."""
        self._shedding = True
        self.board.touch()

    async def renew(self, publication: Publication, roster: Sequence[int]) -> None:
        """New weights into the engine: beneath its requests if it takes them so, or else without them.

        Afterwards the worker may have to be started again. An engine that fails at it is lost, and its successor takes
        the copy; raises ``ParityError`` when it disagrees with the learner, ``CopyGone`` when there is none.
        """
        life = self.slot.life
        if life is None or not (self._serving and life.engine.takes_in_flight):
            await self.halt()
            await self.slot.take(publication, roster)
            return
        try:
            await self.slot.install(life, publication, roster)
        except NOT_THE_ENGINE:
            raise
        except EngineError as error:
            await self.suspect(life, error)
        finally:
            self.board.touch()  # progress that waited for the probe goes on

    async def suspect(self, life: Life, error: EngineError) -> None:
        """Have an engine that failed a call given up."""
        if not self._serving:
            await self.slot.lose(life, error)
        elif self.slot.life is life:
            self._failure = error
            self.board.touch()

    async def _work(self) -> None:
        while not self._halting and await self.slot.ready():
            life = self.slot.life
            assert life is not None
            self._serving, self._failure, self._shedding = True, None, False
            if self._life is not life:
                self._life = life
                self._arrived(self)
            try:
                await self._serve(life)
            except EngineError as error:
                await self._lose(life, error)
            finally:
                self._serving = False

    async def _lose(self, life: Life, error: EngineError) -> None:
        """Take back the requests of an engine that failed, and give it up."""
        keys, self.in_flight = list(self.in_flight), {}
        self._told, self._unproven = set(), []
        self.board.give_back(keys, f"engine {self.slot.index} failed: {error}")
        await self.slot.lose(life, error)

    async def _serve(self, life: Life) -> None:
        """Work on the board until told to halt. Raises ``EngineError`` when the engine fails or stalls."""
        limit, name = self.slot.config.call_timeout_s, f"engine {self.slot.index}"
        poll: asyncio.Task[list[Delta]] | None = None
        try:
            while True:
                change = self.board.change
                if self._failure is not None:
                    raise self._failure
                if self.slot.life is not life:
                    raise EngineError("was found dead")
                self._release(life)
                await self._abort(life.engine)
                await self._hand_out(life)
                self._sampling.turn(bool(self.in_flight))
                if poll is None and self.in_flight:
                    poll = asyncio.create_task(limited(life.engine.poll(POLL_S), POLL_S + limit, f"poll of {name}"))
                if poll is None and self._halting:
                    return
                anything: list[asyncio.Future[Any]] = [change, poll] if poll else [change]
                await asyncio.wait(anything, return_when=asyncio.FIRST_COMPLETED)
                if poll is not None and poll.done():
                    deltas, poll = poll.result(), None
                    self._take_in(life, deltas)
        except EngineError:
            if poll is not None and poll.done() and poll.exception() is None:
                self._take_in(life, poll.result())  # what still came while another call failed
            raise
        finally:
            self._sampling.turn(False)
            if poll is not None:
                poll.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # of no interest any more
                poll.cancel()

    async def _abort(self, engine: Engine) -> None:
        """Tell the engine to drop what is not wanted from it any more, while a poll goes on."""
        if keys := [key for key in self._unwanted() if key not in self._told]:
            self._told.update(keys)
            self.board.recall(keys)
            await limited(engine.abort(keys), self.slot.config.call_timeout_s, f"abort at engine {self.slot.index}")

    def _unwanted(self) -> list[str]:
        if self._halting:
            return list(self.in_flight)
        keys = [key for key in self.in_flight if key in self.board.dropped] if self.board.dropped else []
        if self._shedding:
            self._shedding = False
            keys += list(self.in_flight)[max(0, len(self.in_flight) + self._share(self)) :]
        return keys

    async def _hand_out(self, life: Life) -> None:
        if self._halting or not life.sure:
            return
        if requests := self.board.take(self._share(self), life.version):
            if not self.in_flight:
                self._moved = time.monotonic()
            self.in_flight |= dict.fromkeys((request.key for request in requests), life.version)
            await limited(
                life.engine.submit(requests), self.slot.config.call_timeout_s, f"submit to engine {self.slot.index}"
            )

    def _take_in(self, life: Life, deltas: list[Delta]) -> None:
        """Take progress in, and pass on what may be."""
        if deltas or not life.sure:
            self._moved = time.monotonic()
        elif time.monotonic() - self._moved > (patience := self.slot.config.stall_timeout_s):
            raise EngineTimeout(f"no token for {patience:.0f} s with {len(self.in_flight)} requests in flight")
        for delta in deltas:
            self._check(life, delta)
        self._unproven += deltas
        self._release(life)

    def _check(self, life: Life, delta: Delta) -> None:
        """Raise ``EngineError`` where tokens are drawn under weights that they cannot be drawn under."""
        least = self.in_flight.get(delta.key)
        if least is None:
            raise EngineError(f"engine made progress on {delta.key!r}, which it does not have")
        if delta.version not in life.drawing or delta.version < least:
            raise EngineError(
                f"engine drew tokens under version {delta.version} while version {life.version} is served"
            )
        self.in_flight[delta.key] = delta.version

    def _release(self, life: Life) -> None:
        """Pass on what was checked, in the order in which it was drawn; what was drawn under weights that the engine is
        just taking waits for the probe. Without its outcome, when the work ends, that is as if not drawn.
        """
        if not self._unproven:
            return
        unproven = [] if life.sure else [delta for delta in self._unproven if delta.version == life.drawing[-1]]
        proven = self._unproven if life.sure else [d for d in self._unproven if d.version != life.drawing[-1]]
        self._unproven = unproven
        if self._halting and unproven:
            ended = [delta for delta in unproven if delta.done]
            self.board.recall([delta.key for delta in ended])
            proven += [
                Delta(delta.key, NO_TOKENS, NO_LOGPROBS, delta.version, done=True, error="recalled") for delta in ended
            ]
            self._unproven = []
        self._deliver(proven)

    def _deliver(self, deltas: list[Delta]) -> None:
        self.board.receive(deltas)
        for delta in deltas:
            if delta.done:
                self.in_flight.pop(delta.key, None)
                self._told.discard(delta.key)
        if any(delta.done and not delta.error for delta in deltas):
            self.slot.proven()
