"""Negative training: what a text is not, which is seldom wrong even where its label is [2306.07621].

With a share eta of wrong labels, one drawn from the other C - 1 classes is the true class with probability
eta / (C - 1) only. With two classes there is nothing to draw, and the loss is cross-entropy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from rl.objectives.classes import labels_of
from rl.objectives.config import Pooled
from rl.objectives.protocol import Head, Loss, Needs, Objective, Outputs
from rl.objectives.tally import Mean

if TYPE_CHECKING:
    from rl.learner.batch import Batch

CLIP = 1e-5
"""Smallest probability of not being of a class: a text that is surely what it should not be has no gradient."""
HISTORY = 2
"""Epochs that the probability of a text's own label is averaged over."""


def complementary(labels: Sequence[int], classes: int, draws: int, seed: int | Sequence[int]) -> list[list[int]]:
    """Return for each label [n] itself and ``draws`` other classes, uniform and with replacement: [n][1 + draws], the
    columns that ``Negative`` reads.
    """
    own = np.asarray(labels, np.int64)[:, None]
    shift = np.random.default_rng(seed).integers(1, classes, size=(len(own), draws))
    return np.concatenate([own, (own + shift) % classes], 1).tolist()


def class_weights(labels: Sequence[int], classes: int) -> tuple[float, ...]:
    """Return max_c n_c / n_y for each class y; 1 for a class without any text."""
    counts = np.bincount(np.asarray(labels, np.int64), minlength=classes)
    return tuple((counts.max(initial=1) / np.maximum(counts, 1) * (counts > 0) + (counts == 0)).tolist())


def log_not(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return log(1 - p) [n, k] of the classes [n, k] under ``logits`` [n, C].

    As the log of the sum of the other probabilities: nothing is subtracted from 1, and with two classes it is the
    other one's log-prob to the last bit.
    """
    logprobs = logits.float().log_softmax(1)
    others = logprobs[:, None, :].expand(-1, classes.shape[1], -1)
    own = torch.nn.functional.one_hot(classes, logits.shape[1]).bool()
    return others.masked_fill(own, -math.inf).logsumexp(2)


def negative_loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Return the loss of each text [n], in nats: the sum over its complementary labels of -w log(1 - p).

    ``logits`` [n, C]; ``labels`` [n, 1 + K] as from ``complementary``; ``weights`` [C] of the classes of column 0.
    """
    loss = -log_not(logits, labels[:, 1:]).clamp(min=math.log(CLIP)).sum(1)
    return loss if weights is None else loss * weights[labels[:, 0]]


@dataclass(frozen=True)
class Negative(Objective):
    """-log(1 - p(class)) of each complementary label, in nats a text, without any positive term.

    ``Batch.labels`` [n, 1 + K]: the class of each, then classes that it is not; see ``complementary``.
    """

    classes: int
    weights: tuple[float, ...] = ()
    """Factor on the loss of each class's texts; empty: 1."""
    at: Pooled = "ends"
    """Whose hidden state the head reads."""

    @property
    def needs(self) -> Needs:
        """See ``Objective``."""
        return Needs(logprobs=False, tempered=False, reference=False, head=Head(self.classes, at=self.at, bias=False))

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """See ``Objective``."""
        labels = labels_of(batch)
        weights = torch.tensor(self.weights, device=labels.device) if self.weights else None
        value = negative_loss(outputs.head, labels, weights).sum()
        return Loss(value, {"objective/accuracy": Mean.of(outputs.head.argmax(1) == labels[:, 0])})


class SelectiveFilter:
    """Which texts are still taught: not those whose own label has long been improbable.

    A text whose label had, averaged over the last ``history`` epochs, a probability below 1/C is left out of the next.
    It may come back. Before so many epochs have been seen all are kept.
    """

    def __init__(self, classes: int, history: int = HISTORY) -> None:
        if classes < 2 or history < 1:
            raise ValueError(f"{classes} classes and {history} epochs: at least 2 and 1 are needed")
        self.threshold = 1 / classes
        self.history = history
        self.seen: list[list[float]] = []
        """[epochs][n], at most ``history`` of them: the probability of each text's own label."""

    def see(self, own: Sequence[float]) -> None:
        """Take in the probability of each text's own label [n] after an epoch, also of those left out."""
        self.seen = [*self.seen, [float(value) for value in own]][-self.history :]

    def kept(self, texts: int) -> list[int]:
        """Return the indices of those of ``texts`` texts that the next epoch teaches."""
        if len(self.seen) < self.history:
            return list(range(texts))
        mean = np.mean(self.seen, axis=0)
        return np.flatnonzero(mean >= self.threshold).tolist()
