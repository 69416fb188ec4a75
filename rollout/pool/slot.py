"""One place for an engine in the pool: started, supervised, replaced when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rollout.config import EngineConfig
from rollout.engine import (
    DEEP,
    LIGHT,
    Delta,
    Engine,
    EngineError,
    EngineTimeout,
    ParityError,
    WeightsLost,
    WeightUpdate,
)
from rollout.pool.board import Board
from rollout.pool.parity import Gap, Limits, check_loaded, check_published, gap_of
from rollout.timeline import Switch, engine_lane, span

T = TypeVar("T")

POLL_S = 1.0
"""Longest wait inside one poll."""
BACKOFF_S = 0.2
"""Pause before the first restart in a row; doubles with each."""
CLOSE_S = 20.0
"""Patience with an engine that is closed."""


@dataclass(frozen=True)
class Publication:
    """Weights and what engine and learner must agree on under them."""

    update: WeightUpdate
    probe: Sequence[Sequence[int]]
    reference: Sequence[Sequence[float]]
    """The learner's log-probs of the probe; [n][len - 1], nats."""
    limits: Limits
    """How far the engine's may be from them."""


@dataclass(frozen=True)
class Calibration:
    """The probe of engine and learner while the engine holds the weights that both were loaded with."""

    probe: Sequence[Sequence[int]]
    reference: Sequence[Sequence[float]]
    """The learner's log-probs of the probe as it was loaded; [n][len - 1], nats."""


_UNKNOWN = object()
"""In place of a publication: the engine began to take one, and has not said that it did."""


async def limited(call: Awaitable[T], seconds: float, what: str) -> T:
    """Await ``call`` with a time limit; raises ``EngineTimeout``."""
    try:
        return await asyncio.wait_for(call, seconds)
    except TimeoutError as error:
        raise EngineTimeout(f"{what} did not finish within {seconds:.0f} s") from error


