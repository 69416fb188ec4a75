"""Truncated importance weights, for tokens that another policy than the learner's sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

from rl.objectives.config import ImportanceConfig
from rl.objectives.sequences import reference_of, sequence_sums
from rl.objectives.tally import Mean, Tally

if TYPE_CHECKING:
    from rl.learner.batch import Batch


@dataclass(frozen=True)
class EffectiveShare:
    """Effective sample size over sample size, (sum w)^2 / (n sum w^2): 1 for equal weights, 0 where all are 0."""

    total: float
    squares: float
    count: int

    @classmethod
    def of(cls, weights: torch.Tensor) -> Self:
        """Compute it from ``weights`` of any shape; their scale does not matter."""
        weights = weights.double()  # of long responses they are so small that their squares are 0 in single precision
        return cls(weights.sum().item(), weights.square().sum().item(), weights.numel())

    def __add__(self, other: Self, /) -> Self:
        """See ``Tally``."""
        return type(self)(self.total + other.total, self.squares + other.squares, self.count + other.count)

    @property
    def value(self) -> float | None:
        """See ``Tally``."""
        if not self.count:
            return None
        return self.total**2 / (self.count * self.squares) if self.squares else 0.0


def importance_weights(
    reference: torch.Tensor, sampler: torch.Tensor, sequence: torch.Tensor, n: int, config: ImportanceConfig
) -> torch.Tensor:
    """Return truncated importance weights min(cap, pi_i / mu) [L] of the loss tokens, without gradient.

    The identity behind the loss holds for samples of any policy [2501.12599 §2.3.2], its expectation is over the
    policy that sampled: an engine in another type, or older weights, as told by the log-probs that it recorded.
    ``reference`` and ``sampler`` [L]: log-probs under the frozen policy and of the sampler. ``sequence`` [L]: which of
    the n sequences each token belongs to. The level ``sequence`` weighs all tokens of a response by the ratio of its
    whole probability: without bias below the cap, and of a variance that grows with the length.
    """
    ratio = (reference - sampler).detach()
    if config.level == "sequence":
        ratio = sequence_sums(ratio, sequence, n)[sequence]
    return ratio.exp().clamp(max=config.cap)


def scale_gradient(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return ``values`` unchanged, with gradients multiplied by ``weight``."""
    return torch.lerp(values.detach(), values, weight)


def weighed(
    logprobs: torch.Tensor, batch: Batch, config: ImportanceConfig | None
) -> tuple[torch.Tensor, dict[str, Tally]]:
    """Return log-probs [L] whose gradients carry the importance weights of ``batch``, and the metrics of these.

    The loss as told is not weighed. ``None``: log-probs as they are, no metrics.
    """
    if config is None:
        return logprobs, {}
    weights = importance_weights(reference_of(batch), batch.sampled_logprobs, batch.sequence, len(batch), config)
    return scale_gradient(logprobs, weights), {
        "importance/mean": Mean.of(weights),
        "importance/ess": EffectiveShare.of(weights),
        "importance/truncated": Mean.of(weights >= config.cap),
    }
