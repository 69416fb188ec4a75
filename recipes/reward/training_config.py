"""The keys that all trainings of classifiers of responses share. Imports no torch, vLLM or Ray."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from rl.config import RayConfig, RunConfig
from rl.learner.config import LearnerConfig, ModelConfig, PretrainedModel
from rl.objectives.config import ClassesConfig
from rollout.config import Config, EngineConfig, Preset, RolloutConfig
from rollout.models.attention import AttentionConfig
from rollout.reward_models.card import TEMPLATE, Card


class TrainingConfig(Config):
    """What is read, and who learns it."""

    listed: ClassVar = "--dry-run"
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
    """Seeds heads, adapters, the order of the responses, and what else is drawn."""
    template: str = TEMPLATE
    """What is read: text with {question}, {reference} and {response}."""
    sees: Literal["whole", "answer"] = "whole"
    """The whole response, or what follows its thinking."""
    max_tokens: int = Field(2048, ge=8)
    """Longest input. Longer ones are left out and counted here, and get no opinion in use."""
    model: ModelConfig = ModelConfig(base=PretrainedModel(path="--model"))
    """The model that it starts from; ``base`` is what ``--model`` names."""
    learner: LearnerConfig = LearnerConfig(objective=ClassesConfig())
    ray: RayConfig = RayConfig()
    """A learner of one rank on a CPU runs without Ray, unless ``ray.address`` is given."""

    @model_validator(mode="after")
    def _of_a_classifier(self) -> Self:
        Card(kind="head", template=self.template)
        if not isinstance(self.model.base, PretrainedModel):
            raise ValueError("model.base: it needs a pretrained model, and its tokenizer; name one with --model")
        if self.learner.objective != ClassesConfig():
            raise ValueError("learner.objective: what is learnt is given by the kind of reward model; leave it out")
        if self.model.attention != AttentionConfig():
            raise ValueError("model.attention: whoever loads a classifier computes full attention; leave it out")
        self.run_with(ClassesConfig())  # what is wrong with the learner's keys is said now
        return self

    def run_with(self, objective: ClassesConfig) -> RunConfig:
        """Return the run whose learner trains it: no iteration, and no engine is started."""
        alone = self.learner.ranks.size == 1 and self.model.device == "cpu" and self.ray.address is None
        return RunConfig(
            recipe="reward",
            seed=self.seed,
            iterations=0,
            model=self.model,
            learner=self.learner.model_copy(update={"objective": objective}),
            engine=EngineConfig(kind="hf", max_model_len=self.max_tokens),
            rollout=RolloutConfig(max_tokens=1, segment_tokens=1),
            ray=self.ray.model_copy(update={"in_process": alone or self.ray.in_process}),
        )
