"""Streams of scripted engines, for the tests of what samples without a pause."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fake_engine import FakeEngine, Faults, seeded_script
from pool_kit import PROBE, config, logprob, reference, update

from rollout.config import RolloutConfig
from rollout.engine import Delta, Engine, Request, Sampling
from rollout.partial import Stretch
from rollout.pool.board import Completion, News
from rollout.pool.pool import Pool
from rollout.pool.stream import Stream
from rollout.types import Prompt, WeightVersion
from tests.processes import PATIENCE_S

SCRIPT = seeded_script(31)
"""Never the end token."""
UNBOUND = 10**9


class Paced(FakeEngine):
    """Draws at most ``quota`` tokens of a request under each version before ``free_from``: a response spans many."""

    default_quota = 3

    def __init__(self, faults: Faults | None = None, quota: int | None = None, free_from: int = UNBOUND) -> None:
        super().__init__(SCRIPT, logprob, faults, chunk=1)
        self.quota = self.default_quota if quota is None else quota
        self.free_from = free_from
        self._under: dict[tuple[str, int], int] = {}

    async def poll(self, wait_s: float) -> list[Delta]:
        """See ``Engine``."""
        deltas = await super().poll(wait_s)
        if not deltas:
            await asyncio.sleep(0.001)
        return deltas

    def _step(self, request: Request, drawn: list[int]) -> None:
        at = (request.key, self._draws)
        if self._draws < self.free_from and self._under.get(at, 0) >= self.quota:
            return
        self._under[at] = self._under.get(at, 0) + 1
        super()._step(request, drawn)


class InFlight(Paced):
    """Takes weights beneath its requests, and goes on drawing until it has them."""

    def __init__(self, faults: Faults | None = None, quota: int | None = None, free_from: int = UNBOUND) -> None:
        super().__init__(faults, quota, free_from)
        self.takes_in_flight = True


@dataclass
class Heard:
    """All that a stream told, in order, by request."""

    deltas: dict[str, list[Delta]] = field(default_factory=dict)
    done: dict[str, Completion] = field(default_factory=dict)

    def take(self, item: News) -> None:
        if isinstance(item, Completion):
            assert item.key not in self.done
            self.done[item.key] = item
            return
        for delta in item:
            assert delta.key not in self.done, "nothing comes after the end"
            self.deltas.setdefault(delta.key, []).append(delta)

    def tokens(self, key: str) -> list[int]:
        return [token for delta in self.deltas.get(key, ()) for token in delta.token_ids.tolist()]

    def versions(self, key: str) -> list[WeightVersion]:
        return [delta.version for delta in self.deltas.get(key, ()) for _ in delta.token_ids]

    def failures(self) -> int:
        return sum(bool(delta.error) for deltas in self.deltas.values() for delta in deltas)

    def check(self, stretches: Sequence[Stretch]) -> None:
        """Every token once, in its place, with the log-prob of the version that it names; versions never decrease."""
        for stretch in stretches:
            request = stretch.request
            tokens, versions = self.tokens(request.key), self.versions(request.key)
            assert tokens == SCRIPT(request)[: len(tokens)]
            assert versions == sorted(versions)
            probs = [float(p) for delta in self.deltas.get(request.key, ()) for p in delta.logprobs]
            before = request.prompt.token_ids.tolist()
            for i, (token, version, prob) in enumerate(zip(tokens, versions, probs, strict=True)):
                assert abs(prob - logprob([*before, *tokens[:i]], token, version)) < 1e-6
            if done := self.done.get(request.key):
                assert done.token_ids.tolist() == tokens


def stretches(count: int, tokens: int, name: str = "r", **changes: Any) -> list[Stretch]:
    return [
        Stretch(Request(f"{name}{i}", Prompt((1, 2, i)), tokens, Sampling(**changes), seed=hash_of(name, i)))
        for i in range(count)
    ]


def hash_of(name: str, index: int) -> int:
    return sum(map(ord, name)) * 1000 + index


def streaming(spawn: Callable[[int], Engine], **changes: Any) -> Pool:
    base = {"max_model_len": 512, "stall_timeout_s": 30.0, "call_timeout_s": 30.0, "max_restarts": 50}
    rollout = RolloutConfig(max_tokens=500, segment_tokens=500, max_failures=50, repetition=None)
    return Pool(spawn, config(**{**base, **changes}), rollout)


def publish(stream: Stream, version: WeightVersion) -> None:
    assert stream.publish(update(version), PROBE, reference(version)).version == version


def until(stream: Stream, heard: Heard, enough: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not enough():
        assert time.monotonic() < end, f"still waiting after {PATIENCE_S:.0f} s"
        for item in stream.news(1.0):
            heard.take(item)


def all_moved(heard: Heard, work: Sequence[Stretch], version: WeightVersion) -> Callable[[], bool]:
    """Whether each request rests, or has tokens of ``version``."""
    return lambda: all(
        each.request.key in heard.done or version in heard.versions(each.request.key)[-1:] for each in work
    )


def all_rest(heard: Heard, work: Sequence[Stretch]) -> Callable[[], bool]:
    return lambda: all(each.request.key in heard.done for each in work)
