"""The pool: one synchronous front for all engines. It routes, balances, retries and restarts, and never waits for ever.

An event loop in a thread of its own talks to the engines; callers block in plain functions and may be interrupted at
any time (Ctrl-C, ``rl.stop.Interrupted``): requests in flight are dropped, the tokens drawn so far still reach
``on_progress``, and the pool stays usable and closable. Imports neither Ray nor vLLM.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from rollout.config import EngineConfig, RolloutConfig
from rollout.engine import AllEnginesDead, Engine, EngineError, EngineStats, Request, WeightUpdate
from rollout.partial import Growth, Stretch, fold, grown, next_stretch, training_sampling
from rollout.pool.board import Board, Completion, Progress, Turns
from rollout.pool.growing import Growing, News, drain, tokens_only
from rollout.pool.parity import limits
from rollout.pool.slot import Calibration, Publication, Slot, limited
from rollout.types import Group, WeightVersion

T = TypeVar("T")

CLEAR_S = 3.0
"""Patience with engines that must drop their requests after an interrupt."""
CLOSE_S = 30.0
"""Patience with ``close``."""


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


class Episodes(Protocol):
    """Environments of rollouts, as the pool sees them (``rollout.environments``)."""

    def turns(self, groups: Sequence[Group]) -> Turns:
        """Who answers when one of the groups' rollouts has ended a turn; keys are rollout ids."""


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
    """Seconds in which they woke up the last time; their weights are not counted."""


