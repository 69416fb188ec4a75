"""The real loops, pool, stream, buffer, journal and grader, with an engine and a learner on a simulated clock.

Each arm trains as many iterations of the same problems, whose responses have the same lengths in each. How long the
learner takes for a token is set so that training takes as long as sampling: in the run in turn on this very machine and
these lengths (``balanced in turn``; nothing can then be more than twice as fast), or at the engine's best, with all its
slots taken (``balanced at full batch``; in turn the engine is slower than that, as its batch runs empty).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.overlap.actors import SimulatedEngine, SimulatedLearner
from benchmarks.overlap.clock import Clock
from benchmarks.overlap.machine import Engine, Lengths
from rewards.score import Score
from rl.config import RunConfig
from rl.loops import loop_of
from rl.objectives.build import build
from rl.parts import Parts
from rl.record.log import MetricsLog
from rl.record.metrics import Row
from rl.rewarding import Rewarder
from rl.state.checkpoint import RunState
from rl.state.journal import Journal
from rl.stop import Stopper
from rollout.grading import Grading
from rollout.pool.pool import Pool
from rollout.progress import Track
from rollout.types import Message, Problem, Prompt

PATIENCE_S = 3600.0
"""Real seconds after which the pool takes a simulated engine for dead."""
CONTEXT = 1 << 20


@dataclass(frozen=True)
class Case:
    """What is the same in all arms that are compared."""

    engine: Engine
    lengths: Lengths
    groups: int = 32
    k: int = 8
    """Together the slots of the engine, as in the quickstart."""
    segments: float = 2.0
    """``rollout.segment_tokens``, in mean lengths."""
    longest: float = 16.0
    """``rollout.max_tokens``, in mean lengths."""
    iterations: int = 24
    skipped: int = 8
    """Iterations at the beginning that are not counted: the pipe fills."""

    def config(self, overlap: Mapping[str, Any] | None) -> RunConfig:
        """Return the configuration of an arm."""
        patience = dict.fromkeys(("call_timeout_s", "stall_timeout_s", "start_timeout_s"), PATIENCE_S)
        return RunConfig.model_validate(
            {
                "iterations": self.iterations,
                "model": {"base": {"kind": "scratch", "context": CONTEXT}},
                "engine": {"kind": "hf", "max_model_len": CONTEXT, "max_concurrency": self.engine.slots, **patience},
                "rollout": {
                    "groups": self.groups,
                    "k": self.k,
                    "segment_tokens": round(self.segments * self.lengths.mean),
                    "max_tokens": round(self.longest * self.lengths.mean),
                    "max_age": self.iterations,
                    "loss_on": "all",
                    "repetition": None,
                },
                "learner": {"updates": 1},
                "checkpoint": {"every": self.iterations},
                "eval": {"every": 0},
                "overlap": overlap,
            }
        )


@dataclass(frozen=True)
class Ran:
    """An arm."""

    seconds: float
    """Simulated, after the iterations that are not counted."""
    tokens: int
    """Trained in that time."""
    samples: int
    iterations: int
    learner_s: float
    """At work in that time."""
    engine_s: float
    sequences: float
    """That the engine was at, on average, while at work."""

    @property
    def speed(self) -> float:
        """Trained tokens a second."""
        return self.tokens / self.seconds


class Problems:
    """Problems without end, each drawn once; see ``Sampler``."""

    overlong: Sequence[int] = ()

    def __init__(self) -> None:
        self.drawn = 0

    def draw(self, n: int) -> list[Problem]:
        """See ``Sampler``."""
        first, self.drawn = self.drawn, self.drawn + n
        return [Problem(str(index), (Message("user", "?"),)) for index in range(first, first + n)]

    def update(self, success: dict[str, float]) -> None:
        """See ``Sampler``."""

    def state_dict(self) -> dict[str, Any]:
        """See ``Sampler``."""
        return {"drawn": self.drawn}


class Watch(Track):
    """Shows nothing; a warning is an error: nothing goes wrong on a simulated machine."""

    def warn(self, text: str) -> None:
        """See ``Progress``."""
        raise RuntimeError(text)

    def iteration(self, row: Row) -> None:
        """See ``Watcher``."""


def run(case: Case, arm: Arm, token_s: float) -> Ran:
    """Run one arm; ``token_s``: seconds that the learner takes for a token."""
    config = case.config(arm.overlap)
    marks: list[tuple[float, float, float, float]] = []
    with tempfile.TemporaryDirectory() as folder, Clock() as clock:
        engine = SimulatedEngine(clock, case.engine, case.lengths, arm.keep)
        learner = SimulatedLearner(clock, token_s)

        def mark(_: Row) -> None:
            marks.append((clock.now, learner.busy_s, engine.busy_s, engine.sequences_s))

        with Pool(lambda _: engine, config.engine, config.rollout) as pool:
            grading = Grading.by(lambda _, text: Score.right() if len(text) % 2 else Score.wrong("even"))
            try:
                parts = parts_of(config, Path(folder), pool, learner, grading, mark)
                loop_of(config)(config, RunState(0), parts)
                parts.journal.close()
                parts.log.close()
            finally:
                grading.close()
    before, after = marks[case.skipped - 1], marks[-1]
    seconds, learner_s, engine_s, sequences_s = (end - begin for begin, end in zip(before, after, strict=True))
    trained = learner.trained[case.skipped :]
    return Ran(
        seconds,
        sum(tokens for _, _, tokens in trained),
        sum(samples for _, samples, _ in trained),
        len(trained),
        learner_s,
        engine_s,
        sequences_s / engine_s,
    )


def parts_of(
    config: RunConfig,
    folder: Path,
    pool: Pool,
    learner: SimulatedLearner,
    grading: Grading,
    inspect: Callable[[Row], None],
) -> Parts:
    """Return what the loop works with."""

    def evaluate(_: int) -> Any:
        raise AssertionError("no evaluation is due")

    return Parts(
        policy=learner,
        pool=pool,
        sampler=Problems(),
        rewarder=Rewarder(config.reward, lambda _, turn: "x" * len(turn), grading),
        objective=build(config.learner.objective, config.rollout.max_tokens),
        render=lambda problem: Prompt((int(problem.id),)),
        episodes=None,
        probe=lambda: [[1, 2, 3]],
        evaluate=evaluate,
        journal=Journal(folder / "journal"),
        log=MetricsLog(folder),
        store=lambda *_: None,
        inspect=inspect,
        watch=Watch(),
        stopper=Stopper(),
        checkpoints=folder / "checkpoints",
    )


@dataclass(frozen=True)
class Arm:
    """A way to run."""

    name: str
    overlap: Mapping[str, Any] | None
    keep: bool = False
    """``engine.in_flight: keep``; otherwise ``abort``, the default."""


IN_TURN = Arm("in turn", None)
ARMS = (
    IN_TURN,
    Arm("on policy", {"mode": "on_policy"}),
    *(Arm(f"S = {staleness}", {"max_staleness": staleness}, keep) for staleness in (1, 2) for keep in (False, True)),
)


def learners(case: Case) -> Iterator[tuple[str, float]]:
    """Yield the ways to balance learner and engine, and the seconds a token that follow."""
    drawn = run(case, IN_TURN, 0.0)
    yield "in turn", drawn.engine_s / drawn.tokens
    yield "at full batch", case.engine.token(case.engine.slots)


def row_of(case: Case, balanced: str, token_s: float, arm: Arm, ran: Ran, base: Ran) -> dict[str, Any]:
    """Return the figures of an arm, beside those in turn and the bounds that machine and lengths set."""
    return {
        "part": "simulated",
        "engine": case.engine.name,
        "sigma": case.lengths.sigma,
        "balanced": balanced,
        "arm": arm.name,
        "in_flight": "keep" if arm.keep else "abort",
        "ratio": round(ran.speed / base.speed, 3),
        "bound_learner": round(1 / (token_s * base.speed), 3),
        "bound_engine": round(1 / (case.engine.token(case.engine.slots) * base.speed), 3),
        "bound_engine_here": round(1 / (case.engine.token(ran.sequences) * base.speed), 3),
        "learner_idle": round(1 - ran.learner_s / ran.seconds, 3),
        "engine_idle": round(1 - ran.engine_s / ran.seconds, 3),
        "sequences": round(ran.sequences, 1),
        "groups_an_iteration": round(ran.samples / case.k / ran.iterations, 1),
        "trained_tokens": ran.tokens,
        "seconds": round(ran.seconds, 1),
    }


def measured(case: Case) -> Iterator[dict[str, Any]]:
    """Yield a row for each way to balance and each arm, the one in turn first."""
    for balanced, token_s in learners(case):
        base = run(case, IN_TURN, token_s)
        for arm in ARMS:
            yield row_of(case, balanced, token_s, arm, base if arm is IN_TURN else run(case, arm, token_s), base)


def small(case: Case) -> Case:
    """Return a case that takes seconds."""
    lengths = replace(case.lengths, mean=24)
    return replace(case, lengths=lengths, groups=4, k=2, iterations=4, skipped=1)
