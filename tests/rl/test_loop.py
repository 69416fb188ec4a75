"""The loop with a real pool over scripted engines."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from factories import problem
from fake_engine import FakeEngine, Faults
from signalled import Signalled

from rl.config import RunConfig
from rl.iteration import new_groups
from rl.loop import sample
from rl.state.journal import Journal
from rl.stop import Interrupted, Stopper
from rollout.engine import WeightUpdate
from rollout.pool.pool import Pool
from rollout.progress import Track
from rollout.types import Prompt

CONFIG = RunConfig.model_validate(
    {
        "engine": {"kind": "hf", "max_model_len": 64},
        "rollout": {"groups": 2, "k": 2, "segment_tokens": 12, "max_tokens": 30},
        "learner": {"updates": 2},
    }
)


class Watch(Track):
    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def sampled(faults: list[Faults | None], folder: Path) -> list[str]:
    def spawn(_: int) -> FakeEngine:
        return FakeEngine(faults=faults.pop(0) if faults else None)

    watch = Watch()
    groups = new_groups([problem(0), problem(1)], 0, 2, lambda _: Prompt((1, 2, 3)))
    with Pool(spawn, CONFIG.engine, CONFIG.rollout) as pool:
        pool.publish(WeightUpdate(0, "local", {"size": 8}), [], [])
        parts: Any = SimpleNamespace(journal=Journal(folder), watch=watch, pool=pool, episodes=None, stopper=Stopper())
        drawn, replayed = sample(groups, 0, CONFIG, parts)
        parts.journal.close()
    assert replayed == 0
    assert all(rollout.length == 12 for group in drawn for rollout in group.rollouts)
    assert watch.current is not None
    assert (watch.current.name, watch.current.done, watch.current.total) == ("generate", 4, 4)
    assert watch.current.tokens == 4 * 12
    return watch.warnings


def test_an_engine_that_dies_is_said_with_its_reason(tmp_path: Path) -> None:
    warnings = sampled([Faults(die_after=10)], tmp_path)
    assert warnings
    assert all("cut short: engine 0 failed" in warning for warning in warnings)


def test_healthy_sampling_warns_of_nothing(tmp_path: Path) -> None:
    assert sampled([None], tmp_path) == []


def test_a_stop_signal_while_tokens_are_journalled_leaves_no_gap(tmp_path: Path) -> None:
    journal = Signalled(tmp_path, at=2)
    groups = new_groups([problem(0), problem(1)], 0, 2, lambda _: Prompt((1, 2, 3)))
    with Pool(lambda _: FakeEngine(chunk=1), CONFIG.engine, CONFIG.rollout) as pool, Stopper() as stopper:
        pool.publish(WeightUpdate(0, "local", {"size": 8}), [], [])
        parts: Any = SimpleNamespace(journal=journal, watch=Watch(), pool=pool, episodes=None, stopper=stopper)
        with pytest.raises(Interrupted), stopper.interruptible():
            sample(groups, 0, CONFIG, parts)
    assert len(journal.came) >= 2
    assert journal.recorded()
