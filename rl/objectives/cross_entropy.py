"""Masked cross-entropy: supervised fine-tuning and the warm-up [2501.12599 §2.2], in nats per response token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rl.objectives.protocol import Loss, Needs, Objective, Outputs

if TYPE_CHECKING:
    from rl.learner.batch import Batch


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """-log pi of every loss token, divided by the tokens of the whole minibatch, however it is cut."""

    needs = Needs(tempered=False, reference=False)

    @property
    def per(self) -> Literal["sequence", "token"]:
        """See ``Objective``."""
        return "token"

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:  # noqa: ARG002
        """See ``Objective``."""
        return Loss(-outputs.logprobs.sum())
