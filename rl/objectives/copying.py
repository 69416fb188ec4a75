"""An auxiliary loss beside any objective: a head tells which tokens are copied from the prompt [2109.12533].

p(y_t, z_t | y_<t, x) = p(y_t | y_<t, x) p(z_t | y_<t, x), z_t one of O, B, I (``rollout.copying.labels``). The state
that predicts y_t predicts z_t, for every t: of the first response token, too, which the official code gets wrong. The
gradient reaches the policy's body through that state; the LM head and what engines sample are untouched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch.nn.functional import cross_entropy

from rl.objectives.config import CopyingConfig
from rl.objectives.protocol import Loss, Needs, Objective, Outputs
from rl.objectives.sequences import sequence_sums
from rl.objectives.tally import Mean, Tallies, Tally
from rollout.copying.labels import B, I, O

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rl.learner.batch import Batch

TAGS = {"outside": O, "begin": B, "inside": I}
"""The classes, as metrics call them."""


@dataclass(frozen=True)
class F1:
    """F1 of one class, as its counts."""

    hits: int
    """Tokens of the class that were told to be."""
    told: int
    """Tokens that were told to be of the class."""
    true: int
    """Tokens of the class."""

    @classmethod
    def of(cls, told: torch.Tensor, true: torch.Tensor, label: int) -> Self:
        """Count ``label`` in what was told and what is true [L]."""
        a, b = told == label, true == label
        return cls(int((a & b).sum()), int(a.sum()), int(b.sum()))

    def __add__(self, other: Self, /) -> Self:
        """See ``Tally``."""
        return type(self)(self.hits + other.hits, self.told + other.told, self.true + other.true)

    @property
    def value(self) -> float | None:
        """See ``Tally``; ``None`` where the class is neither told nor true."""
        return 2 * self.hits / (self.told + self.true) if self.told + self.true else None


def labels_of(batch: Batch) -> torch.Tensor:
    """Return the labels [L] of the loss tokens. Raises ``ValueError`` for a batch without them."""
    if batch.copies is None:
        raise ValueError("the batch has no copy labels: rl.learner.copies labels what is packed")
    return batch.copies[batch.loss_mask].long()


def tallies(logits: torch.Tensor, labels: torch.Tensor, batch: Batch) -> Tallies:
    """Return what ``logits`` [L, 3] say of ``labels`` [L]: loss, F1 by class, how much is copied and said to be."""
    logprobs = logits.detach().float().log_softmax(1)
    told = logprobs.argmax(1)
    copied = sequence_sums((labels != O).float(), batch.sequence, len(batch))
    found: dict[str, Tally] = {
        "copying/loss": Mean.of(-logprobs.gather(1, labels[:, None])),
        "copying/probability": Mean.of(-torch.expm1(logprobs[:, O])),
        "copying/share": Mean.of(labels != O),
        "copying/without": Mean.of(copied == 0),
    }
    return found | {f"copying/f1_{name}": F1.of(told, labels, label) for name, label in TAGS.items()}


@dataclass(frozen=True)
class WithCopying(Objective):
    """``inner``, and ``weight`` times the cross-entropy of the copy labels, mean over the minibatch's loss tokens."""

    inner: Objective
    config: CopyingConfig

    @property
    def needs(self) -> Needs:
        """See ``Objective``."""
        return replace(self.inner.needs, copying=True)

    @property
    def per(self) -> Literal["sequence", "token"]:
        """See ``Objective``."""
        return self.inner.per

    @property
    def unit(self) -> int:
        """See ``Objective``."""
        return self.inner.unit

    @property
    def opens_on_reference(self) -> bool:
        """See ``Objective``."""
        return self.inner.opens_on_reference

    def advantages(self, rewards: Sequence[float | None], correct: Sequence[bool]) -> list[float | None]:
        """See ``Objective``."""
        return self.inner.advantages(rewards, correct)

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """See ``Objective``."""
        found, labels = self.inner.loss(outputs, batch), labels_of(batch)
        weights = torch.tensor(self.config.class_weights, device=labels.device)
        value = cross_entropy(outputs.copying.float(), labels, weights, reduction="sum")
        metrics = {**found.metrics, **tallies(outputs.copying, labels, batch)}
        return Loss(found.value, metrics, by_token=self.config.weight * value)


def with_copying(objective: Objective, config: CopyingConfig | None) -> Objective:
    """Return ``objective`` with the loss that ``config`` adds; without one itself."""
    return objective if config is None else WithCopying(objective, config)
