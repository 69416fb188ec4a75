"""One place for an engine in the pool: started, given weights, checked, replaced when it dies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rollout.config import EngineConfig
from rollout.engine import (
    DEEP,
    LIGHT,
    NOT_THE_ENGINE,
    CopyGone,
    Engine,
    EngineError,
    EngineTimeout,
    ParityError,
    WeightsLost,
    WeightUpdate,
)
from rollout.pool.parity import Gap, Limits, check_loaded, check_published, gap_of
from rollout.timeline import ENGINE, engine_lane, span
from rollout.types import WeightVersion

T = TypeVar("T")

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

    @property
    def version(self) -> WeightVersion:
        """Version of the weights."""
        return self.update.version

    @property
    def together(self) -> bool:
        """Whether engines that take the weights directly must do so at the same time."""
        return "nccl" in self.update.payload.get("direct", {})


@dataclass(frozen=True)
class Calibration:
    """The probe of engine and learner while the engine holds the weights that both were loaded with."""

    probe: Sequence[Sequence[int]]
    reference: Sequence[Sequence[float]]
    """The learner's log-probs of the probe as it was loaded; [n][len - 1], nats."""


@dataclass(eq=False)
class Life:
    """One engine, and the weights that it has."""

    engine: Engine
    serves: Publication | None = None
    """What it took last; ``None``: what it was loaded with."""
    sure: bool = True
    """False while it takes weights, and after it began to and has not said that it did."""
    version: WeightVersion = 0
    """What it has taken and was checked on."""
    drawing: tuple[WeightVersion, ...] = (0,)
    """What its tokens may be drawn under: ``version``; with requests that it had when it took its last weights, or is
    taking them, those before and the new ones."""
    untouched: bool = True
    """No update was begun yet."""

    def has(self, publication: Publication | None) -> bool:
        """Return whether it serves exactly this."""
        return self.sure and self.serves is publication


async def limited(call: Awaitable[T], seconds: float, what: str) -> T:
    """Await ``call`` with a time limit; raises ``EngineTimeout``."""
    try:
        return await asyncio.wait_for(call, seconds)
    except TimeoutError as error:
        raise EngineTimeout(f"{what} did not finish within {seconds:.0f} s") from error


