"""The keys of ``k15 train reward``. Imports no torch, vLLM or Ray.

The paper says what a classic reward model is, and neither its size nor how it was trained [2501.12599 §2.3.5].
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from recipes.reward.training_config import TrainingConfig
from rl.config import RunConfig
from rl.objectives.config import ClassesConfig
from rollout.config import Config
from rollout.reward_models.card import Card


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


class HeadTrainingConfig(TrainingConfig):
    """A classic reward model: a head on the last token of question, reference and response."""

    epochs: int = Field(3, ge=1)
    """Passes over the responses; the model is that of the epoch that does best on the validation part."""
    batch_tokens: int = Field(8192, ge=1)
    """Tokens per optimiser step. ``learner.optimizer.lr`` is the peak: linear warm-up over 5 %, then cosine to a
    tenth."""
    split: SplitConfig = SplitConfig()

    @property
    def run(self) -> RunConfig:
        """The run whose learner trains the head."""
        return self.run_with(ClassesConfig())

    @property
    def card(self) -> Card:
        """How the model will be asked; its temperature is fitted later."""
        return Card(kind="head", template=self.template, sees=self.sees, max_tokens=self.max_tokens)
