"""Overlapped runs over scripted engines, of a learner that learns nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from factories import problem
from fake_engine import FakeEngine

from rewards.score import Score
from rl import on_policy, overlap
from rl.config import RunConfig
from rl.learner.stats import IterationStats
from rl.objectives.build import build
from rl.parts import Parts
from rl.record.log import MetricsLog
from rl.record.metrics import Row
from rl.rewarding import Rewarder
from rl.state import checkpoint
from rl.state.checkpoint import RunState, Sum
from rl.state.journal import Journal
from rl.stop import Stopper
from rollout.engine import WeightUpdate
from rollout.grading import Grading
from rollout.pool.pool import Pool
from rollout.progress import Track
from rollout.types import Group, Problem, Prompt, WeightVersion


class Learner:
    """Learns nothing. ``notes``: its calls, each as it begins and as it ends."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def publish(self, version: WeightVersion) -> WeightUpdate:
        return WeightUpdate(version, "local", {"size": 0})

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[-1.0] * (len(sequence) - 1) for sequence in sequences]

    def train(self, groups: Sequence[Group], advantages: Any, version: WeightVersion) -> IterationStats:
        self.notes.append("train")
        return IterationStats({"tokens/trained": 0})

    def accumulate(self, groups: Sequence[Group], advantages: Any, version: WeightVersion) -> None:
        self.notes.append("accumulate")

    def close_iteration(self, version: WeightVersion) -> IterationStats:
        return IterationStats({"tokens/trained": 0})

    def save(self, folder: Path) -> None:
        self.notes.append("save")

    def saving(self) -> bool:
        return False

    def saved(self) -> Mapping[str, Sum]:
        return {}


class Problems:
    overlong = ()

    def __init__(self) -> None:
        self.drawn = 0

    def draw(self, n: int) -> list[Problem]:
        self.drawn += n
        return [problem(index) for index in range(self.drawn - n, self.drawn)]

    def update(self, success: dict[str, float]) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}


class Watch(Track):
    def warn(self, text: str) -> None:
        raise AssertionError(text)

    def iteration(self, row: Row) -> None:
        pass


def config(**changes: Any) -> RunConfig:
    base = {
        "iterations": 4,
        "engine": {"kind": "hf", "max_model_len": 512},
        "rollout": {"groups": 2, "k": 2, "segment_tokens": 40, "max_tokens": 40, "loss_on": "all", "repetition": None},
        "learner": {"updates": 1},
        "overlap": {"max_staleness": 1},
        "checkpoint": {"every": 1},
        "eval": {"every": 0},
    }
    return RunConfig.model_validate({**base, **changes})


def run(config: RunConfig, folder: Path, learner: Learner, engine: FakeEngine, **parts: Any) -> RunState:
    with (
        Pool(lambda _: engine, config.engine, config.rollout) as pool,
        Grading.by(lambda _, text: Score.right() if len(text) % 2 else Score.wrong("even")) as grading,
    ):
        base = {
            "policy": learner,
            "pool": pool,
            "sampler": Problems(),
            "rewarder": Rewarder(config.reward, lambda _, turn: "x" * len(turn), grading),
            "objective": build(config.learner.objective, config.rollout.max_tokens),
            "render": lambda asked: Prompt((1, 2)),
            "episodes": None,
            "probe": lambda: [[1, 2, 3]],
            "evaluate": lambda _: None,
            "journal": Journal(folder / "journal"),
            "log": MetricsLog(folder),
            "store": lambda *_: None,
            "inspect": lambda _: None,
            "watch": Watch(),
            "stopper": Stopper(),
            "checkpoints": folder / "checkpoints",
        }
        state = checkpoint.latest(folder / "checkpoints", print)
        made = Parts(**{**base, **parts})
        loop = on_policy if config.overlap is not None and config.overlap.mode == "on_policy" else overlap
        try:
            return loop.train(config, RunState(0) if state is None else state[0], made)
        finally:
            made.journal.close()
            made.log.close()
