"""CISPO [2506.13585 §3.1]: REINFORCE whose tokens are weighed by the capped ratio, averaged over tokens.

l_t = -stop_gradient(min(rho_t, cap)) A log pi(t),    A_j = (r_j - mean(r)) / std(r)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rl.objectives.advantages import baselined, standardised
from rl.objectives.importance import weighed
from rl.objectives.policy_gradient import PolicyGradient
from rl.objectives.protocol import Loss, Outputs
from rl.objectives.sequences import reference_of
from rl.objectives.tally import Mean

if TYPE_CHECKING:
    from rl.learner.batch import Batch


@dataclass(frozen=True, kw_only=True)
class Cispo(PolicyGradient):
    """Fields as in ``CispoConfig``."""

    cap: float
    scale: Literal["std", "none"]

    def advantages(self, rewards: Sequence[float | None], correct: Sequence[bool]) -> list[float | None]:  # noqa: ARG002
        """See ``Objective``."""
        return standardised(rewards) if self.scale == "std" else baselined(rewards)

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """See ``Objective``."""
        logprobs, metrics = weighed(outputs.logprobs, batch, self.importance)
        ratio = (logprobs.detach() - reference_of(batch)).exp()
        losses = -ratio.clamp(max=self.cap) * batch.advantages[batch.sequence] * logprobs
        return Loss(self.total(losses, batch), {"clip_share": Mean.of(ratio > self.cap), **metrics})
