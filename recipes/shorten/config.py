"""The keys of ``k15 shorten``. Imports no torch, vLLM or Ray.

k1.5 gives n = 8, the plain average and the factor 1.5; batch sizes, learning rates, beta, the second RL phase's cap and
weight are not published, so they are keys and the defaults are ours [2501.12599 §2.4].
"""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from rl.config import LengthRewardConfig, RunConfig
from rollout.config import Config


class SampleConfig(Config):
    """Responses that rejection sampling and DPO choose from; drawn from training problems only."""

    problems: int = Field(1024, ge=1)
    """Training problems asked; a file with fewer is used whole."""
    n: int = Field(8, ge=2)
    """Responses per problem [2501.12599 §2.4]; with fewer than 2 there is nothing to choose from."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature."""


class MergeConfig(Config):
    """Weight averaging."""

    weight: float = Field(0.5, ge=0, le=1)
    """Share of the short model [2501.12599 §2.4]; the long one has the rest."""
    method: str = "linear"
    """``linear``: the paper's plain average. Others (slerp, ties, dare_ties, ...) are mergekit's, by its names."""


class FineTuneConfig(Config):
    """Supervised fine-tuning on the shortest correct responses."""

    epochs: int = Field(2, ge=1)
    """Passes over them."""
    batch_tokens: int = Field(8192, ge=1)
    """Tokens per optimiser step, prompt included."""
    lr: float = Field(1e-4, gt=0)
    """Peak learning rate of the run's optimiser; linear warm-up over 5 %, then cosine to a tenth."""


class DpoConfig(Config):
    """Direct preference optimisation [2305.18290]."""

    beta: float = Field(0.1, gt=0)
    """Strength of the tie to the long model."""
    lr: float = Field(1e-6, gt=0)
    """Peak learning rate of AdamW; linear warm-up over 10 %, then cosine."""
    epochs: int = Field(1, ge=1)
    """Passes over the pairs."""
    batch_pairs: int = Field(32, ge=1)
    """Pairs per optimiser step."""
    longer: float = Field(1.5, ge=1)
    """A correct response is rejected when it is at least this many times as long as the chosen one
    [2501.12599 §2.4].
    """
    pairs_per_problem: int = Field(4, ge=1)
    """Pairs of one problem at most, those with the longest rejected responses first."""
    sft_weight: float = Field(0.0, ge=0)
    """Weight of the chosen response's negative log-likelihood per token beside the DPO loss [2404.19733]; 0: none."""


class SecondPhaseConfig(Config):
    """long2short RL: a second phase with the length reward on from the start and a much smaller cap."""

    iterations: int = Field(100, ge=1)
    """RL iterations."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest response in training; ``null``: half of ``run.rollout.max_tokens``. Judged under the run's own cap."""
    length: LengthRewardConfig = LengthRewardConfig(weight=0.5, start_iteration=0)
    """The length reward [2501.12599 §2.3.3], from iteration 0 on."""
    lr: float | None = Field(None, gt=0)
    """Learning rate; ``null``: the run's."""
    selection_problems: int = Field(128, ge=1)
    """Training problems on which the base checkpoint is chosen: never the held-out ones."""
    selection_samples: int = Field(2, ge=1)
    """Responses per such problem and checkpoint."""


class JudgeConfig(Config):
    """How all variants are judged: the same held-out problems, seeds and cap for each."""

    samples: int = Field(4, ge=1)
    """Responses per held-out problem (avg@n), at ``run.eval.temperature``."""


class ShortenConfig(Config):
    """long2short: from a long-CoT policy to a short one."""

    presets: ClassVar = {name: preset.under("run") for name, preset in RunConfig.presets.items()}
    MOVED: ClassVar = {"dpo.micro_batch_pairs": "run.learner.micro_batch_tokens, in tokens per forward pass"}

    recipe: str = "custom"
    """Name of the recipe it came from."""
    run: RunConfig = RunConfig()
    """How the model is asked, sampled, trained and graded: a run's own configuration when one is shortened."""
    sample: SampleConfig = SampleConfig()
    merge: MergeConfig = MergeConfig()
    rejection: FineTuneConfig = FineTuneConfig()
    dpo: DpoConfig = DpoConfig()
    rl: SecondPhaseConfig = SecondPhaseConfig()
    judge: JudgeConfig = JudgeConfig()

    @property
    def cap(self) -> int:
        """Longest training response of the second RL phase."""
        return self.rl.max_tokens or max(1, self.run.rollout.max_tokens // 2)

    @model_validator(mode="after")
    def _smaller_cap(self) -> Self:
        if self.cap >= self.run.rollout.max_tokens:
            raise ValueError(
                f"rl.max_tokens ({self.cap}) is not smaller than run.rollout.max_tokens "
                f"({self.run.rollout.max_tokens}): the second phase needs a significantly smaller cap"
            )
        if self.run.environment is not None:
            raise ValueError(
                "run.environment: responses of several turns cannot be shortened yet; give the model of another run"
            )
        return self
