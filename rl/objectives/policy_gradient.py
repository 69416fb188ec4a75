"""The base of objectives whose loss is a sum over tokens: how these are averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from rl.objectives.config import ImportanceConfig, LengthNorm
from rl.objectives.protocol import Objective
from rl.objectives.sequences import length_norms

if TYPE_CHECKING:
    from rl.learner.batch import Batch


@dataclass(frozen=True)
class PolicyGradient(Objective):
    """An objective whose loss is a sum over tokens that vanishes, gradient and all, where the advantage is 0."""

    length_norm: LengthNorm | Literal["tokens"]
    max_tokens: int
    """Longest response, in tokens."""
    importance: ImportanceConfig | None = None
    opens_on_reference = True

    @property
    def per(self) -> Literal["sequence", "token"]:
        """See ``Objective``."""
        return "token" if self.length_norm == "tokens" else "sequence"

    def total(self, losses: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return a scalar: the sum of the tokens' ``losses`` [L], those of a sequence divided as configured."""
        if self.length_norm == "tokens":
            return losses.sum()
        norms = length_norms(batch.loss_lengths, self.length_norm, self.max_tokens)
        return (losses / norms[batch.sequence]).sum()
