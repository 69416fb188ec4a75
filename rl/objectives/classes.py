"""Cross-entropy over classes of whole sequences, on a linear head at each one's last token: the classic reward model.
In encoders the head is on the first token or on the mean over all.

Two classes, wrong and right, make the reward model with a value head [2203.02155 §3.5; 2501.12599 §2.3.5].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from rl.objectives.config import Pooled
from rl.objectives.protocol import Head, Loss, Needs, Objective, Outputs
from rl.objectives.tally import Mean

if TYPE_CHECKING:
    from rl.learner.batch import Batch


def labels_of(batch: Batch) -> torch.Tensor:
    """Return the classes [n, m] of a batch's sequences. Raises ``ValueError`` for a batch without them."""
    if batch.labels is None:
        raise ValueError("the batch has no labels: rl.learner.batch.pack_labelled packs sequences with theirs")
    return batch.labels


@dataclass(frozen=True)
class Classes(Objective):
    """-log p(class), in nats a sequence. ``Batch.labels`` [n, 1]: the class of each."""

    classes: int
    weights: tuple[float, ...] = ()
    """Factor on the loss of each class's sequences; empty: 1."""
    at: Pooled = "ends"
    """Whose hidden state the head reads."""

    @property
    def needs(self) -> Needs:
        """See ``Objective``."""
        return Needs(logprobs=False, tempered=False, reference=False, head=Head(self.classes, at=self.at, bias=False))

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """See ``Objective``."""
        labels = labels_of(batch)[:, 0]
        weight = torch.tensor(self.weights, device=labels.device) if self.weights else None
        value = cross_entropy(outputs.head, labels, weight, reduction="sum")
        return Loss(value, {"objective/accuracy": Mean.of(outputs.head.argmax(1) == labels)})
