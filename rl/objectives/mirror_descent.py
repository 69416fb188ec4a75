"""The k1.5 policy objective, online mirror descent [2501.12599 §2.3].

l_j = -A_j log pi(o_j) + tau/2 (log pi(o_j) - log pi_i(o_j))^2,    A_j = r_j - tau log Z
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rl.objectives.advantages import Baseline, baselined
from rl.objectives.config import ImportanceConfig, LengthNorm
from rl.objectives.importance import weighed
from rl.objectives.protocol import Loss, Objective, Outputs
from rl.objectives.sequences import length_norms, reference_of, sequence_sums
from rl.objectives.tally import Mean

if TYPE_CHECKING:
    from rl.learner.batch import Batch


@dataclass(frozen=True)
class SequenceLoss:
    """The surrogate loss of n sequences."""

    loss: torch.Tensor
    """Scalar: the sum over the sequences of l_j / norm_j."""
    saturated: torch.Tensor
    """[n] bool: the regulariser outweighs the advantage, A_j (A_j - tau Delta_j) < 0; detached."""


def policy_loss(
    logprobs: torch.Tensor,
    reference: torch.Tensor,
    sequence: torch.Tensor,
    advantage: torch.Tensor,
    norm: torch.Tensor,
    tau: float,
) -> SequenceLoss:
    """l_j = -A_j log pi_theta(o_j) + tau/2 Delta_j^2 over the loss tokens [2501.12599 eq. 3].

    ``logprobs`` [T] with gradient and ``reference`` [T]: log-probs of the loss tokens under the policy and under the
    policy frozen at the start of the iteration. ``sequence`` [T] ints: the sequence that each token belongs to.
    ``advantage`` [n] and ``norm`` [n]: A_j, and what l_j is divided by (1 in the paper). Log-ratios are summed over
    tokens and never divided by the length inside the square: that would change tau with the length.
    """
    n = advantage.shape[0]
    log_pi = sequence_sums(logprobs, sequence, n)
    delta = sequence_sums(logprobs - reference, sequence, n)
    losses = -advantage * log_pi + 0.5 * tau * delta.square()
    return SequenceLoss((losses / norm).sum(), advantage * (advantage - tau * delta.detach()) < 0)


@dataclass(frozen=True)
class MirrorDescent(Objective):
    """k1.5's objective; fields as in ``MirrorDescentConfig``."""

    tau: float
    baseline: Baseline
    length_norm: LengthNorm
    max_tokens: int
    """Longest response, in tokens."""
    importance: ImportanceConfig | None = None
    opens_on_reference = True

    def advantages(self, rewards: Sequence[float | None], correct: Sequence[bool]) -> list[float | None]:  # noqa: ARG002
        """See ``Objective``."""
        return baselined(rewards, self.baseline, self.tau)

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """See ``Objective``."""
        logprobs, metrics = weighed(outputs.logprobs, batch, self.importance)
        norm = length_norms(batch.loss_lengths, self.length_norm, self.max_tokens)
        found = policy_loss(logprobs, reference_of(batch), batch.sequence, batch.advantages, norm, self.tau)
        return Loss(found.loss, {"saturated": Mean.of(found.saturated), **metrics})
