"""An engine and a learner whose work takes time on a simulated clock. What they draw and learn is nothing."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.overlap.clock import Clock
from benchmarks.overlap.machine import Engine, Lengths
from rl.learner.stats import IterationStats
from rl.state.checkpoint import Sum
from rollout.engine import Delta, EngineStats, Request, WeightUpdate
from rollout.engines.mailbox import Mailbox
from rollout.types import Group, StopReason, WeightVersion

LOGPROB = -1.0
"""Of every token, by either."""
PIECE = 64
"""Tokens after which a response that goes on is told of, as real engines do."""
GATHER_S = 0.1
"""Simulated seconds for which a poll gathers; twice what real ones do, which halves what the simulation costs."""


class _Running:
    """A response that is being decoded. Steps are counted from the engine's start."""

    __slots__ = ("begun", "end", "had", "key", "stop", "told")

    def __init__(self, request: Request, begun: int, lengths: Lengths) -> None:
        group, has = int(request.prompt.token_ids[0]), len(request.prompt) - 1
        left = lengths.of(group, int(request.key.rpartition("/")[2])) - has
        self.key, self.had = request.key, len(request.prompt)
        self.begun, self.told = begun, 0
        self.end = begun + min(left, request.max_new_tokens)
        self.stop = StopReason.EOS if left <= request.max_new_tokens else None

    def __lt__(self, other: _Running) -> bool:
        return self.end < other.end


