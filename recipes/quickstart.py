"""A small Llama from scratch learns to work sums out: warm-up, k1.5 RL, evaluation, on two CPU cores."""

from __future__ import annotations

from rl.config import (
    EngineConfig,
    EvalConfig,
    LearnerConfig,
    LengthRewardConfig,
    ModelConfig,
    OptimizerConfig,
    ProblemsConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SamplingConfig,
    ScratchModel,
    WarmupConfig,
)
from rollout.problems.config import ArithmeticSource

DESCRIPTION = "a small Llama from scratch learns multi-step arithmetic on a CPU, about ten minutes"


def config() -> RunConfig:
    """Three-term sums; the response budget makes long ones continue in a later iteration."""
    return RunConfig(
        recipe="quickstart",
        iterations=100,
        model=ModelConfig(base=ScratchModel(layers=4, width=192, heads=6, kv_heads=6, mlp_width=512, context=512)),
        problems=ProblemsConfig(train=ArithmeticSource(), heldout=ArithmeticSource(), heldout_size=256),
        warmup=WarmupConfig(examples=20_000),
        engine=EngineConfig(kind="vllm", max_model_len=384, max_concurrency=256),
        rollout=RolloutConfig(groups=32, k=8, segment_tokens=96, max_tokens=256),
        learner=LearnerConfig(updates=2, optimizer=OptimizerConfig(kind="muon", lr=1e-3)),
        reward=RewardConfig(length=LengthRewardConfig(weight=0.2, start_iteration=40)),
        sampling=SamplingConfig(kind="prioritized"),
        eval=EvalConfig(every=20, samples=4),
    )
