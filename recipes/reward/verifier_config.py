"""The keys of ``k15 train verifier``. Imports no torch, vLLM or Ray.

Defaults of method and schedule are those of Rank-aware Negative Training [2306.07621] and its code for small sets.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from recipes.reward.training_config import TrainingConfig
from rl.config import RunConfig
from rl.learner.config import LearnerConfig, OptimizerConfig
from rl.objectives.config import ClassesConfig, Pooled
from rollout.config import Config
from rollout.reward_models.card import Card

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


class VerifierTrainingConfig(TrainingConfig):
    """A verifier of outcomes from few labelled and many unlabelled responses."""

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
    learner: LearnerConfig = LearnerConfig(
        optimizer=OptimizerConfig(
            kind="adamw", lr=1e-5, weight_decay=0.01, adam_betas=(0.9, 0.999), reset_each_iteration=False
        ),
        objective=ClassesConfig(),
    )
    """``optimizer.lr`` is that of both trainings."""

    def run(self, classes: int) -> RunConfig:
        """Return the run whose learner trains the verifier."""
        return self.run_with(ClassesConfig(classes=classes, at=self.at))

    def card(self, classes: tuple[str, ...]) -> Card:
        """Return how the model will be asked."""
        return Card(
            kind="verifier", template=self.template, sees=self.sees, classes=classes, max_tokens=self.max_tokens
        )
