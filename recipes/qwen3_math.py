"""Qwen3-0.6B on MATH, on one GPU or more: the loop at the size of a real model."""

from __future__ import annotations

import os
from pathlib import Path

from evals.benchmark import BOXED
from rl.config import (
    CheckpointConfig,
    EngineConfig,
    EvalConfig,
    LengthRewardConfig,
    ProblemsConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
)
from rl.learner.config import LearnerConfig, ModelConfig, OptimizerConfig, PretrainedModel
from rollout.problems.config import HubSource, JsonlSource

DESCRIPTION = "Qwen3-0.6B on MATH, held out on MATH-500; for one GPU or more"
HUB_NAME = "Qwen/Qwen3-0.6B"
TRAIN_FILE, HELDOUT_FILE = "math_train.jsonl", "math500.jsonl"
TRAIN_SET, HELDOUT_SET = "nlile/hendrycks-MATH-benchmark", "HuggingFaceH4/MATH-500"


def config() -> RunConfig:
    """Both sets of problems from $K15_DATA where it has the two files, else from the hub (12,000 and 500 problems).

    Without Qwen3's thinking mode, whose responses are several times as long as this context: RL finds out how much of
    it pays. Everything on cuda and in bfloat16, as `--device cuda` sets it.
    """
    folder = Path(os.environ.get("K15_DATA") or ".").expanduser()
    local = all((folder / file).is_file() for file in (TRAIN_FILE, HELDOUT_FILE))
    return RunConfig(
        recipe="qwen3_math",
        iterations=100,
        model=ModelConfig(
            base=PretrainedModel(path=HUB_NAME),
            device="cuda",
            compute_dtype="bfloat16",
            gradient_checkpointing=True,
            export_dtype="bfloat16",
        ),
        problems=ProblemsConfig(
            train=JsonlSource(path=TRAIN_FILE) if local else HubSource(path=TRAIN_SET),
            heldout=JsonlSource(path=HELDOUT_FILE) if local else HubSource(path=HELDOUT_SET, split="test"),
            heldout_size=256,
            instruction=BOXED,
            template={"enable_thinking": False},
        ),
        engine=EngineConfig(
            device="cuda",
            dtype="bfloat16",
            count=0,
            max_model_len=4096,
            max_batched_tokens=16_384,
            start_timeout_s=900.0,  # the first start compiles and captures graphs
        ),
        rollout=RolloutConfig(groups=64, k=8, segment_tokens=1024, max_tokens=3072),
        learner=LearnerConfig(
            updates=2, micro_batch_tokens=32_768, optimizer=OptimizerConfig(lr=2e-5, weight_decay=0.01)
        ),
        reward=RewardConfig(length=LengthRewardConfig(weight=0.2, start_iteration=50)),
        eval=EvalConfig(every=20, samples=1, interim_problems=128),
        checkpoint=CheckpointConfig(every=10),
    )
