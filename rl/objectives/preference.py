"""Direct preference optimisation [2305.18290 §4] on pairs of responses to one prompt.

l = -log sigmoid(beta (Delta_chosen - Delta_rejected)),    Delta = log pi(o) - log pi_ref(o)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.nn.functional import logsigmoid

from rl.objectives.protocol import Loss, Needs, Objective, Outputs
from rl.objectives.sequences import reference_of, sequence_sums
from rl.objectives.tally import Mean

if TYPE_CHECKING:
    from rl.learner.batch import Batch


@dataclass(frozen=True)
class Preference(Objective):
    """Sequences come as chosen, rejected, chosen, rejected; the reference is the model that training began with."""

    beta: float
    """Strength of the tie to the reference."""
    sft_weight: float = 0.0
    """Weight of the chosen response's negative log-likelihood per token beside it [2404.19733]."""
    needs = Needs(tempered=False)
    unit = 2

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """See ``Objective``."""
        delta = sequence_sums(outputs.logprobs - reference_of(batch), batch.sequence, len(batch))
        margin = self.beta * (delta[0::2] - delta[1::2])
        losses = -logsigmoid(margin)
        if self.sft_weight:
            likelihood = sequence_sums(outputs.logprobs, batch.sequence, len(batch)) / batch.loss_lengths
            losses = losses - self.sft_weight * likelihood[0::2]
        preferred = (margin > 0).float() + 0.5 * (margin == 0).float()
        return Loss(losses.sum(), {"objective/margin": Mean.of(margin), "objective/preferred": Mean.of(preferred)})
