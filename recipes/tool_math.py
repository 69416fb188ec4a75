"""A small Llama from scratch learns when to call Python: sums of numbers that it cannot add in its head.

The warm-up shows both ways, and both with right answers: most demonstrations state the answer at once, which the model
cannot learn to get right, and some run the sum in Python, read the output and repeat it. RL finds out which one pays.
The environment runs the code in the sandbox; its output is read, and never trained on.
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
from rollout.environments.config import PythonTool
from rollout.problems.config import SumsSource
from rollout.problems.sums import CLOSES, OPENS

DESCRIPTION = "a small Llama from scratch learns when to call Python, in the sandbox, in a few minutes on a CPU"


def config() -> RunConfig:
    """Two or three numbers of four to six digits.

    The first stage of the warm-up always calls Python, so that copying a sum and an output is learnt; the second one
    calls it in four demonstrations of ten. Where it is not called hardly any answer is right.
    """
    source = SumsSource(terms=(2, 3), digits=(4, 6), tool=0.4)
    return RunConfig(
        recipe="tool_math",
        iterations=12,
        model=ModelConfig(
            base=ScratchModel(layers=3, width=128, heads=4, kv_heads=4, mlp_width=384, context=128),
        ),
        problems=ProblemsConfig(train=source, heldout=source, heldout_size=128),
        warmup=WarmupConfig(
            examples=6000,
            mixture={"tool": 1.0},
            batch_tokens=800,
            lr=3e-3,
            then=(WarmupStage(examples=2500, batch_tokens=800, lr=6e-4),),
        ),
        environment=PythonTool(opens=OPENS, closes=CLOSES, turns=3, feed_tokens=24, output_chars=40, cpu_s=2.0),
        engine=EngineConfig(kind="vllm", max_model_len=128, max_concurrency=128, kv_cache_gib=0.5),
        rollout=RolloutConfig(groups=16, k=8, segment_tokens=48, max_tokens=64),
        learner=LearnerConfig(
            updates=2,
            optimizer=OptimizerConfig(lr=1e-3, weight_decay=0.0),
            objective=MirrorDescentConfig(tau=0.05),
        ),
        reward=RewardConfig(length=None),
        eval=EvalConfig(every=4, samples=4, interim_problems=64),
        promise=PromiseConfig(gain=0.2, final=0.6),
        checkpoint=CheckpointConfig(every=4),
    )
