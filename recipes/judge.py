"""A chain-of-thought judge from scratch: is this answer right? Warm-up, its own right verdicts, RL, on two CPU cores.

The chain-of-thought reward model of k1.5 [2501.12599 §2.3.5] in miniature. Its problems are answers in another form
than their reference, ``Answer: 71-46`` for 25, which have to be worked out. The warm-up shows that, and then mixes
efforts: two demonstrations of three only state the verdict, and a small model guesses there. From there on nothing but
right and wrong teaches: the model's own verdicts are drawn, those that are right are learnt, and RL goes on, with k15's
loop as it is. What pays is to work the answer out. ``model/`` then is a reward model: ``--reward model:runs/judge``.
"""

from __future__ import annotations

from rl.config import (
    CheckpointConfig,
    EngineConfig,
    EvalConfig,
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
from rollout.problems.config import ClaimsSource

DESCRIPTION = "a small Llama from scratch learns to judge answers by working them out, on a CPU, in about five minutes"


def config() -> RunConfig:
    """Return a run on answers of one to four terms.

    Columns are learnt to the end first: with 7,500 demonstrations one careful verdict in three is wrong, with 12,000
    one in fifty. What follows has lower rates, so that it changes how much is said and not how well it is reckoned.
    """
    source = ClaimsSource()
    return RunConfig(
        recipe="judge",
        iterations=20,
        model=ModelConfig(
            base=ScratchModel(layers=3, width=128, heads=4, kv_heads=4, mlp_width=384, context=512),
        ),
        problems=ProblemsConfig(train=source, heldout=source, heldout_size=512),
        warmup=WarmupConfig(
            examples=12_000,
            mixture={"careful": 1.0},
            batch_tokens=900,
            lr=3e-3,
            then=(
                WarmupStage(examples=2000, batch_tokens=900, lr=1e-3),
                WarmupStage(examples=1000, sampled=4, batch_tokens=900, lr=5e-4),
            ),
        ),
        engine=EngineConfig(kind="vllm", max_model_len=384, max_concurrency=256),
        rollout=RolloutConfig(groups=32, k=8, segment_tokens=96, max_tokens=192, loss_on="all"),
        learner=LearnerConfig(
            updates=4,
            optimizer=OptimizerConfig(kind="muon", lr=2e-4, weight_decay=0.01),
            objective=MirrorDescentConfig(tau=0.05),
        ),
        reward=RewardConfig(length=None),
        eval=EvalConfig(every=4, samples=2),
        promise=PromiseConfig(gain=0.15, final=0.88),
        checkpoint=CheckpointConfig(every=2),
    )
