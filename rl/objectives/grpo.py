"""GRPO [2402.03300 §4.1], with the forms of DAPO [2503.14476 §3], GSPO [2507.18071 §4] and Dr. GRPO [2503.20783 §3].

    l_t = -min(rho_t A, clip(rho_t, 1 - low, 1 + high) A),    A_j = (r_j - mean(r)) / std(r)

rho_t = pi / pi_i of the token, or, GSPO, of its response to the power 1 / length. GRPO's KL term to the model before RL
is left out, as DAPO and its successors do: it would need that model in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from rl.objectives.advantages import baselined, standardised
from rl.objectives.importance import weighed
from rl.objectives.policy_gradient import PolicyGradient
from rl.objectives.protocol import Loss, Outputs
from rl.objectives.sequences import reference_of, sequence_sums
from rl.objectives.tally import Mean

if TYPE_CHECKING:
    from rl.learner.batch import Batch


@dataclass(frozen=True, kw_only=True)
class Grpo(PolicyGradient):
    """Fields as in ``GrpoConfig``."""

    clip_low: float
    clip_high: float
    ratio: Literal["token", "sequence"]
    scale: Literal["std", "none"]

    def advantages(self, rewards: Sequence[float | None], correct: Sequence[bool]) -> list[float | None]:  # noqa: ARG002
        """See ``Objective``."""
        return standardised(rewards) if self.scale == "std" else baselined(rewards)

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """See ``Objective``."""
        logprobs, metrics = weighed(outputs.logprobs, batch, self.importance)
        log_ratio = logprobs - reference_of(batch)
        if self.ratio == "sequence":
            log_ratio = sequence_sums(log_ratio, batch.sequence, len(batch)) / batch.loss_lengths
            log_ratio = log_ratio[batch.sequence]
        ratio, advantage = log_ratio.exp(), batch.advantages[batch.sequence]
        low, high = 1 - self.clip_low, 1 + self.clip_high
        losses = -torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
        clipped = ((ratio < low) & (advantage < 0)) | ((ratio > high) & (advantage > 0))
        if self.ratio == "sequence":
            clipped = sequence_sums(clipped.float(), batch.sequence, len(batch)) > 0
        return Loss(self.total(losses, batch), {"clip_share": Mean.of(clipped), **metrics})
