"""A scripted engine for tests: no model, exact tokens, and faults on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rollout.engine import Delta, EngineDead, EngineStats, Request, WeightsLost, WeightUpdate
from rollout.engines.mailbox import Mailbox
from rollout.engines.rest import Rest
from rollout.partial import repeats
from rollout.seeds import seed_of
from rollout.types import StopReason, WeightVersion

Script = Callable[[Request], Sequence[int]]
"""The tokens that a request would get with an endless budget."""
Logprob = Callable[[Sequence[int], int, int], float]
"""(tokens before, token, weight version) -> nats."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong, counted in tokens handed out since start."""

    fail_start: bool = False
    """``start`` raises ``EngineDead``."""
    fail_sleep: bool = False
    """``sleep`` raises ``EngineDead``."""
    die_asleep: bool = False
    """Dead for good once it sleeps, which nobody is told."""
    fail_wake: bool = False
    """``wake`` raises ``EngineDead``."""
    fail_update: bool = False
    """``update_weights`` raises ``EngineDead``."""
    lose_direct: bool = False
    """``update_weights`` raises ``WeightsLost`` for an update with a direct way."""
    ignore_updates: bool = False
    """``update_weights`` reports success but changes nothing except the version: log-probs stay stale."""
    lags: bool = False
    """The newest weights are served to the probe alone: tokens are drawn by those before, and say so."""
    die_after: int | None = None
    """Dead for good after so many tokens."""
    stall_after: int | None = None
    """Silent, but alive, after so many tokens."""
    error_keys: frozenset[str] = frozenset()
    """Requests that end with an error after their first token."""


def seeded_script(vocab: int = 32) -> Script:
    """Endless pseudo-random tokens in 0..vocab-1 that depend only on the request's seed and the position."""

    def script(request: Request) -> list[int]:
        start = len(request.prompt)
        return [seed_of(request.seed, start + i) % vocab for i in range(request.max_new_tokens)]

    return script


def flat_logprob(_before: Sequence[int], _token: int, _version: int) -> float:
    """One nat for every token, whatever the weights."""
    return -1.0


