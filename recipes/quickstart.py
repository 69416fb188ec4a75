"""A small Llama from scratch learns to work sums out: warm-up, k1.5 RL, evaluation, on two CPU cores.

The warm-up has two stages. In the first the model learns to calculate: every path works in columns. The second mixes
efforts, all of them with right answers: most paths are hasty, and the careful ones work every step out twice. The small
model executes only the careful kind reliably, and RL finds out that it pays: accuracy and response length grow
together. What is written twice, the recipe long2short can take away again.
"""

from __future__ import annotations

from rl.config import (
    CheckpointConfig,
    EngineConfig,
    EvalConfig,
    LengthRewardConfig,
    ProblemsConfig,
    PromiseConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    WarmupConfig,
    WarmupStage,
)
from rl.learner.config import LearnerConfig, ModelConfig, OptimizerConfig, ScratchModel
from rl.objectives.config import MirrorDescentConfig
from rollout.problems.config import ArithmeticSource

DESCRIPTION = "a small Llama from scratch learns multi-step arithmetic on a CPU, in about five minutes"


def config() -> RunConfig:
    """Return a run on sums of two to four steps; the segment budget makes long responses continue in a later iteration.

    What makes every seed on every CPU learn the same (`python -m benchmarks.robustness`, docs/log.md): a line that
    begins as the problem writes it, so that reading is copying; columns alone first, where every token teaches a skill
    that the careful paths need; batches and rates small enough that RL changes what is said by less than a nat.
    Thorough paths come second: learnt from the start, lines that repeat the line before teach to copy from there.
    """
    source = ArithmeticSource(steps=(2, 4), careful=0.35, mixed=0.1, jumps=0.2)
    return RunConfig(
        recipe="quickstart",
        iterations=20,
        model=ModelConfig(
            base=ScratchModel(layers=3, width=128, heads=4, kv_heads=4, mlp_width=384, context=512),
        ),
        problems=ProblemsConfig(train=source, heldout=source, heldout_size=256),
        warmup=WarmupConfig(
            examples=7500,
            mixture={"careful": 1.0, "mixed": 0.0, "jumps": 0.0},
            batch_tokens=900,
            lr=3e-3,
            then=(WarmupStage(examples=3000, mixture={"thorough": 0.9}, batch_tokens=900, lr=3e-3),),
        ),
        engine=EngineConfig(kind="vllm", max_model_len=384, max_concurrency=256),
        rollout=RolloutConfig(groups=32, k=8, segment_tokens=96, max_tokens=240, loss_on="all"),
        learner=LearnerConfig(
            updates=4,
            optimizer=OptimizerConfig(kind="muon", lr=3e-4, weight_decay=0.01),
            objective=MirrorDescentConfig(tau=0.05),
        ),
        reward=RewardConfig(length=LengthRewardConfig(weight=0.2, start_iteration=17)),
        eval=EvalConfig(every=10, samples=2),
        promise=PromiseConfig(gain=0.25, final=0.6),
        checkpoint=CheckpointConfig(every=2, keep=10),  # long2short chooses among them
    )
