"""REINFORCE with the group's mean reward as baseline [2402.14740].

    l_j = -A_j log pi(o_j),    A_j = r_j - mean(r)

At an iteration's first step this is k1.5's gradient; later ones know neither ratio nor regulariser.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rl.objectives.importance import weighed
from rl.objectives.policy_gradient import PolicyGradient
from rl.objectives.protocol import Loss, Outputs

if TYPE_CHECKING:
    from rl.learner.batch import Batch


@dataclass(frozen=True)
class Reinforce(PolicyGradient):
    """Fields as in ``ReinforceConfig``. The reference only serves to measure how far the policy moved."""

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """See ``Objective``."""
        logprobs, metrics = weighed(outputs.logprobs, batch, self.importance)
        return Loss(self.total(-batch.advantages[batch.sequence] * logprobs, batch), metrics)