class FakeEngine:
    """Hands out ``chunk`` tokens per request and poll, in submission order.

    Stop tokens, budgets and repetition act as in the real engines. So does an update with requests in flight, where
    ``takes_in_flight``: they draw another ``chunk`` under the weights before, which nobody has polled yet.
    """

    def __init__(
        self,
        script: Script | None = None,
        logprob: Logprob = flat_logprob,
        faults: Faults | None = None,
        chunk: int = 4,
        takes_in_flight: bool = False,
    ) -> None:
        self.script = script or seeded_script()
        self.logprob = logprob
        self.faults = faults or Faults()
        self.chunk = chunk
        self.takes_in_flight = takes_in_flight
        self.closed = False
        self.updates: list[WeightUpdate] = []
        """Updates that were begun."""
        self._open: dict[str, tuple[Request, list[int]]] = {}
        self._version = 0
        self._weights = 0
        self._draws = 0
        self._bytes = 0
        self._started = False
        self._dead = False
        self.rest = Rest()

    async def start(self) -> None:
        """See ``Engine``."""
        if self.faults.fail_start:
            raise EngineDead("fake engine: told not to start")
        self._mail = Mailbox()
        self._started = True

    async def submit(self, requests: Sequence[Request]) -> None:
        """See ``Engine``."""
        self._check_alive()
        self.rest.awake()
        for request in requests:
            self._mail.open(request.key)
            self._open[request.key] = (request, [])

    async def poll(self, wait_s: float) -> list[Delta]:
        """See ``Engine``. Makes its progress here, so that tests are deterministic."""
        self._check_alive()
        self._advance()
        if self._open and self._spent(self.faults.stall_after):
            await asyncio.sleep(wait_s)
        deltas = await self._mail.take(0)
        if not deltas:
            self._check_alive()
            await asyncio.sleep(0)
        return deltas

    def _advance(self) -> None:
        """Draw up to ``chunk`` tokens of every request."""
        for request, drawn in list(self._open.values()):
            for _ in range(self.chunk):
                if request.key not in self._open or self._spent(self.faults.stall_after):
                    break
                if self._spent(self.faults.die_after):
                    self._dead = True
                    break
                self._step(request, drawn)

    def _step(self, request: Request, drawn: list[int]) -> None:
        """Draw one token of a request."""
        tokens = self.script(request)
        if len(drawn) >= len(tokens):
            self._end(request.key, error="fake engine: the script is too short")
            return
        before = [*request.prompt.token_ids.tolist(), *drawn]
        token = tokens[len(drawn)]
        drawn.append(token)
        weights = self._draws if self.faults.lags else self._weights
        self._mail.put(request.key, [token], [self.logprob(before, token, weights)], self._draws)
        s = request.sampling
        if request.key in self.faults.error_keys:
            self._end(request.key, error="fake engine: told to fail this request")
        elif token in s.stop_token_ids:
            self._end(request.key, StopReason.EOS)
        elif len(drawn) >= request.max_new_tokens:
            self._end(request.key)
        elif repeats(drawn, s.repetition_min_pattern, s.repetition_max_pattern, s.repetition_count):
            self._end(request.key, StopReason.REPETITION)

    def _end(self, key: str, stop: StopReason | None = None, error: str = "") -> None:
        del self._open[key]
        self._mail.end(key, self._draws, stop, error)

    def _spent(self, limit: int | None) -> bool:
        return limit is not None and self._mail.tokens >= limit

    async def abort(self, keys: Sequence[str]) -> None:
        """See ``Engine``; such requests end with the error ``aborted``."""
        self._check_alive()
        for key in keys:
            if key in self._open:
                self._end(key, error="aborted")

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See ``Engine``."""
        self._check_alive()
        self.rest.awake()
        return [[self.logprob(s[:t], s[t], self._weights) for t in range(1, len(s))] for s in sequences]

    async def update_weights(self, update: WeightUpdate) -> None:
        """See ``Engine``. The payload is not read: log-probs depend on the version alone."""
        self._check_alive()
        self.rest.awake(bare=True)
        if self.faults.fail_update:
            raise EngineDead("fake engine: told not to take weights")
        if self._open and not self.takes_in_flight:
            raise ValueError(f"weights cannot change with {len(self._open)} requests in flight")
        self.updates.append(update)
        if self.faults.lose_direct and "direct" in update.payload:
            raise WeightsLost("fake engine: a peer is missing")
        await self.hold(update.version)
        self._advance()
        self._check_alive()
        self._draws = self._version if self.faults.lags else update.version
        self._version = update.version
        self.rest.bare = False
        self._bytes = update.payload.get("size", 0)
        if not self.faults.ignore_updates:
            self._weights = update.version

    async def hold(self, version: WeightVersion) -> None:
        """Called while an update is taken; tests replace it."""

    async def stats(self) -> EngineStats:
        """See ``Engine``."""
        self._check_alive()
        return self._mail.stats(self._version, self._bytes)

    async def sleep(self, level: int) -> None:
        """See ``Engine``."""
        self._check_alive()
        if self.faults.fail_sleep:
            raise EngineDead("fake engine: told not to fall asleep")
        if not self.rest.level:
            self.rest.fall_asleep(level, self._open)
        self._dead = self.faults.die_asleep

    async def wake(self) -> None:
        """See ``Engine``."""
        self._check_alive()
        if self.faults.fail_wake:
            raise EngineDead("fake engine: told not to wake")
        self.rest.level = 0

    async def close(self) -> None:
        """See ``Engine``."""
        self.closed = True

    def _check_alive(self) -> None:
        if self._dead or self.closed or not self._started:
            raise EngineDead("fake engine: dead, closed or not started")