class Pool:
    """Engines behind one front. ``spawn(i)`` makes engine i, not yet started; it is called again after each death.

    ``stop_token_ids`` end a response; ``seed`` is the run's; ``learner_dtype``: what the learner computes in. Use as a
    context manager, or ``close()`` it.
    """

    def __init__(
        self,
        spawn: Callable[[int], Engine],
        config: EngineConfig,
        rollout: RolloutConfig,
        stop_token_ids: Sequence[int] = (),
        seed: int = 0,
        learner_dtype: str = "float32",
    ) -> None:
        self.limits = limits(rollout, config.dtype, learner_dtype)
        self.config = config
        self.rollout = rollout
        self.stop_token_ids = tuple(stop_token_ids)
        self.seed = seed
        self._slots = [Slot(index, spawn, config) for index in range(config.count)]
        self.claim: Callable[[], None] = lambda: None
        """Called before engines are used: whoever has their devices meanwhile gives them up (``rl.turns``)."""
        self._sleep_s: float | None = None
        self._wake_s: float | None = None
        self._publication: Publication | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rollout-pool", daemon=True)
        self._thread.start()
        self._calls: set[asyncio.Task[Any]] = set()
        self._closed = False

    @property
    def version(self) -> WeightVersion:
        """Weights that the engines serve; 0 before the first publish."""
        return 0 if self._publication is None else self._publication.update.version

    def start(self) -> None:
        """Begin to load the engines and return at once; the first call that needs them waits. Optional."""
        for slot in self._slots:
            asyncio.run_coroutine_threadsafe(slot.ready(self._publication), self._loop)

    def wait(self) -> None:
        """Load the engines, unless they are, and return once each serves or is given up.

        Raises ``AllEnginesDead`` when none serves.
        """
        self.claim()
        self._run(lambda _: self._loaded())

    def reconfigure(self, rollout: RolloutConfig, seed: int) -> None:
        """Other limits and another seed for what is drawn from here on; the engines stay as they are."""
        self.rollout, self.seed = rollout, seed

    def calibrate(self, probe: Sequence[Sequence[int]], reference: Sequence[Sequence[float]]) -> None:
        """From now on an engine scores ``probe`` before it takes its first weights: what differs there is rounding.

        ``reference`` [n][len - 1]: log-probs by the learner with the weights that the engines are loaded with.
        """
        for slot in self._slots:
            slot.calibration = Calibration(probe, reference)

    def publish(
        self, update: WeightUpdate, probe: Sequence[Sequence[int]], reference: Sequence[Sequence[float]]
    ) -> PublishReport:
        """Load new weights into all engines and check them on the probe (invariant 1).

        ``reference`` [n][len - 1]: the learner's log-probs of ``probe`` at temperature 1. Raises ``ParityError`` with
        both sides' numbers beyond what rounding explains, ``AllEnginesDead`` when no engine is left.
        """
        self.claim()
        return self._run(lambda _: self._publish(Publication(update, probe, reference, self.limits)))

    def withdraw(self) -> None:
        """Forget the weights published last: their learner is gone, and the copy with it. The next call publishes.

        An engine that is being started meanwhile waits for those, instead of failing again and again for the old ones.
        """
        self._run(lambda _: self._withdrawn())

    def extend(
        self,
        groups: Sequence[Group],
        version: WeightVersion,
        on_progress: Progress | None = None,
        on_finished: Callable[[Group], None] | None = None,
        episodes: Episodes | None = None,
    ) -> list[Group]:
        """Grow each unfinished rollout by at most one stretch of ``rollout.segment_tokens`` under ``version``.

        Tokens that a rollout already has under ``version`` count against the stretch. Groups over the age cap are
        force-finished. Every piece of progress goes to ``on_progress``, and then every group that is finished to
        ``on_finished`` while others still grow; both in this thread, before the call returns. With ``episodes`` the
        rollouts' environments answer each turn.
        """
        if version != self.version:
            raise ValueError(f"asked to sample under version {version}, but version {self.version} was published")
        context = self.config.max_model_len
        ends = self.stop_token_ids if episodes is not None else ()
        groups = fold(groups, (), version, self.rollout, context, ends)
        sampling = training_sampling(self.rollout, self.stop_token_ids)
        stretches = {
            stretch.request.key: stretch
            for group in groups
            for rollout in group.rollouts
            if (stretch := next_stretch(rollout, version, self.rollout, context, sampling, self.seed, ends))
        }
        growing = Growing(groups, stretches.keys(), on_finished or (lambda _: None))

        def rested(done: Completion) -> None:
            growth = Growth(done.segments, done.stop, done.failures, done.score)
            growing.settle(done.key, lambda rollout: grown(rollout, growth, self.rollout, context, ends))

        turns = episodes.turns(groups) if episodes is not None else None
        self._draw([*stretches.values()], on_progress, rested, turns)
        return growing.groups

    def generate(
        self,
        requests: Sequence[Request],
        on_progress: Progress | None = None,
        on_rest: Callable[[Completion], None] | None = None,
        turns: Turns | None = None,
    ) -> list[Completion]:
        """Draw every request to its end; completions in the order of the requests.

        Every piece of progress goes to ``on_progress``, and every request that has come to rest to ``on_rest``, in this
        thread. ``turns``: who answers when the policy has ended a turn. A request that failed ``rollout.max_failures``
        times is returned as it is, with its error. Raises ``AllEnginesDead`` when no engine is left.
        """
        found: dict[str, Completion] = {}

        def rested(done: Completion) -> None:
            found[done.key] = done
            if on_rest is not None:
                on_rest(done)

        self._draw([Stretch(request) for request in requests], on_progress, rested, turns)
        return [found[request.key] for request in requests]

    def _draw(
        self,
        stretches: Sequence[Stretch],
        on_progress: Progress | None,
        on_rest: Callable[[Completion], None],
        turns: Turns | None,
    ) -> None:
        def take(news: News) -> None:
            if isinstance(news, Completion):
                on_rest(news)
            elif on_progress is not None:
                on_progress(news)

        if stretches:
            self.claim()
            self._run(lambda emit: self._generate(stretches, emit, turns), take)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return the log-prob of each token but the first, at temperature 1, in nats; [n][len - 1]."""
        self.claim()
        return self._run(lambda _: self._score(sequences))

    def sleep(self) -> None:
        """Let all engines give their devices up, and start none until ``wake``. Idempotent.

        Until then the pool tells its statistics and closes; what needs an engine raises ``RuntimeError``.
        """
        self._sleep_s = self._timed(lambda slot: slot.sleep())

    def wake(self) -> None:
        """Let the engines take their devices again; they have weights when they are next used. Idempotent.

        One that died in its sleep is found here, and replaced when it is next used.
        """
        self._wake_s = self._timed(lambda slot: slot.wake())

    def _timed(self, change: Callable[[Slot], Coroutine[Any, Any, None]]) -> float:
        """Do something with every slot and return the seconds that it took."""
        began = time.monotonic()

        async def all_slots() -> None:
            await asyncio.gather(*(change(slot) for slot in self._slots))

        self._run(lambda _: all_slots())
        return time.monotonic() - began

    def stats(self) -> PoolStats:
        """Counters; an engine found dead here is replaced when it is next needed."""
        return self._run(lambda _: self._stats())

    def close(self) -> None:
        """Stop all engines. Idempotent; takes at most ``CLOSE_S`` seconds."""
        if self._closed:
            return
        self._closed = True
        future = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
        try:
            future.result(CLOSE_S)
        except TimeoutError:
            future.cancel()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(1.0)
            if not self._thread.is_alive():
                self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- in the caller's thread ----

    def _run(
        self,
        work: Callable[[Callable[[News], None]], Coroutine[Any, Any, T]],
        on_progress: Callable[[News], None] | None = None,
    ) -> T:
        """Run ``work`` on the pool's loop and wait; its progress is handed to ``on_progress`` in this thread.

        If waiting is cut short, the work is cancelled, and its last tokens are recorded too unless recording failed.
        """
        if self._closed:
            raise RuntimeError("the pool is closed")
        news: queue.SimpleQueue[News | None] = queue.SimpleQueue()

        async def run() -> T:
            call = asyncio.current_task()
            assert call is not None
            self._calls.add(call)
            try:
                return await work(news.put)
            finally:
                self._calls.discard(call)
                news.put(None)

        future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            drain(news, on_progress)
        except BaseException as error:
            future.cancel()
            with contextlib.suppress(queue.Empty):
                drain(news, None if isinstance(error, Exception) else tokens_only(on_progress), 2 * CLEAR_S)
            raise
        return future.result()

    # ---- on the pool's loop ----

    async def _publish(self, publication: Publication) -> PublishReport:
        """Have every slot take the weights; the version counts once all have, and the probe has passed on each."""
        began = time.monotonic()
        await asyncio.gather(*(slot.settled() for slot in self._slots))
        alive = await asyncio.gather(*(slot.check(self.config.call_timeout_s) for slot in self._slots))
        roster = [slot.index for slot, lives in zip(self._slots, alive, strict=True) if lives]
        await asyncio.gather(*(slot.adopt(publication, roster) for slot in self._slots))
        self._serving()
        self._publication = publication
        return PublishReport(
            version=publication.update.version,
            seconds=time.monotonic() - began,
            bytes=publication.update.payload.get("size", 0),
            max_gap=max(slot.gap.largest for slot in self._serving()),
            mean_gap=max(slot.gap.mean for slot in self._serving()),
        )

    async def _withdrawn(self) -> None:
        self._publication = None
        for slot in self._slots:
            slot.withdraw()

    async def _loaded(self) -> None:
        await asyncio.gather(*(slot.ready(self._publication) for slot in self._slots))
        self._serving()

    def _serving(self) -> list[Slot]:
        """Return the slots with a live engine; raises ``AllEnginesDead`` when there are none."""
        slots = [slot for slot in self._slots if slot.engine is not None]
        if not slots:
            errors = [slot.last_error for slot in self._slots if slot.last_error]
            raise AllEnginesDead(
                f"all {len(self._slots)} rollout engines are dead: {self.config.max_restarts} restarts in a row, or "
                f"restarts in so many iterations in a row, did not help; last error: "
                f"{errors[-1] if errors else 'none recorded'}"
            )
        return slots

    async def _generate(self, stretches: Sequence[Stretch], emit: Callable[[News], None], turns: Turns | None) -> None:
        most, context = self.rollout.max_failures, self.config.max_model_len
        board = Board(stretches, self.version, most, context, emit, emit, turns)
        workers = {asyncio.create_task(self._work(slot, board)) for slot in self._slots}
        try:
            running = workers
            while running and board.unfinished:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for worker in done:
                    worker.result()
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await board.close()
            await asyncio.gather(*(slot.clear(board, CLEAR_S) for slot in self._slots))
        if board.unfinished:
            self._serving()

    async def _work(self, slot: Slot, board: Board) -> None:
        """Keep one slot busy with the board, through any number of engines, until the board is empty."""
        while board.unfinished and await slot.ready(self._publication):
            try:
                await slot.serve(board, lambda slot: self._share(slot, board))
            except EngineError as error:
                board.give_back(sorted(slot.in_flight), f"engine {slot.index} failed: {error}")
                await slot.lose(error)

    def _share(self, slot: Slot, board: Board) -> int:
        """Return how many more requests this slot may take: an even share of what is left, and a few more than it can
        decode.

        A single engine gets everything at once and schedules it itself, so what it batches together depends only on the
        order of the requests.
        """
        if len(self._slots) == 1:
            return board.waiting
        live = sum(other.engine is not None for other in self._slots)
        most = self.config.max_concurrency + self.config.max_concurrency // 8
        return min(-(-board.unfinished // live), most) - len(slot.in_flight)

    async def _score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        for slot in self._slots:
            while await slot.ready(self._publication):
                engine = slot.engine
                assert engine is not None
                try:
                    return await limited(engine.score(sequences), self.config.call_timeout_s, "scoring")
                except EngineError as error:
                    await slot.lose(error)
        self._serving()
        raise AssertionError("unreachable: a serving slot would have scored")

    async def _stats(self) -> PoolStats:
        found = []
        for slot in self._slots:
            if slot.engine is None:
                continue
            try:
                found.append(await limited(slot.engine.stats(), self.config.call_timeout_s, "health check"))
            except EngineError as error:
                await slot.lose(error)
        failures = sum(slot.failures for slot in self._slots)
        given_up = sum(slot.given_up for slot in self._slots)
        return PoolStats(tuple(found), failures, given_up, self._sleep_s, self._wake_s)

    async def _close(self) -> None:
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await asyncio.gather(*(slot.close() for slot in self._slots))
