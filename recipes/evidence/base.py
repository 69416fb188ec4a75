"""The setting that every RL arm of the reproductions shares: a tiny model, sums of one to three steps, a minute a run.

One supervised warm-up per seed (`warmed`), then any number of policies from its folder (`policy`): what an arm changes
is the only thing that differs. Sizes are measured on two cores of a CPU, one thread a run and two runs at a time.
"""

from __future__ import annotations

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
from rl.learner.config import LearnerConfig, ModelConfig, OptimizerConfig, PretrainedModel, ScratchModel
from rl.objectives.config import MirrorDescentConfig
from rollout.problems.config import ArithmeticSource

LONGEST = 160
"""Tokens of the longest response: three steps done twice take some 150."""
CONTEXT = 256
"""Tokens of a prompt and its longest response, with room."""
SOURCE = ArithmeticSource(steps=(1, 3), careful=0.35, mixed=0.1, jumps=0.2)
"""Three difficulties. With up to four steps models of width 96 and 64 were right in 5 % and 2 % of the problems after a
warm-up of 80 seconds: most groups would tell RL nothing."""


def warmed(seed: int) -> RunConfig:
    """Return the supervised warm-up that all arms of a seed start from: its folder ``warmup`` is their ``base``.

    Two layers of 128 are as right after it as three (27 % and 26 %), for three quarters of the time. Columns first,
    then all efforts, as in the quickstart, for the reasons it gives.
    """
    return RunConfig(
        recipe="evidence-warmed",
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


def policy(seed: int, base: str) -> RunConfig:
    """Return RL from the warmed model in the folder ``base``.

    Of an iteration a half is sampling and a half training; 16 groups of 8 make both a second or two. A segment is a
    whole response: arms with partial rollouts set less. No length reward: arms that have one say when it begins. One
    checkpoint, at the end.
    """
    return RunConfig(
        recipe="evidence-policy",
        seed=seed,
        iterations=20,
        model=ModelConfig(base=PretrainedModel(path=base), threads=1),
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


def _problems() -> ProblemsConfig:
    return ProblemsConfig(train=SOURCE, heldout=SOURCE, heldout_size=128)


def _engine() -> EngineConfig:
    """One batch holds an iteration's responses, and an evaluation's."""
    return EngineConfig(kind="hf", max_model_len=CONTEXT, max_concurrency=256, threads=1)


def _rollout() -> RolloutConfig:
    return RolloutConfig(groups=16, k=8, segment_tokens=LONGEST, max_tokens=LONGEST)


def _evaluation() -> EvalConfig:
    """Before and after RL, at temperature 1, which is what RL changes; training accuracy shows the way between."""
    return EvalConfig(every=0, samples=2, greedy=False)