class Slot:
    """Keeps one engine alive. An engine serves only after it took the weights aimed at and passed the parity probe."""

    def __init__(self, index: int, spawn: Callable[[int], Engine], config: EngineConfig, name: str = ENGINE) -> None:
        """``name``: what the engines of the pool are called in the timeline."""
        self.index = index
        self.lane = engine_lane(index, name)
        self.config = config
        self.life: Life | None = None
        """The engine that may serve; ``None`` while there is none."""
        self.target: Publication | None = None
        """What an engine must have before it begins to serve here; ``None``: what it was loaded with."""
        self.gap = Gap()
        """The engine's last parity gap."""
        self.calibration: Calibration | None = None
        """For engines before their first weights; ``None``: their rounding is not measured."""
        self.loaded: Gap | None = None
        """Parity gap of the engine as it was loaded, where it was measured."""
        self.last_error = ""
        self.failures = 0
        """Engines lost over the slot's life."""
        self.given_up = False
        self.asleep = False
        """No engine is started here, since somebody else has its device; one that is up sleeps."""
        self._spawn = spawn
        self._attempts = 0
        self._lost_before = 0
        self._bad_rounds = 0
        self._changing = asyncio.Lock()
        """Held while an engine takes weights."""
        self._aimed = asyncio.Event()
        self._aimed.set()
        self._preparation: asyncio.Task[None] | None = None
        self._closings: set[asyncio.Task[None]] = set()

    async def ready(self) -> bool:
        """Wait until an engine serves the target here; False when the slot is given up.

        The work goes on if the waiter is cancelled. Raises ``ParityError`` when a new engine fails the probe, and
        ``CopyGone`` when it cannot be given the target.
        """
        while not self.given_up:
            if self.asleep:
                raise RuntimeError(f"engine {self.index} sleeps; wake the pool before it is used")
            if self.life is not None and not self._aimed.is_set():
                await self._aimed.wait()
            elif self.life is not None and self.life.has(self.target):
                return True
            else:
                await self._prepared()
        return False

    def aim(self, publication: Publication | None) -> None:
        """Let no engine begin to serve other weights here."""
        self.target = publication
        self._aimed.set()

    def withdraw(self) -> None:
        """Let no engine begin to serve at all: the weights that it was to take cannot be had any more."""
        self.target = None
        self._aimed.clear()
        if self._preparation is not None and self._preparation.done():
            self._preparation = None  # nobody waited for it, and how it ended is of no interest any more

    async def settled(self) -> None:
        """Wait until nothing is being prepared here. Raises ``ParityError`` when a new engine fails the probe."""
        if self._preparation is not None:
            await self._prepared()

    async def _prepared(self) -> None:
        """Have an engine started, or given the target; one such attempt at a time, whoever waits for it."""
        if self._preparation is None:
            work = self._revive() if self.life is None else self._correct(self.life)
            self._preparation = asyncio.create_task(work)
        preparation = self._preparation
        try:
            await asyncio.wait({preparation})
        finally:
            if preparation.done() and self._preparation is preparation:
                self._preparation = None
        if not (preparation.cancelled() and self.given_up):
            preparation.result()

    async def _revive(self) -> None:
        """Start engines until one serves, or ``max_restarts`` in a row finished no request: then the slot is given up.

        Tokens are not enough: an engine that draws a few and dies, every time, would be restarted for ever.
        """
        while self._attempts <= self.config.max_restarts:
            if self._attempts:
                await asyncio.sleep(BACKOFF_S * 2 ** (self._attempts - 1))
            self._attempts += 1
            life, wanted = Life(self._spawn(self.index)), None
            self.loaded = None
            try:
                with span(self.lane, "start"):
                    await limited(life.engine.start(), self.config.start_timeout_s, f"start of engine {self.index}")
                if (wanted := self.target) is not None:
                    await self.install(life, wanted)
            except CopyGone:
                self.life = life  # it is well, and takes the weights that come next
                if self._aimed_at(wanted):
                    raise
                return
            except (ParityError, asyncio.CancelledError):
                await self._ended(life.engine)
                raise
            except EngineError as error:
                self.failures += 1
                self.last_error = f"engine {self.index}: {error}"
                await self._ended(life.engine)
            else:
                self.life = life
                return
        self.given_up = True

    async def _correct(self, life: Life) -> None:
        """Give an engine the weights that are to be served: a publish of others was interrupted, or failed elsewhere.

        Those that it was loaded with only another engine has.
        """
        wanted = self.target
        try:
            if wanted is None:
                raise EngineError("it has weights whose publish was not completed")
            await self.install(life, wanted)
        except CopyGone:
            if self._aimed_at(wanted):
                raise
        except ParityError:
            raise
        except EngineError as error:
            await self.lose(life, error)

    def _aimed_at(self, wanted: Publication | None) -> bool:
        """Return whether these are still the weights to be served: others are to come when their learner is gone."""
        return self.target is wanted and self._aimed.is_set()

    async def check(self, seconds: float) -> bool:
        """Return whether an engine lives here that could take part in a publish; a dead one is lost."""
        life = self.life
        if life is None:
            return False
        try:
            await limited(life.engine.stats(), seconds, f"health check of engine {self.index}")
        except EngineError as error:
            await self.lose(life, error)
            return False
        return True

    def worn_out(self) -> bool:
        """Count one more publish; return whether the slot lost an engine under each of the last ``max_restarts + 1``.

        It may finish some requests in every life, but most of the time it restarts: it is to be given up.
        """
        self._bad_rounds = self._bad_rounds + 1 if self.failures > self._lost_before else 0
        self._lost_before = self.failures
        return self._bad_rounds > self.config.max_restarts

    def retire(self) -> None:
        """Start no engine here any more; whoever waits for one that is just being started goes on without it."""
        self.given_up = True
        if self.life is None and self._preparation is not None:
            self._preparation.cancel()

    async def give_up(self) -> None:
        """Have no engine here any more."""
        self.given_up = True
        await self.close()

    async def take(self, publication: Publication, roster: Sequence[int]) -> None:
        """New weights into this slot's engine, if it has one, and no requests; an engine that fails at it is lost.

        ``roster``: the slots whose engines take them together. An engine that is being started gets them in time: it
        is waited for only if it is just being given older ones.
        """
        self.aim(publication)
        life = self.life
        if life is None:
            async with self._changing:
                return
        try:
            await self.install(life, publication, roster)
        except NOT_THE_ENGINE:
            raise
        except EngineError as error:
            await self.lose(life, error)

    async def adopt(self, publication: Publication, roster: Sequence[int]) -> None:
        """``take``, and wait for the successor of an engine that failed at it, which takes the copy."""
        if self.worn_out():
            await self.give_up()
            return
        await self.take(publication, roster)
        await self.ready()

    async def install(self, life: Life, publication: Publication, roster: Sequence[int] = ()) -> None:
        """Have an engine take weights, and check it on the probe. Raises ``EngineError`` when it fails,
        ``ParityError`` when it disagrees with the learner, ``CopyGone`` when the weights cannot be had.
        """
        async with self._changing:
            if life.has(publication):
                return
            engine, limit, name = life.engine, self.config.call_timeout_s, f"engine {self.index}"
            if life.untouched and self.calibration is not None:
                scores = await limited(engine.score(self.calibration.probe), limit, f"calibration of {name}")
                self.loaded = gap_of(scores, self.calibration.reference)
                check_loaded(name, self.loaded, publication.limits)
            life.untouched, life.sure = False, False
            life.drawing = (life.version, publication.version)
            with span(self.lane, "publish"):
                await self._load(engine, publication.update, roster)
            if publication.probe:
                with span(self.lane, "score"):
                    scores = await limited(engine.score(publication.probe), limit, f"parity probe of {name}")
                self.gap = gap_of(scores, publication.reference)
                check_published(name, publication.version, self.gap, self.loaded, publication.limits)
            life.serves, life.version, life.sure = publication, publication.version, True

    async def _load(self, engine: Engine, update: WeightUpdate, roster: Sequence[int]) -> None:
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

    def proven(self) -> None:
        """The engine has finished a request: it counts as the first of a row again."""
        self._attempts = 1

    async def lose(self, life: Life, error: EngineError) -> None:
        """Give up an engine that failed, and end its process; nothing when it is lost already."""
        if self.life is not life:
            return
        self.life = None
        self.failures += 1
        self.last_error = f"engine {self.index}: {error}"
        await self._ended(life.engine)

    async def sleep(self) -> None:
        """Let the engine sleep, and start none here until ``wake``. One that fails is lost, which clears its device.

        It sleeps deeply where the next publish, or the copy of the last one, brings its weights back. Those that it
        was loaded with only the engine itself can keep.
        """
        await self.settled()
        self.asleep = True
        if (life := self.life) is not None:
            level = LIGHT if life.untouched else DEEP
            life.sure = life.sure and level == LIGHT
            await self._rest(life, life.engine.sleep(level), "sleep")

    async def wake(self) -> None:
        """Wake the engine, which serves once it has its weights; one that died in its sleep is lost."""
        if self.asleep and (life := self.life) is not None:
            await self._rest(life, life.engine.wake(), "wake")
        self.asleep = False

    async def _rest(self, life: Life, call: Awaitable[None], what: str) -> None:
        try:
            with span(self.lane, what):
                await limited(call, self.config.call_timeout_s, f"{what} of engine {self.index}")
        except EngineError as error:
            await self.lose(life, error)

    async def close(self) -> None:
        """Stop the engine, or the attempt to start one."""
        if self._preparation is not None:
            self._preparation.cancel()
            with contextlib.suppress(asyncio.CancelledError, EngineError):
                await self._preparation
        life, self.life = self.life, None
        if life is not None:
            await self._ended(life.engine)
        await asyncio.gather(*self._closings, return_exceptions=True)

    async def _ended(self, engine: Engine) -> None:
        """Wait until an engine is closed; it goes on if the waiter is cancelled."""
        closing = asyncio.create_task(self._close(engine))
        self._closings.add(closing)
        closing.add_done_callback(self._closings.discard)
        await asyncio.shield(closing)

    async def _close(self, engine: Engine) -> None:
        with contextlib.suppress(EngineError):  # a dead engine may say so again
            await limited(engine.close(), CLOSE_S, f"close of engine {self.index}")
