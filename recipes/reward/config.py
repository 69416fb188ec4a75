"""The keys of ``k15 train reward``. Imports no torch, vLLM or Ray.

The paper says what a classic reward model is, and neither its size nor how it was trained [2501.12599 §2.3.5].
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from rl.config import RayConfig, RunConfig
from rl.learner.config import LearnerConfig, ModelConfig, OptimizerConfig, PretrainedModel
from rl.objectives.config import ClassesConfig
from rollout.config import Config, EngineConfig, Preset, RolloutConfig
from rollout.models.attention import AttentionConfig
from rollout.reward_models.card import TEMPLATE, Card


class SplitConfig(Config):
    """Which questions are learnt, which choose, and which judge; all responses to a question are on one side."""

    heldout: float = Field(0.2, gt=0, lt=1)
    """Share of the questions that the model is judged on; none of them where ``--heldout`` names a file."""
    validation: float = Field(0.1, gt=0, lt=1)
    """Share of the questions on which the best epoch is chosen and the temperature fitted."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Another one draws other questions."""

    @model_validator(mode="after")
    def _rest(self) -> Self:
        if self.heldout + self.validation >= 1:
            raise ValueError(f"heldout {self.heldout} and validation {self.validation} leave no question to learn from")
        return self


class HeadTrainingConfig(Config):
    """A classic reward model: a head on the last token of question, reference and response."""

    presets: ClassVar = {
        "device": Preset(
            "On the CPU in float32, or on a GPU in bfloat16.",
            {
                device: {"model.device": device, "model.compute_dtype": dtype}
                for device, dtype in (("cpu", "float32"), ("cuda", "bfloat16"))
            },
        )
    }

    seed: int = Field(0, ge=0, lt=2**32)
    """Seeds the head, adapters, and the order of the responses."""
    template: str = TEMPLATE
    """What is read: text with {question}, {reference} and {response}."""
    sees: Literal["whole", "answer"] = "whole"
    """The whole response, or what follows its thinking."""
    max_tokens: int = Field(2048, ge=8)
    """Longest input. Longer ones are left out and counted here, and get no opinion in use."""
    epochs: int = Field(3, ge=1)
    """Passes over the responses; the model is that of the epoch that does best on the validation part."""
    batch_tokens: int = Field(8192, ge=1)
    """Tokens per optimiser step. ``learner.optimizer.lr`` is the peak: linear warm-up over 5 %, then cosine to a
    tenth."""
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig(base=PretrainedModel(path="--model"))
    """The model that it starts from; ``base`` is what ``--model`` names."""
    learner: LearnerConfig = LearnerConfig(optimizer=OptimizerConfig(), objective=ClassesConfig())
    ray: RayConfig = RayConfig()
    """A learner of one rank on a CPU runs without Ray, unless ``ray.address`` is given."""

    @model_validator(mode="after")
    def _across(self) -> Self:
        Card(kind="head", template=self.template)
        if not isinstance(self.model.base, PretrainedModel):
            raise ValueError("model.base: a head needs a pretrained model, and its tokenizer; name one with --model")
        if self.learner.objective != ClassesConfig():
            raise ValueError("learner.objective: a head is trained on two classes; leave it out")
        if self.model.attention != AttentionConfig():
            raise ValueError("model.attention: whoever loads a classifier computes full attention; leave it out")
        self.run  # noqa: B018  what is wrong with the learner's keys is said now
        return self

    @property
    def run(self) -> RunConfig:
        """The run whose learner trains the head: no iteration, and no engine is started."""
        alone = self.learner.ranks.size == 1 and self.model.device == "cpu" and self.ray.address is None
        return RunConfig(
            recipe="reward",
            seed=self.seed,
            iterations=0,
            model=self.model,
            learner=self.learner,
            engine=EngineConfig(kind="hf", max_model_len=self.max_tokens),
            rollout=RolloutConfig(max_tokens=1, segment_tokens=1),
            ray=self.ray.model_copy(update={"in_process": alone or self.ray.in_process}),
        )

    @property
    def card(self) -> Card:
        """How the model will be asked; its temperature is fitted later."""
        return Card(kind="head", template=self.template, sees=self.sees, max_tokens=self.max_tokens)
