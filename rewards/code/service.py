"""The code reward as a service: Ray actors, each with a sandbox of its own, behind one bounded queue.

A driver that judges faster than it samples needs none of this: ``verify_code`` in its own process does. The service
(``reward.judges``) spreads judging over the machines of a cluster, and survives their loss: a response whose worker
died is judged again elsewhere, and one that cannot be judged is ungradable, never wrong (invariant 3).
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from rewards.code.types import SandboxFacts, SandboxFailure
from rewards.reference import Reference
from rewards.score import Score

_HEALTH_WITHIN_S = 10.0
_START_WITHIN_S = 120.0


class QueueFull(Exception):
    """The service has as much work as it accepts: wait, or sample less."""


@dataclass(frozen=True)
class ServiceConfig:
    """The size of a service."""

    workers: int = 1
    """Ray actors."""
    slots: int = 2
    """Programs that run at one time in a worker, and responses that it judges at one time."""
    queue: int = 64
    """Responses that wait; ``submit`` blocks when there are as many."""
    sandbox: str = "auto"
    """See ``open_sandbox``."""
    cpus: float = 0.0
    """CPUs that Ray reserves for a worker."""
    retries: int = 1
    """Times that a response is given to another worker after its own died."""
    patience_s: float = 900.0
    """Longest that a worker may take for one response, all tests together; then it counts as hung."""


@dataclass(frozen=True)
class WorkerHealth:
    """One worker, just now."""

    alive: bool
    """It answers, and its sandbox's supervisor lives."""
    pid: int = 0
    facts: SandboxFacts | None = None
    judged: int = 0
    """Responses judged by this process."""
    sandbox_restarts: int = 0
    reason: str = ""
    """Why it is not alive."""


@dataclass(frozen=True)
class ServiceStatistics:
    """Counts since the start; times are sums of seconds."""

    accepted: int = 0
    refused: int = 0
    """``QueueFull``."""
    finished: int = 0
    ungradable: int = 0
    retried: int = 0
    """Judged again after a worker's death."""
    restarts: int = 0
    """Workers replaced."""
    waited_s: float = 0.0
    """Between acceptance and a worker."""
    judging_s: float = 0.0
    waiting: int = 0
    """In the queue now."""
    running: int = 0
    """With a worker now."""


class JudgeWorker:
    """What runs in an actor."""

    def __init__(self, sandbox: str, slots: int) -> None:
        """Raises ``SandboxFailure``."""
        from rewards.code.sandbox import open_sandbox, share

        self._sandbox = open_sandbox(sandbox, slots)
        share(self._sandbox)
        self._judged = 0

    def judge(self, response: str, reference: Reference) -> Score:
        """See ``verify_code``."""
        from rewards.code.verify import verify_code

        score = verify_code(response, reference)
        self._judged += 1
        return score

    def health(self) -> WorkerHealth:
        """Answers also while all slots are busy."""
        sandbox = self._sandbox
        return WorkerHealth(sandbox.alive, os.getpid(), sandbox.describe(), self._judged, sandbox.restarts)


@dataclass(frozen=True)
class _Item:
    response: str
    reference: Reference
    future: Future[Score]
    accepted: float


