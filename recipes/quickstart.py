"""A small Llama from scratch learns to work sums out: warm-up, k1.5 RL, evaluation, on two CPU cores.

The warm-up data mix careful and hasty reasoning, all of it with right answers; the small model executes only the
careful kind reliably. In a second stage most careful paths work every step out twice. RL finds out which kind pays:
accuracy and response length grow together. What is written twice, the recipe long2short can take away again.
"""

from __future__ import annotations

from rl.config import (
    CheckpointConfig,
    EngineConfig,
    EvalConfig,
    LearnerConfig,
    LengthRewardConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ProblemsConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    ScratchModel,
    WarmupConfig,
    WarmupStage,
)
from rollout.problems.config import ArithmeticSource

DESCRIPTION = "a small Llama from scratch learns multi-step arithmetic on a CPU, five to ten minutes"


def config() -> RunConfig:
    """Sums of three to five steps; the segment budget makes long responses continue in a later iteration.

    The thorough paths come second, at a lower rate: learnt from the start, lines that repeat the line before teach to
    copy from there, and some seeds never read the problem (docs/log.md).
    """
    source = ArithmeticSource(steps=(3, 5), careful=0.3)
    return RunConfig(
        recipe="quickstart",
        iterations=36,
        model=ModelConfig(
            base=ScratchModel(layers=3, width=128, heads=4, kv_heads=4, mlp_width=384, context=512),
            threads=1,  # batches of 450 tokens are too small for a second one, which waits on busy cores
        ),
        problems=ProblemsConfig(train=source, heldout=source, heldout_size=256),
        warmup=WarmupConfig(
            examples=10_500,
            batch_tokens=450,
            lr=5e-3,
            then=(WarmupStage(examples=2000, mixture={"thorough": 0.9}, batch_tokens=450, lr=1.5e-3),),
        ),
        engine=EngineConfig(kind="vllm", max_model_len=384, max_concurrency=256),
        rollout=RolloutConfig(groups=32, k=8, segment_tokens=96, max_tokens=300, loss_on="all"),
        learner=LearnerConfig(
            updates=4,
            optimizer=OptimizerConfig(kind="muon", lr=7e-4, weight_decay=0.01),
            objective=ObjectiveConfig(tau=0.05),
        ),
        reward=RewardConfig(length=LengthRewardConfig(weight=0.2, start_iteration=31)),
        eval=EvalConfig(every=12, samples=2),
        checkpoint=CheckpointConfig(every=3, keep=12),  # long2short chooses among them
    )
