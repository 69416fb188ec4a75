"""What is trained in the comparison: tiny models of several architectures, every kind of objective, made-up data."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.zoo_models import HEADS, MODELS, VOCABULARY, Model, save
from rl.config import RunConfig
from rl.learner.config import RanksConfig
from rl.learner.spec import LearnerSpec
from rl.objectives.cross_entropy import CrossEntropy
from rl.objectives.preference import Preference
from rl.objectives.protocol import Objective

if TYPE_CHECKING:
    from rl.learner.batch import Batch

DEEPSEEK = Model(
    "DeepSeek V3",
    "DeepseekV3",
    {
        **{name: value for name, value in HEADS.items() if name != "head_dim"},
        "num_key_value_heads": 2,
        "moe_intermediate_size": 32,
        "n_routed_experts": 6,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 16,
        "v_head_dim": 32,
    },
)
"""The layout of Moonlight and Kimi K2: latent attention, a dense layer, routed experts beside a shared one."""
ARCHITECTURES = {
    "tied": "Llama, tied",
    "untied": "Llama, untied",
    "mixtral": "Mixtral",
    "qwen-moe": "Qwen 3 MoE",
    "fused": "Phi 3",
}
CHOSEN = ("mirror_descent", "reinforce", "grpo", "cispo")
"""Objectives on rollouts, by their names in the configuration."""
GIVEN: dict[str, Objective] = {"preference": Preference(0.1), "cross_entropy": CrossEntropy()}
"""Objectives on data of their own."""


@dataclass(frozen=True)
class Case:
    """One training to compare."""

    model: str
    """A name of ``models``."""
    objective: str = "mirror_descent"
    lora: bool = False
    checkpointing: bool = False
    dtype: str = "float32"
    """Type of the computation."""

    @property
    def name(self) -> str:
        """In results."""
        extras = [word for word, on in (("lora", self.lora), ("gradient checkpointing", self.checkpointing)) if on]
        return ", ".join([self.model, self.objective, *extras, *([self.dtype] * (self.dtype != "float32"))])


CASES = (
    *(Case("tied", objective) for objective in (*CHOSEN, *GIVEN)),
    *(Case(model) for model in ("untied", "mixtral", "qwen-moe", "deepseek", "fused")),
    Case("untied", lora=True),
    Case("mixtral", "grpo", checkpointing=True),
)


def save_models(folder: Path, names: Collection[str] = ()) -> dict[str, Path]:
    """Write the models with these names, all without; return their directories by name."""
    by_name = {model.name: model for model in MODELS}
    chosen = {name: by_name[full] for name, full in ARCHITECTURES.items()} | {"deepseek": DEEPSEEK}
    return {name: save(model, folder / name) for name, model in chosen.items() if not names or name in names}


def spec_of(case: Case, ranks: RanksConfig, **optimizer: Any) -> LearnerSpec:
    """Return the learner's configuration for a case."""
    objective = case.objective if case.objective in CHOSEN else "mirror_descent"
    lora = {"rank": 4, "target_modules": "all-linear"} if case.lora else None
    model = {"threads": 1, "lora": lora, "gradient_checkpointing": case.checkpointing, "compute_dtype": case.dtype}
    config = RunConfig.model_validate(
        {
            "model": model,
            "engine": {"max_model_len": 256},
            "rollout": {"max_tokens": 128, "segment_tokens": 64, "groups": 6, "k": 4},
            "learner": {
                "ranks": ranks.model_dump(),
                "micro_batch_tokens": 150 // ranks.sequence,
                "objective": {"kind": objective},
                "optimizer": {"lr": 1e-3, **optimizer},
            },
        }
    )
    return LearnerSpec.of(config)


def objective_of(case: Case) -> Objective | None:
    """Return the objective that a step is given; ``None``: the learner's own."""
    return GIVEN.get(case.objective)


def batch_of(case: Case, seed: int = 0) -> Batch:
    """Return one minibatch: 24 sequences of 9 to 60 tokens, or 12 pairs of them."""
    import torch

    from rl.learner.batch import pack_demonstrations

    draw = random.Random(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(VOCABULARY) for _ in range(draw.randint(low, high)))

    prompts = [tokens(3, 20) for _ in range(12)]
    batch = pack_demonstrations([(prompts[i // 2], tokens(6, 40)) for i in range(24)])  # neighbours share a prompt
    if case.objective in GIVEN:
        return batch
    sampled = torch.where(batch.loss_mask, -4.0, 0.0)
    advantages = torch.tensor([draw.uniform(-1, 1) for _ in range(24)])
    return replace(batch, current=batch.loss_mask, sampler_logprobs=sampled, advantages=advantages)
