"""Pools of scripted engines, for the tests of the pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from factories import problem
from fake_engine import FakeEngine, Faults, seeded_script

from rollout.config import EngineConfig, RolloutConfig
from rollout.engine import (
    Engine,
    WeightUpdate,
)
from rollout.pool.pool import Pool
from rollout.types import Group, Prompt, Rollout

EOS = 31


ROLLOUT = RolloutConfig(segment_tokens=12, max_tokens=30, max_failures=3, repetition=None)


def config(**changes: Any) -> EngineConfig:
    base = {"kind": "hf", "max_model_len": 64, "stall_timeout_s": 0.5, "call_timeout_s": 2.0, "start_timeout_s": 2.0}
    return EngineConfig(**{**base, **changes})


def logprob(before: Sequence[int], token: int, version: int) -> float:
    return -1.0 - 0.5 * version - 0.001 * ((len(before) * 7 + token) % 50)


def engine(faults: Faults | None = None, chunk: int = 4) -> FakeEngine:
    return FakeEngine(seeded_script(32), logprob, faults, chunk)


def make_groups(count: int = 3, k: int = 4, born: int = 0) -> list[Group]:
    return [
        Group(f"{g:06d}.0", problem(g), tuple(Rollout(f"{g:06d}.0/{j}", Prompt((1, 2, g))) for j in range(k)), born)
        for g in range(count)
    ]


def update(version: int) -> WeightUpdate:
    return WeightUpdate(version, "local", {"size": 8})


PROBE = [[1, 2, 3, 4], [5, 6]]


def reference(version: int) -> list[list[float]]:
    return [[logprob(s[:t], s[t], version) for t in range(1, len(s))] for s in PROBE]


def shifted(scores: list[list[float]], nats: float) -> list[list[float]]:
    return [[score + nats for score in row] for row in scores]


class Fleet:
    """Spawns engines in a given order of faults; keeps every engine made."""

    def __init__(self, *faults: Faults | None) -> None:
        self.faults = list(faults)
        self.made: list[FakeEngine] = []

    def __call__(self, index: int) -> Engine:
        self.made.append(engine(self.faults.pop(0) if self.faults else None))
        return self.made[-1]


def pool_of(spawn: Callable[[int], Engine], **changes: Any) -> Pool:
    return Pool(spawn, config(**changes), ROLLOUT, stop_token_ids=(EOS,), seed=3)


def undisturbed(groups: list[Group], version: int = 0) -> list[Group]:
    with pool_of(lambda _: engine()) as pool:
        if version:
            pool.publish(update(version), PROBE, reference(version))
        return pool.extend(groups, version)
