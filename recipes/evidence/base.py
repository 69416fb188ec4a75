"""The setting that every RL arm of the reproductions shares: a tiny model, sums of one to three steps, a minute a run.

One supervised warm-up per seed (``warmed``), then any number of policies from it (``policy``): what an arm changes
is the only thing that differs. Sizes are measured on two cores of a CPU, one thread a run and two runs at a time.
"""

from __future__ import annotations

from statistics import fmean
from typing import Any

from recipes.evidence.bench.finding import Bench
from recipes.evidence.bench.trial import Outcome, Trial
from rl.config import (
    CheckpointConfig,
    EngineConfig,
    EvalConfig,
    LogConfig,
    ProblemsConfig,
    RayConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    WarmupConfig,
    WarmupStage,
)
from rl.config_io import load
from rl.learner.config import LearnerConfig, ModelConfig, OptimizerConfig, PretrainedModel, ScratchModel
from rl.objectives.config import MirrorDescentConfig
from rollout.problems.config import ArithmeticSource

ITERATIONS, EVERY = 20, 5
"""Of RL; between evaluations."""
SCALE = (
    "A model of 0.4 million parameters from scratch, warmed up on reasoning paths; 20 iterations of 128 responses to "
    "sums of one to three steps, instead of a large model on mathematics and code."
)
LONGEST = 160
"""Tokens of the longest response: three steps done twice take some 150."""
CONTEXT = 256
"""Tokens of a prompt and its longest response, with room."""
SOURCE = ArithmeticSource(steps=(1, 3), careful=0.35, mixed=0.1, jumps=0.2)
"""Three difficulties. With up to four steps models of width 96 and 64 were right in 5 % and 2 % of the problems after a
warm-up of 80 seconds: most groups would tell RL nothing."""


def warmed(seed: int) -> Trial:
    """Return the supervised warm-up that all arms of a seed start from.

    Two layers of 128 are as right after it as three (27 % and 26 %), for three quarters of the time. Columns first,
    then all efforts, as in the quickstart, for the reasons it gives.
    """
    config = RunConfig(
        seed=seed,
        iterations=0,
        model=ModelConfig(
            base=ScratchModel(layers=2, width=128, heads=4, kv_heads=4, mlp_width=384, context=CONTEXT), threads=1
        ),
        problems=_problems(),
        warmup=WarmupConfig(
            examples=8000,
            mixture={"careful": 1.0, "mixed": 0.0, "jumps": 0.0},
            batch_tokens=700,
            lr=3e-3,
            then=(WarmupStage(examples=3000, mixture={"thorough": 0.9}, batch_tokens=700, lr=3e-3),),
        ),
        engine=_engine(),
        rollout=_rollout(),
        reward=RewardConfig(length=None),
        eval=_evaluation(),
        log=LogConfig(live=False),
        ray=RayConfig(in_process=True),
    )
    return Trial(config)


def policy(seed: int, base: Trial | None = None, **keys: Any) -> Trial:
    """Return RL from a model, that of ``warmed`` without. ``keys``: sections with what an arm changes in them.

    Of an iteration a half is sampling and a half training; 16 groups of 8 make both a second or two. A segment is a
    whole response: arms with partial rollouts set less. No length reward: arms that have one say when it begins. One
    checkpoint, at the end.
    """
    config = RunConfig(
        seed=seed,
        iterations=ITERATIONS,
        model=ModelConfig(base=PretrainedModel(path="of another trial"), threads=1),
        problems=_problems(),
        engine=_engine(),
        rollout=_rollout(),
        learner=LearnerConfig(
            updates=4,
            optimizer=OptimizerConfig(kind="muon", lr=3e-4, weight_decay=0.01),
            objective=MirrorDescentConfig(tau=0.05),
        ),
        reward=RewardConfig(length=None),
        eval=_evaluation(),
        checkpoint=CheckpointConfig(every=100),
        log=LogConfig(live=False),
        ray=RayConfig(in_process=True),
    )
    return Trial(load(config, keys, ()), base or warmed(seed))


def arm(bench: Bench, **keys: Any) -> list[Trial]:
    """Return a run of RL for each seed."""
    return [policy(seed, **keys) for seed in bench.seeds]


def learning(outcome: Outcome) -> float:
    """Return the mean accuracy of the training responses over all iterations: it is high for a run that learns soon."""
    return fmean(row["accuracy"] for row in outcome.rows if "accuracy" in row)


def held_out(outcome: Outcome) -> float:
    """Return the held-out accuracy after RL."""
    return outcome.evaluation().accuracy.mean


def along(outcome: Outcome) -> float:
    """Return the mean of the held-out accuracies during RL and after it."""
    names = [f"it{number:04d}" for number in range(EVERY, ITERATIONS, EVERY)]
    return fmean([*(outcome.evaluation(name).accuracy.mean for name in names), held_out(outcome)])


def tokens(outcome: Outcome) -> float:
    """Return the mean tokens of held-out responses after RL."""
    return outcome.evaluation().tokens.mean


def curve(outcome: Outcome, name: str = "accuracy") -> tuple[list[float], list[float]]:
    """Return a metric by iteration."""
    rows = [row for row in outcome.rows if name in row]
    return [row["iteration"] for row in rows], [row[name] for row in rows]


def _problems() -> ProblemsConfig:
    return ProblemsConfig(train=SOURCE, heldout=SOURCE, heldout_size=256)


def _engine() -> EngineConfig:
    """One batch holds an iteration's responses, and an evaluation's."""
    return EngineConfig(kind="hf", max_model_len=CONTEXT, max_concurrency=256, threads=1)


def _rollout() -> RolloutConfig:
    return RolloutConfig(groups=16, k=8, segment_tokens=LONGEST, max_tokens=LONGEST)


def _evaluation() -> EvalConfig:
    """At temperature 1, which is what RL changes."""
    return EvalConfig(every=EVERY, samples=2, interim_problems=128, greedy=False)
