"""How large the trials of pretraining are: models of ten thousand to a few hundred thousand parameters, over bytes.

A training has 20 tokens for each parameter of its layers, near the optimum of compute [2203.15556; Moonlight's Table 2
has 22]. The text is what Python's standard library carries, four parts of code and one of documentation, so that the
largest model reads most of it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recipes.evidence.bench.trial import Outcome, Trial
from rl.config import CheckpointConfig
from rl.learner.config import LearnerConfig, ModelConfig, OptimizerConfig, ScratchModel
from rl.pretraining_config import CosineSchedule, MeasureConfig, PretrainConfig
from rl.text.config import PythonText

LENGTH = 256
"""Tokens of a sequence."""
TOKENS_PER_PARAMETER = 20
MIXTURE = {"code": 0.8, "prose": 0.2}


@dataclass(frozen=True)
class Size:
    """A Llama's size."""

    layers: int
    width: int
    batch: int
    """Sequences of a step: fewer for smaller models, which have fewer tokens."""

    @property
    def parameters(self) -> int:
        """Of its layers' matrices: attention 4 w^2, MLP 9 w^2."""
        return 13 * self.layers * self.width**2

    @property
    def tokens(self) -> int:
        """Of its training."""
        return TOKENS_PER_PARAMETER * self.parameters

    @property
    def flops(self) -> float:
        """Of its training: 6 N D."""
        return 6.0 * self.parameters * self.tokens

    @property
    def model(self) -> ScratchModel:
        """Return it."""
        heads = max(1, self.width // 16)
        return ScratchModel(
            layers=self.layers,
            width=self.width,
            heads=heads,
            kv_heads=heads,
            mlp_width=3 * self.width,
            context=LENGTH,
            tied=False,
        )


SIZES = (Size(2, 24, 2), Size(2, 32, 4), Size(3, 48, 8), Size(4, 64, 8))
MIDDLE = SIZES[2]
"""For what does not depend on size."""


def pretraining(size: Size, optimizer: OptimizerConfig, seed: int, tokens: int | None = None, **changes: Any) -> Trial:
    """Return the pretraining of a model, with a cosine to a tenth; ``changes`` are other keys of ``PretrainConfig``."""
    steps = (tokens or size.tokens) // (LENGTH * size.batch)
    keys: dict[str, Any] = {
        "seed": seed,
        "model": ModelConfig(base=size.model, threads=1),
        "text": {"code": PythonText(part="code"), "prose": PythonText(part="prose")},
        "schedule": CosineSchedule(steps=steps, batch=size.batch, lr=optimizer.lr, ramp=0.03, mixture=MIXTURE),
        "learner": LearnerConfig(optimizer=optimizer),
        "measure": MeasureConfig(every=0, tokens=100_000),
        "checkpoint": CheckpointConfig(every=500),
    }
    return Trial(PretrainConfig(**keys | changes))


def loss(outcome: Outcome) -> float:
    """Return a pretraining's held-out loss in nats per byte, code and prose as they are learnt."""
    return sum(MIXTURE[name] * one.loss for name, one in outcome.pretraining.heldout.items())
