"""The protocol of objectives: from packed outputs of the policy and their targets to a loss and named metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch.utils import _pytree as pytree

from rl.objectives.advantages import baselined
from rl.objectives.tally import Tallies

if TYPE_CHECKING:
    from rl.learner.batch import Batch

At = Literal["tokens", "ends", "starts", "means"]
"""Which hidden states: those that predict each loss token [L], or one of each sequence [n]: of its last token, of its
first, which in encoders has seen all of it, or the mean over its tokens."""
OWN_METRICS = "objective/"
"""Prefix of the names of an objective's own metrics."""
SHARED = ("saturated", "clip_share", "importance/mean", "importance/ess", "importance/truncated")
"""Metrics that several objectives have."""


@dataclass(frozen=True)
class Head:
    """A linear head on the last hidden state, trained and checkpointed with the policy; engines never see it."""

    outputs: int
    """Number of outputs: 1 for a value, more for classes."""
    at: At = "tokens"
    bias: bool = True
    """Whether the outputs have a bias; the heads of transformers' sequence classification have none."""


@dataclass(frozen=True)
class Needs:
    """The outputs of the policy that an objective uses."""

    logprobs: bool = True
    """Log-probs and entropies of the loss tokens."""
    tempered: bool = True
    """Log-probs at the temperature that tokens are sampled at; otherwise at 1."""
    reference: bool = True
    """Also log-probs under the policy frozen at the start of the iteration, as ``Batch.reference_logprobs``."""
    hidden: At | None = None
    """Hidden states."""
    head: Head | None = None
    """Outputs of a head."""
    copying: bool = False
    """Logits of the copy head at each loss token (``rl.objectives.copying``)."""


EMPTY = torch.empty(0)


@dataclass(frozen=True)
class Outputs:
    """What the policy returns for L loss tokens in n sequences; empty where it was not asked for."""

    logprobs: torch.Tensor = EMPTY
    """[L] nats, with gradient."""
    entropy: torch.Tensor = EMPTY
    """[L] nats, of the whole next-token distribution; without gradient."""
    hidden: torch.Tensor = EMPTY
    """[L, d] or [n, d], with gradient."""
    head: torch.Tensor = EMPTY
    """[L, outputs] or [n, outputs], with gradient."""
    copying: torch.Tensor = EMPTY
    """[L, 3] logits of O, B and I, with gradient."""


pytree.register_dataclass(Outputs)  # so that hooks on the forward pass find its tensors


@dataclass(frozen=True)
class Loss:
    """The loss of some sequences of a minibatch."""

    value: torch.Tensor
    """Scalar: the sum over the sequences; the learner divides by what ``Objective.per`` counts in the minibatch."""
    metrics: Tallies = field(default_factory=dict)
    """Names of its own begin with ``objective/``; ``rl.record`` knows the others."""
    by_token: torch.Tensor | None = None
    """Scalar: an auxiliary loss, summed over the loss tokens; the learner divides it by those of the minibatch."""


class Objective(Protocol):
    """What the learner minimises. Subclass it to have the defaults."""

    @property
    def needs(self) -> Needs:
        """The outputs of the policy that it uses."""
        return Needs()

    @property
    def per(self) -> Literal["sequence", "token"]:
        """The divisor of the summed loss, however the minibatch is cut: its units, or its loss tokens."""
        return "sequence"

    @property
    def unit(self) -> int:
        """Sequences in a row that enter the loss together and are never parted: 1, or 2 for pairs."""
        return 1

    @property
    def opens_on_reference(self) -> bool:
        """An iteration's first step needs no reference pass of its own, and no sequence whose advantage is 0.

        True if at a log-ratio of 0 the loss may take the log-probs that carry its gradient, detached, for the
        reference, and if the gradient of a sequence without advantage is 0 there.
        """
        return False

    def advantages(self, rewards: Sequence[float | None], correct: Sequence[bool]) -> list[float | None]:  # noqa: ARG002
        """Return the advantages [k] of one problem's rollouts; ``None`` leaves a rollout out.

        ``rewards`` [k]: total rewards, ``None`` where a rollout is masked. ``correct`` [k].
        """
        return baselined(rewards)

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """Return the loss of some of a minibatch's sequences, all on one device."""
        ...