class Slot:
    """Keeps one engine alive. An engine serves only after it took the newest weights and passed the parity probe."""

    def __init__(self, index: int, spawn: Callable[[int], Engine], config: EngineConfig) -> None:
        self.index = index
        self.config = config
        self.engine: Engine | None = None
        """The engine that may serve; ``None`` while there is none."""
        self.gap = Gap()
        """The engine's last parity gap."""
        self.calibration: Calibration | None = None
        """For engines before their first weights; ``None``: their rounding is not measured."""
        self.loaded: Gap | None = None
        """Parity gap of the engine as it was loaded, where it was measured."""
        self.last_error = ""
        self.failures = 0
        """Engines lost over the pool's life."""
        self.given_up = False
        self.asleep = False
        """No engine is started here, since somebody else has its device; one that is up sleeps."""
        self._sampling = Switch(engine_lane(index), "sample")
        self._in_flight: set[str] = set()
        self._spawn = spawn
        self._attempts = 0
        self._lost_before = 0
        self._bad_rounds = 0
        self._serves: Publication | object | None = None
        """What the engine was given last; ``None``: what it was loaded with."""
        self._untouched = False
        self._wanted: Publication | None = None
        """What an engine that is being started here will be given."""
        self._revival: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> set[str]:
        """Keys of the requests that the engine works on. Assign to it, so that the timeline learns of it."""
        return self._in_flight

    @in_flight.setter
    def in_flight(self, keys: set[str]) -> None:
        self._in_flight = keys
        self._sampling.turn(bool(keys))

    async def settled(self) -> None:
        """Wait until no engine is being started here. Raises ``ParityError`` when it fails the probe."""
        if self._revival is not None:
            await self._revived(None)

    async def ready(self, publication: Publication | None) -> bool:
        """Wait until an engine serves ``publication`` here; False when the slot is given up.

        The work goes on if the waiter is cancelled. Raises ``ParityError`` when a new engine fails the probe.
        """
        while not self.given_up:
            if self.asleep:
                raise RuntimeError(f"engine {self.index} sleeps; wake the pool before it is used")
            if self.engine is None:
                await self._revived(publication)
            elif self._serves is publication:
                return True
            else:
                await self._return(self.engine, publication)
        return False

    async def _revived(self, publication: Publication | None) -> None:
        """Wait until an engine is started here, or the slot given up."""
        if self._revival is None:
            self._wanted = publication
            self._revival = asyncio.create_task(self._revive())
        revival = self._revival
        try:
            await asyncio.shield(revival)
        finally:
            if revival.done() and self._revival is revival:
                self._revival = None

    def withdraw(self) -> None:
        """Give an engine that is being started here no weights: those that it was to take cannot be had any more."""
        self._wanted = None

    async def _revive(self) -> None:
        """Start engines until one serves, or ``max_restarts`` in a row finished no request: then the slot is given up.

        Tokens are not enough: an engine that draws a few and dies, every time, would be restarted for ever.
        """
        while self._attempts <= self.config.max_restarts:
            if self._attempts:
                await asyncio.sleep(BACKOFF_S * 2 ** (self._attempts - 1))
            self._attempts += 1
            engine = self._spawn(self.index)
            self._untouched, self.loaded = True, None
            try:
                with span(engine_lane(self.index), "start"):
                    await limited(engine.start(), self.config.start_timeout_s, f"start of engine {self.index}")
                self._serves = None
                if self._wanted is not None:
                    await self._install(engine, self._wanted, ())
            except (ParityError, asyncio.CancelledError):
                await self._close(engine)
                raise
            except EngineError as error:
                self.failures += 1
                self.last_error = f"engine {self.index}: {error}"
                await self._close(engine)
            else:
                self.engine = engine
                return
        self.given_up = True

    async def _return(self, engine: Engine, publication: Publication | None) -> None:
        """Give an engine the weights that are to be served: a publish of others was interrupted, or failed elsewhere.

        Those that it was loaded with only another engine has.
        """
        try:
            if publication is None:
                raise EngineError("it has weights whose publish was not completed")
            await self._install(engine, publication, ())
        except ParityError:
            raise
        except EngineError as error:
            await self.lose(error)

    async def check(self, seconds: float) -> bool:
        """Return whether an engine lives here that could take part in a publish; a dead one is lost."""
        if self.engine is None:
            return False
        try:
            await limited(self.engine.stats(), seconds, f"health check of engine {self.index}")
        except EngineError as error:
            await self.lose(error)
            return False
        return True

    async def adopt(self, publication: Publication, roster: Sequence[int]) -> None:
        """New weights into this slot's engine; an engine that fails at it is replaced, and takes the copy.

        ``roster``: the slots whose engines take them together.

        A slot that lost an engine under each of the last ``max_restarts + 1`` publishes is given up: it may finish some
        requests in every life, but most of the time it restarts.
        """
        self._bad_rounds = self._bad_rounds + 1 if self.failures > self._lost_before else 0
        self._lost_before = self.failures
        if self._bad_rounds > self.config.max_restarts:
            self.given_up = True
            await self.close()
            return
        if self.engine is not None:
            try:
                await self._install(self.engine, publication, roster)
                return
            except ParityError:
                raise
            except EngineError as error:
                await self.lose(error)
        await self.ready(publication)

    async def _install(self, engine: Engine, publication: Publication, roster: Sequence[int]) -> None:
        limit, name, version = self.config.call_timeout_s, f"engine {self.index}", publication.update.version
        if self._untouched and self.calibration is not None:
            scores = await limited(engine.score(self.calibration.probe), limit, f"calibration of {name}")
            self.loaded = gap_of(scores, self.calibration.reference)
            check_loaded(name, self.loaded, publication.limits)
        self._untouched, self._serves = False, _UNKNOWN
        with span(engine_lane(self.index), "publish"):
            await self._take(engine, publication.update, roster)
        if publication.probe:
            with span(engine_lane(self.index), "score"):
                scores = await limited(engine.score(publication.probe), limit, f"parity probe of {name}")
            self.gap = gap_of(scores, publication.reference)
            check_published(name, version, self.gap, self.loaded, publication.limits)
        self._serves = publication

    async def _take(self, engine: Engine, update: WeightUpdate, roster: Sequence[int]) -> None:
        """Have the engine load ``update``: directly where it is one of ``roster``, or else from the copy."""
        limit, what = self.config.call_timeout_s, f"weight update of engine {self.index}"
        if self.index in roster:
            try:
                await limited(engine.update_weights(update.directly(self.index, roster)), limit, what)
            except WeightsLost as error:
                self.last_error = f"engine {self.index}: {error}"
            else:
                return
        await limited(engine.update_weights(update.copied()), limit, what)

    async def lose(self, error: EngineError) -> None:
        """Give up an engine that failed, and end its process."""
        engine, self.engine = self.engine, None
        self.in_flight = set()
        self.failures += 1
        self.last_error = f"engine {self.index}: {error}"
        if engine is not None:
            await self._close(engine)

    async def serve(self, board: Board, share: Callable[[Slot], int]) -> None:
        """Work on the board until nothing is left of it. Raises ``EngineError`` when the engine fails or stalls."""
        engine = self.engine
        assert engine is not None
        moved = time.monotonic()
        while board.unfinished:
            taken = board.take(share(self))
            if taken:
                if not self.in_flight:
                    moved = time.monotonic()
                self.in_flight |= {request.key for request in taken}
                await limited(engine.submit(taken), self.config.call_timeout_s, f"submit to engine {self.index}")
            if not self.in_flight:
                await board.changed()
                continue
            deltas = await limited(
                engine.poll(POLL_S), POLL_S + self.config.call_timeout_s, f"poll of engine {self.index}"
            )
            if deltas:
                moved = time.monotonic()
                board.receive(deltas)
                self.in_flight -= {delta.key for delta in deltas if delta.done}
                if any(delta.done and not delta.error for delta in deltas):
                    self._attempts = 1  # this life
            elif time.monotonic() - moved > self.config.stall_timeout_s:
                raise EngineTimeout(
                    f"no token for {self.config.stall_timeout_s:.0f} s with {len(self.in_flight)} requests in flight"
                )

    async def clear(self, board: Board, seconds: float) -> None:
        """Abort what is in flight after a cancelled call, record its last tokens, and be ready for the next call."""
        if self.engine is None or not self.in_flight:
            return
        try:
            async with asyncio.timeout(seconds):
                await self.engine.abort(sorted(self.in_flight))
                while self.in_flight:
                    deltas: list[Delta] = await self.engine.poll(0.1)
                    board.salvage(deltas)
                    self.in_flight -= {delta.key for delta in deltas if delta.done}
        except (EngineError, TimeoutError) as error:
            await self.lose(EngineError(f"did not drop its requests: {error}"))

    async def sleep(self) -> None:
        """Let the engine sleep, and start none here until ``wake``. One that fails is lost, which clears its device.

        It sleeps deeply where the next publish, or the copy of the last one, brings its weights back. Those that it
        was loaded with only the engine itself can keep.
        """
        await self.settled()
        self.asleep = True
        if self.engine is None:
            return
        level = LIGHT if self._untouched else DEEP
        self._serves = self._serves if level == LIGHT else _UNKNOWN
        await self._rest(self.engine.sleep(level), "sleep")

    async def wake(self) -> None:
        """Wake the engine, which serves once it has its weights; one that died in its sleep is lost."""
        if self.asleep and self.engine is not None:
            await self._rest(self.engine.wake(), "wake")
        self.asleep = False

    async def _rest(self, call: Awaitable[None], what: str) -> None:
        try:
            with span(engine_lane(self.index), what):
                await limited(call, self.config.call_timeout_s, f"{what} of engine {self.index}")
        except EngineError as error:
            await self.lose(error)

    async def close(self) -> None:
        """Stop the engine, or the attempt to start one."""
        if self._revival is not None:
            self._revival.cancel()
            with contextlib.suppress(asyncio.CancelledError, EngineError):
                await self._revival
        engine, self.engine = self.engine, None
        if engine is not None:
            await self._close(engine)

    async def _close(self, engine: Engine) -> None:
        with contextlib.suppress(EngineError):  # a dead engine may say so again
            await limited(engine.close(), CLOSE_S, f"close of engine {self.index}")
