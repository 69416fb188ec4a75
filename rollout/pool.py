"""The pool: one synchronous front for all engines. It routes, balances, retries and restarts, and never waits for ever.

An event loop in a thread of its own talks to the engines; callers block in plain functions and may be interrupted at any
time (Ctrl-C, ``rl.stop.Interrupted``): requests in flight are dropped, the tokens drawn so far still reach
``on_progress``, and the pool stays usable and closable. Imports neither Ray nor vLLM.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from rollout.board import Board, Completion, Progress
from rollout.config import EngineConfig, RolloutConfig
from rollout.engine import AllEnginesDead, Delta, Engine, EngineError, EngineStats, ParityError, Request, WeightUpdate
from rollout.partial import fold, next_request, training_sampling
from rollout.slot import Publication, Slot, limited
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


@dataclass(frozen=True)
class PoolStats:
    """Counters since the pool began."""

    engines: tuple[EngineStats, ...]
    """Of the engines that serve now."""
    failures: int
    """Engines lost so far; each was restarted unless ``given_up`` says otherwise."""
    given_up: int
    """Slots whose engine could not be kept alive."""


class Pool:
    """Engines behind one front. ``spawn(i)`` makes engine i, not yet started; it is called again after each death.

    ``stop_token_ids`` end a response; ``seed`` is the run's. Use as a context manager, or ``close()`` it.
    """

    def __init__(
        self,
        spawn: Callable[[int], Engine],
        config: EngineConfig,
        rollout: RolloutConfig,
        stop_token_ids: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        self.config = config
        self.rollout = rollout
        self.stop_token_ids = tuple(stop_token_ids)
        self.seed = seed
        self._slots = [Slot(index, spawn, config) for index in range(config.count)]
        self._publication: Publication | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rollout-pool", daemon=True)
        self._thread.start()
        self._closed = False

    @property
    def version(self) -> WeightVersion:
        """Weights that the engines serve; 0 before the first publish."""
        return 0 if self._publication is None else self._publication.update.version

    def start(self) -> None:
        """Begin to load the engines and return at once; the first call that needs them waits. Optional."""
        for slot in self._slots:
            asyncio.run_coroutine_threadsafe(slot.ready(self._publication), self._loop)

    def publish(
        self, update: WeightUpdate, probe: Sequence[Sequence[int]], reference: Sequence[Sequence[float]]
    ) -> PublishReport:
        """Load new weights into all engines and check them on the probe (invariant 1).

        ``reference`` [n][len - 1]: the learner's log-probs of ``probe`` at temperature 1. Raises ``ParityError`` with
        both numbers above ``rollout.parity_bound``, ``AllEnginesDead`` when no engine is left.
        """
        return self._run(lambda _: self._publish(Publication(update, probe, reference, self.rollout.parity_bound)))

    def extend(self, groups: Sequence[Group], version: WeightVersion, on_progress: Progress | None = None) -> list[Group]:
        """Each unfinished rollout grows by at most one stretch of ``rollout.segment_tokens`` under ``version``.

        Tokens that a rollout already has under ``version`` count against the stretch. Groups over the age cap are
        force-finished. Every piece of progress goes to ``on_progress``, in this thread, before the call returns.
        """
        if version != self.version:
            raise ValueError(f"asked to sample under version {version}, but version {self.version} was published")
        context = self.config.max_model_len
        groups = fold(groups, (), version, self.rollout, context)
        sampling = training_sampling(self.rollout, self.stop_token_ids)
        requests = [
            request
            for group in groups
            for rollout in group.rollouts
            if (request := next_request(rollout, version, self.rollout, context, sampling, self.seed))
        ]
        progress: list[Delta] = []

        def record(deltas: list[Delta]) -> None:
            if on_progress is not None:
                on_progress(deltas)
            progress.extend(deltas)

        self.generate(requests, record)
        return fold(groups, progress, version, self.rollout, context)

    def generate(self, requests: Sequence[Request], on_progress: Progress | None = None) -> list[Completion]:
        """Draw every request to its end; completions in the order of the requests.

        A request that failed ``rollout.max_failures`` times is returned as it is, with its error. Raises
        ``AllEnginesDead`` when no engine is left.
        """
        if not requests:
            return []
        return self._run(lambda emit: self._generate(requests, emit), on_progress)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-prob of each token but the first, at temperature 1, in nats; [n][len - 1]."""
        return self._run(lambda _: self._score(sequences))

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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # ---- in the caller's thread ----

    def _run(self, work: Callable[[Progress], Coroutine[Any, Any, T]], on_progress: Progress | None = None) -> T:
        """Run ``work`` on the pool's loop and wait; its progress is handed to ``on_progress`` in this thread."""
        if self._closed:
            raise RuntimeError("the pool is closed")
        news: queue.SimpleQueue[list[Delta] | None] = queue.SimpleQueue()
        future = asyncio.run_coroutine_threadsafe(work(news.put), self._loop)
        future.add_done_callback(lambda _: news.put(None))
        with self._cancelled_on_error(future, news, on_progress):
            while (deltas := news.get()) is not None:
                if on_progress is not None:
                    on_progress(deltas)
        return future.result()

    @contextmanager
    def _cancelled_on_error(
        self,
        future: concurrent.futures.Future[T],
        news: queue.SimpleQueue[list[Delta] | None],
        on_progress: Progress | None,
    ) -> Iterator[None]:
        """If waiting is cut short (an interrupt, a full disk), cancel the work and record what it still delivers."""
        try:
            yield
        except BaseException:
            future.cancel()
            done = asyncio.run_coroutine_threadsafe(self._cleared(), self._loop)
            done.add_done_callback(lambda _: news.put(None))
            while (deltas := news.get()) is not None or not done.done():
                if deltas and on_progress is not None:
                    on_progress(deltas)
            raise

    # ---- on the pool's loop ----

    async def _cleared(self) -> None:
        """Return when a cancelled call has left the engines."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        clearing = [task for task in others if task.get_name() == "clear"]
        await asyncio.wait([asyncio.create_task(asyncio.sleep(0)), *clearing], timeout=2 * CLEAR_S)

    async def _publish(self, publication: Publication) -> PublishReport:
        began = time.monotonic()
        await asyncio.gather(*(slot.ready(self._publication) for slot in self._slots))
        self._publication = publication
        await asyncio.gather(*(slot.adopt(publication) for slot in self._slots))
        serving = self._serving()
        return PublishReport(
            version=publication.update.version,
            seconds=time.monotonic() - began,
            bytes=publication.update.payload.get("size", 0),
            max_gap=max(slot.gap for slot in serving),
        )

    def _serving(self) -> list[Slot]:
        """Slots with a live engine; raises ``AllEnginesDead`` when there are none."""
        slots = [slot for slot in self._slots if slot.engine is not None]
        if not slots:
            errors = [slot.last_error for slot in self._slots if slot.last_error]
            raise AllEnginesDead(
                f"all {len(self._slots)} rollout engines are dead and {self.config.max_restarts} restarts in a row did "
                f"not help; last error: {errors[-1] if errors else 'none recorded'}"
            )
        return slots

    async def _generate(self, requests: Sequence[Request], emit: Progress) -> list[Completion]:
        board = Board(requests, self.version, self.rollout.max_failures, emit)
        workers = [asyncio.create_task(self._work(slot, board)) for slot in self._slots]
        try:
            await self._all_served(board, workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            clearing = asyncio.create_task(self._clear(board), name="clear")
            await asyncio.shield(clearing)
        if board.unfinished:
            self._serving()
        return board.completions()