class _Seat:
    """Where a worker sits; the actor in it changes when it dies."""

    def __init__(self, config: ServiceConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self.actor = self._hire()

    def _hire(self) -> Any:
        import ray

        options = {
            "num_cpus": self._config.cpus,
            "max_concurrency": self._config.slots + 1,
            "max_restarts": 0,
            "scheduling_strategy": "SPREAD",
        }
        return ray.remote(JudgeWorker).options(**options).remote(self._config.sandbox, self._config.slots)

    def replace(self, dead: Any) -> bool:
        """A new actor in place of ``dead``; False when another thread has seen to that."""
        import ray

        with self._lock:
            if self.actor is not dead:
                return False
            ray.kill(dead)
            self.actor = self._hire()
            return True


class JudgeService:
    """Judges responses on Ray workers. Needs an initialised Ray; safe to use from any thread; close it when done."""

    def __init__(self, config: ServiceConfig) -> None:
        """Raises ``SandboxFailure`` when a worker cannot open its sandbox."""
        import ray

        self.config = config
        self._queue: queue.Queue[_Item | None] = queue.Queue(config.queue)
        self._counts = ServiceStatistics()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._seats = [_Seat(config) for _ in range(config.workers)]
        try:
            ray.get([seat.actor.health.remote() for seat in self._seats], timeout=_START_WITHIN_S)
        except ray.exceptions.RayError as error:
            for seat in self._seats:
                ray.kill(seat.actor)
            raise SandboxFailure(f"judge service does not start: {_last_line(error)}") from error
        self._threads = [
            threading.Thread(target=self._serve, args=(seat,), name="judge-service", daemon=True)
            for seat in self._seats
            for _ in range(config.slots)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, response: str, reference: Reference, wait_s: float | None = None) -> Future[Score]:
        """The score to come. Blocks while the queue is full, at most ``wait_s`` seconds: back-pressure.

        Raises ``QueueFull`` after that, and ``SandboxFailure`` when the service is closed. The future never raises:
        what cannot be judged is ungradable.
        """
        if self._closed.is_set():
            raise SandboxFailure("judge service: closed")
        item = _Item(response, reference, Future(), time.monotonic())
        try:
            self._queue.put(item, timeout=wait_s) if wait_s != 0 else self._queue.put_nowait(item)
        except queue.Full as full:
            self._count(refused=1)
            raise QueueFull(f"judge service: {self.config.queue} responses wait already") from full
        self._count(accepted=1)
        return item.future

    def judge(self, response: str, reference: Reference) -> Score:
        """The score of a response, as ``verify_code`` gives it; ungradable where that raises."""
        return self.submit(response, reference).result()

    def statistics(self) -> ServiceStatistics:
        """Counts up to now."""
        with self._lock:
            return replace(self._counts, waiting=self._queue.qsize())

    def health(self) -> tuple[WorkerHealth, ...]:
        """Every worker, asked just now; one that does not answer within 10 s is not alive."""
        import ray

        def one(seat: _Seat) -> WorkerHealth:
            try:
                found: WorkerHealth = ray.get(seat.actor.health.remote(), timeout=_HEALTH_WITHIN_S)
            except ray.exceptions.RayError as error:
                return WorkerHealth(False, reason=_last_line(error))
            return found

        return tuple(one(seat) for seat in self._seats)

    def close(self) -> None:
        """Stop at once; what was not judged is ungradable."""
        import ray

        if self._closed.is_set():
            return
        self._closed.set()
        for seat in self._seats:
            ray.kill(seat.actor)
        for thread in self._threads:
            while thread.is_alive():
                self._drain()
                with contextlib.suppress(queue.Full):
                    self._queue.put_nowait(None)
                thread.join(0.1)
        self._drain()

    def _drain(self) -> None:
        while not self._queue.empty():
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return
            if item:
                item.future.set_result(Score.ungradable("judge service: closed"))

    def _count(self, **more: float) -> None:
        with self._lock:
            self._counts = replace(self._counts, **{name: getattr(self._counts, name) + n for name, n in more.items()})

    def _serve(self, seat: _Seat) -> None:
        """One of a worker's slots: take a response, have it judged, hand out the score."""
        while (item := self._queue.get()) is not None:
            begun = time.monotonic()
            self._count(running=1, waited_s=begun - item.accepted)
            score = self._judge(seat, item)
            ended = time.monotonic()
            self._count(running=-1, finished=1, ungradable=int(not score.gradable), judging_s=ended - begun)
            item.future.set_result(score)

    def _judge(self, seat: _Seat, item: _Item) -> Score:
        import ray

        reason = ""
        for attempt in range(self.config.retries + 1):
            if self._closed.is_set():
                return Score.ungradable("judge service: closed")
            self._count(retried=int(attempt > 0))
            actor = seat.actor
            try:
                score: Score = ray.get(
                    actor.judge.remote(item.response, item.reference), timeout=self.config.patience_s
                )
            except ray.exceptions.RayTaskError as error:  # the verifier raised: the problem is at fault
                return Score.ungradable(_last_line(error))
            except ray.exceptions.GetTimeoutError:
                self._count(restarts=int(seat.replace(actor)))
                return Score.ungradable(f"judge service: no verdict within {self.config.patience_s:g} s")
            except ray.exceptions.RayError as error:
                reason = _last_line(error)
                if not self._closed.is_set():
                    self._count(restarts=int(seat.replace(actor)))
            else:
                return score
        return Score.ungradable(f"judge service: worker lost {self.config.retries + 1} times: {reason}")


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1][:300] if lines else type(error).__name__
