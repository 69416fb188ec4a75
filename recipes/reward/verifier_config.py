"""The keys of ``k15 train verifier``. Imports no torch, vLLM or Ray.

Defaults of method and schedule are those of Rank-aware Negative Training [2306.07621] and its code for small sets.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from rl.config import RayConfig, RunConfig
from rl.learner.config import LearnerConfig, ModelConfig, OptimizerConfig, PretrainedModel
from rl.objectives.config import ClassesConfig, Pooled
from rollout.config import Config, EngineConfig, Preset, RolloutConfig
from rollout.models.attention import AttentionConfig
from rollout.reward_models.card import TEMPLATE, Card

Filtering = Literal["evidence", "confidence", "none"]


class LabelledSplitConfig(Config):
    """Which of the labelled responses are learnt, choose the epoch, and judge; drawn once, the same in every stage.

    A share is taken of each class, and all responses to a question are on one side.
    """

    heldout: float = Field(0.2, ge=0, lt=1)
    """Share that the verifier is judged on and nothing is learnt from; none where ``--heldout`` names a file."""
    validation: float = Field(0.15, ge=0, lt=1)
    """Share on which the best epoch is chosen; 0: the last one is taken."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Another one draws others."""

    @model_validator(mode="after")
    def _rest(self) -> Self:
        if self.heldout + self.validation >= 1:
            raise ValueError(f"heldout {self.heldout} and validation {self.validation} leave nothing to learn from")
        return self


class PositiveConfig(Config):
    """Cross-entropy on the labelled responses: what predicts the others."""

    epochs: int = Field(20, ge=1)
    """Passes over the labelled responses."""
    batch: int = Field(8, ge=1)
    """Responses of an optimiser step."""


class EvidenceConfig(Config):
    """What the predictions are ranked by: evidence from labelled responses."""

    uncertainty: float = Field(0.3, gt=0, le=1)
    """Mass that no feature takes away from "may be, may not be"."""
    neighbours: int = Field(5, ge=1)
    """Labelled responses of each class that a response is compared with, at most."""
    keep: float = Field(0.5, gt=0, le=1)
    """Share of the predictions that is kept, those with the most evidence."""


class NegativeConfig(Config):
    """Negative training on labelled and kept responses: what they are not."""

    epochs: int = Field(21, ge=1)
    """Passes over them."""
    switch: int = Field(10, ge=0)
    """Epoch (from 0) from which on responses whose label stays improbable are left out."""
    batch: int = Field(16, ge=1)
    """Responses of an optimiser step."""
    draws: int | None = Field(None, ge=1)
    """Classes that a response is not, drawn for it in each epoch; ``null``: one less than there are classes."""
    history: int = Field(2, ge=1)
    """Epochs that the probability of a response's label is averaged over; below 1 / classes it is left out."""
    decay: float = Field(0.8, gt=0, le=1)
    """Factor on the learning rate after every second epoch; the paper's code decays, by how much is ours."""


class AbstainConfig(Config):
    """When the verifier in use has no opinion."""

    uncertainty: float = Field(0.3, ge=0, le=1)
    """More mass than this on "may be, may not be"."""
    conflict: float = Field(0.4, ge=0, le=1)
    """More conflict than this between what features say. Two that contradict each other come to 0.49 at most."""


class VerifierTrainingConfig(Config):
    """A verifier of outcomes from few labelled and many unlabelled responses."""

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
    """Seeds heads, adapters, orders, and the classes that a response is not."""
    template: str = TEMPLATE
    """What is read: text with {question}, {reference} and {response}."""
    sees: Literal["whole", "answer"] = "whole"
    """The whole response, or what follows its thinking."""
    max_tokens: int = Field(2048, ge=8)
    """Longest input. Longer ones are left out and counted here, and get no opinion in use."""
    classes: tuple[str, ...] = ()
    """Names of the classes; empty: those that labels name. Each needs labelled responses."""
    at: Pooled = "ends"
    """What stands for a response: the state of its last token; for encoders that of the first, or the mean."""
    split: LabelledSplitConfig = LabelledSplitConfig()
    positive: PositiveConfig = PositiveConfig()
    filtering: Filtering = "evidence"
    """Which predictions are learnt from. ``evidence``: as ranked. ``confidence``: those with a probability of at least
    ``confidence``. ``none``: all."""
    confidence: float = Field(0.9, gt=0, le=1)
    """Least probability, with that filtering."""
    evidence: EvidenceConfig = EvidenceConfig()
    negative: NegativeConfig = NegativeConfig()
    abstain: AbstainConfig = AbstainConfig()
    model: ModelConfig = ModelConfig(base=PretrainedModel(path="--model"))
    """The model that both trainings start from; ``base`` is what ``--model`` names."""
    learner: LearnerConfig = LearnerConfig(
        optimizer=OptimizerConfig(
            kind="adamw", lr=1e-5, weight_decay=0.01, adam_betas=(0.9, 0.999), reset_each_iteration=False
        ),
        objective=ClassesConfig(),
    )
    """``optimizer.lr`` is that of both trainings."""
    ray: RayConfig = RayConfig()
    """A learner of one rank on a CPU runs without Ray, unless ``ray.address`` is given."""

    @model_validator(mode="after")
    def _across(self) -> Self:
        Card(kind="verifier", template=self.template)
        if not isinstance(self.model.base, PretrainedModel):
            raise ValueError("model.base: a verifier needs a pretrained model and its tokenizer; name one with --model")
        if self.learner.objective != ClassesConfig():
            raise ValueError("learner.objective: a verifier has objectives of its own; leave it out")
        if self.model.attention != AttentionConfig():
            raise ValueError("model.attention: whoever loads a classifier computes full attention; leave it out")
        self.run(2)
        return self

    def run(self, classes: int) -> RunConfig:
        """Return the run whose learner trains the verifier: no iteration, and no engine is started."""
        alone = self.learner.ranks.size == 1 and self.model.device == "cpu" and self.ray.address is None
        objective = ClassesConfig(classes=classes, at=self.at)
        return RunConfig(
            recipe="verifier",
            seed=self.seed,
            iterations=0,
            model=self.model,
            learner=self.learner.model_copy(update={"objective": objective}),
            engine=EngineConfig(kind="hf", max_model_len=self.max_tokens),
            rollout=RolloutConfig(max_tokens=1, segment_tokens=1),
            ray=self.ray.model_copy(update={"in_process": alone or self.ray.in_process}),
        )

    def card(self, classes: tuple[str, ...]) -> Card:
        """Return how the model will be asked."""
        return Card(
            kind="verifier", template=self.template, sees=self.sees, classes=classes, max_tokens=self.max_tokens
        )