class SimulatedEngine:
    """Continuous batching: requests wait in line for a slot, and all in slots get a token a step.

    The first token of a prompt names its group, by which the length of the response is known. What was read or drawn
    under the present weights is in the prefix cache. ``keep``: weights come in flight, and old keys and values stay;
    without it all requests are taken back, asked for again, and read again.
    """

    def __init__(self, clock: Clock, costs: Engine, lengths: Lengths, keep: bool = False) -> None:
        self.clock, self.costs, self.lengths = clock, costs, lengths
        self.takes_in_flight = keep
        self.busy_s = 0.0
        """Seconds at work so far."""
        self.sequences_s = 0.0
        """The same, times sequences."""
        self._waiting: deque[Request] = deque()
        self._running: list[_Running] = []  # a heap
        self._step = 0
        self._since = 0.0
        """Up to when work is accounted for."""
        self._version = 0
        self._cached: dict[str, int] = {}
        """Tokens in the prefix cache, by request."""

    async def start(self) -> None:
        """See ``Engine``."""
        self._mail, self._news = Mailbox(), asyncio.Event()

    async def submit(self, requests: Sequence[Request]) -> None:
        """See ``Engine``."""
        self._go_on()
        for request in requests:
            self._mail.open(request.key)
        self._waiting += requests

    async def poll(self, wait_s: float) -> list[Delta]:
        """See ``Engine``. As real ones it gathers for a moment what it hands out."""
        self._news.clear()
        await self.clock.until(self.clock.now + min(wait_s, GATHER_S), self._news)
        self._go_on()
        self._tell(PIECE)
        return await self._mail.take(0)

    def _go_on(self) -> None:
        """Do what there was to do up to now."""
        now = self.clock.now
        if not self._running and not self._waiting:
            self._since = max(self._since, now)
        while (self._running or self._waiting) and self._since < now:
            self._fill()
            count, each = len(self._running), self.costs.step(len(self._running))
            steps = min(self._running[0].end - self._step, int((now - self._since) / each + 1e-9))
            if steps < 1:
                break
            self._step += steps
            self._spend(steps * each, count)
            while self._running and self._running[0].end == self._step:
                self._end(heapq.heappop(self._running))
            if not self._running and not self._waiting:
                self._since = max(self._since, now)

    def _fill(self) -> None:
        """Put what waits into free slots, and read its tokens."""
        read = 0
        while self._waiting and len(self._running) < self.costs.slots:
            request = self._waiting.popleft()
            read += len(request.prompt) - self._cached.pop(request.key, 0)
            heapq.heappush(self._running, _Running(request, self._step, self.lengths))
        self._spend(read * self.costs.prefill_s, len(self._running))

    def _spend(self, seconds: float, sequences: int) -> None:
        self._since += seconds
        self.busy_s += seconds
        self.sequences_s += seconds * sequences

    def _tell(self, least: int = 1) -> None:
        for running in self._running:
            self._put(running, least)

    def _put(self, running: _Running, least: int = 1) -> None:
        drawn = self._step - running.begun - running.told
        if drawn >= least:
            running.told += drawn
            tokens = np.zeros(drawn, np.int32)
            self._mail.put(running.key, tokens, np.full(drawn, LOGPROB, np.float32), self._version)

    def _end(self, running: _Running) -> None:
        self._put(running)
        self._cache(running)
        self._mail.end(running.key, self._version, running.stop)

    def _cache(self, running: _Running) -> None:
        self._cached[running.key] = running.had + self._step - running.begun

    async def abort(self, keys: Sequence[str]) -> None:
        """See ``Engine``."""
        self._go_on()
        self._tell()
        dropped = self._mail.in_flight.intersection(keys)
        for running in self._running:
            if running.key in dropped:
                self._cache(running)
        self._running = [running for running in self._running if running.key not in dropped]
        heapq.heapify(self._running)
        self._waiting = deque(request for request in self._waiting if request.key not in dropped)
        for key in keys:
            if key in dropped:
                self._mail.end(key, self._version, error="aborted")
        self._news.set()

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See ``Engine``."""
        return [[LOGPROB] * (len(tokens) - 1) for tokens in sequences]

    async def update_weights(self, update: WeightUpdate) -> None:
        """See ``Engine``."""
        self._go_on()
        self._tell()
        await self.clock.until(self.clock.now + self.costs.publish_s)
        self._since = self.clock.now
        self._version = update.version
        self._cached.clear()

    async def stats(self) -> EngineStats:
        """See ``Engine``."""
        return EngineStats(self._version, self._mail.tokens, self._mail.requests, self.busy_s)

    async def close(self) -> None:
        """See ``Engine``."""


class SimulatedLearner:
    """Takes ``token_s`` seconds for each response token."""

    def __init__(self, clock: Clock, token_s: float) -> None:
        self.clock, self.token_s = clock, token_s
        self.busy_s = 0.0
        self.trained: list[tuple[float, int, int]] = []
        """By iteration: when it was done, responses and tokens."""
        self._tokens = self._samples = 0

    def publish(self, version: WeightVersion) -> WeightUpdate:
        """See ``Policy``."""
        return WeightUpdate(version, "local", {"size": 0})

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See ``Policy``."""
        return [[LOGPROB] * (len(tokens) - 1) for tokens in sequences]

    def train(
        self, groups: Sequence[Group], advantages: Sequence[Sequence[float | None]], version: WeightVersion
    ) -> IterationStats:
        """See ``Policy``."""
        self.accumulate(groups, advantages, version)
        return self.close_iteration(version)

    def accumulate(
        self, groups: Sequence[Group], _advantages: Sequence[Sequence[float | None]], _version: WeightVersion
    ) -> None:
        """See ``Policy``."""
        tokens = sum(rollout.length for group in groups for rollout in group.rollouts)
        self.clock.sleep(tokens * self.token_s)
        self.busy_s += tokens * self.token_s
        self._tokens += tokens
        self._samples += sum(len(group.rollouts) for group in groups)

    def close_iteration(self, _version: WeightVersion) -> IterationStats:
        """See ``Policy``."""
        done = (self.clock.now, self._samples, self._tokens)
        self.trained.append(done)
        self._tokens = self._samples = 0
        return IterationStats({"tokens/trained": done[2]})

    def save(self, folder: Path) -> None:
        """See ``Saves``; there is nothing to keep."""

    def saving(self) -> bool:
        """See ``Saves``."""
        return False

    def saved(self) -> Mapping[str, Sum]:
        """See ``Saves``."""
        return {}
