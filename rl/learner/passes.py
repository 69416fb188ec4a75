"""Passes of the policy over the micro-batches of a minibatch, of which each rank runs its share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self, TypeVar

import torch

from rl.learner import balance
from rl.learner.batch import Batch, pack_demonstrations
from rl.learner.forward import PolicyModel, causal_lm
from rl.learner.spec import LearnerSpec
from rl.learner.stats import LogRatio, Step
from rl.objectives.cross_entropy import CrossEntropy
from rl.objectives.protocol import EMPTY, Loss, Needs, Objective, Outputs
from rl.objectives.sequences import sequence_sums
from rl.objectives.tally import Tallies, add_up

if TYPE_CHECKING:
    from rl.learner.qk_clip import Clipped
    from rl.learner.ranks import Ranks

T = TypeVar("T")

SINGLY = CrossEntropy()
"""An objective that parts any sequences: how batches are cut of which only outputs are wanted."""
IDLE = pack_demonstrations([([0], [0])])
"""What a rank computes while others have a micro-batch and it has none."""


@dataclass(frozen=True)
class _Logprobs:
    """Log-probs of a micro-batch, on the CPU."""

    sequences: Sequence[int]
    """Which of the minibatch's it has."""
    logprobs: torch.Tensor
    """[L]."""


@dataclass(frozen=True)
class Part(_Logprobs):
    """The outputs of a micro-batch that are kept, on the CPU. Empty tensors stand for what its objective did not ask
    for.
    """

    entropy: torch.Tensor
    """[L]."""
    log_ratio: torch.Tensor
    """[n] to the reference."""
    loss: float
    """The sum over its sequences."""
    tallies: Tallies

    @classmethod
    def of(cls, sequences: Sequence[int], part: Batch, outputs: Outputs, loss: Loss) -> Self:
        """Detach and move what is kept."""
        logprobs, ratios = outputs.logprobs.detach(), outputs.logprobs.new_empty(0)
        if part.reference_logprobs is not None and len(logprobs):
            ratios = sequence_sums(logprobs - part.reference_logprobs, part.sequence, len(part))
        return cls(sequences, logprobs.cpu(), outputs.entropy.cpu(), ratios.cpu(), loss.value.item(), loss.metrics)


@dataclass(frozen=True)
class Passed:
    """A minibatch whose gradient is in the parameters, and what its passes told."""

    batch: Batch
    """With the reference log-probs that it was trained against."""
    parts: tuple[Part, ...]
    """Of all shares."""


class Passes:
    """Runs the policy; ``ranks``: those that share the work, all of which call it alike. ``None``: it is alone."""

    def __init__(self, policy: PolicyModel, spec: LearnerSpec, ranks: Ranks | None) -> None:
        self.policy, self.spec, self.ranks = policy, spec, ranks
        self.idle = False
        """Whether what is computed is only for the others' sake, and nothing that watches the policy should count."""
        self._cost = balance.Cost(1.0, 0.0) if ranks is None else balance.cost_of(causal_lm(policy.policy))

    @property
    def count(self) -> int:
        """Number of shares that a minibatch is cut into."""
        return 1 if self.ranks is None else self.ranks.shares

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens of a micro-batch."""
        return self.spec.learner.micro_batch_tokens * self.spec.learner.ranks.sequence

    def shares(self, minibatch: Batch, objective: Objective) -> list[list[list[int]]]:
        """Return the sequences of each micro-batch of each share: units in order of their tokens, none of them parted.

        All shares have as many; an empty one stands for a share that is idle.
        """
        unit = objective.unit
        tokens = minibatch.sizes.view(-1, unit).sum(1).tolist()
        costs = balance.unit_costs(minibatch.sizes.tolist(), unit, self._cost)
        found = balance.cut(tokens, costs, self.count, self.max_tokens)
        return [
            [[unit * index + place for index in part for place in range(unit)] for part in share] for share in found
        ]

    def in_micro_batch_order(self, minibatch: Batch, objective: Objective) -> Batch:
        """Return ``minibatch`` with its sequences in the order in which its micro-batches take them."""
        shares = self.shares(minibatch, objective)
        return minibatch.select([index for share in shares for cut in share for index in cut])

    @torch.no_grad()
    def logprobs(self, batch: Batch, objective: Objective) -> torch.Tensor:
        """Return log-probs [L] of the loss tokens under the present weights, on the CPU.

        ``objective``: whose units are not to be parted and whose temperature counts.
        """
        needs = replace(objective.needs, logprobs=True, hidden=None, head=None, copying=False)
        found: list[_Logprobs] = []
        for cut in self._cuts(batch, objective):
            part = batch.select(cut) if cut else IDLE
            values = self.policy(part.to(self.spec.model.device), needs, self._temperature(objective)).logprobs.cpu()
            found += [_Logprobs(cut, values)] if cut else []
        return _in_order(self._together(found), batch)

    @torch.no_grad()
    def judged(self, batch: Batch, needs: Needs) -> Outputs:
        """Return what ``needs`` asks for of each whole sequence, without gradient, on the CPU, in order.

        Raises ``ValueError`` for needs of single tokens.
        """
        if needs.logprobs or needs.hidden == "tokens" or (needs.head is not None and needs.head.at == "tokens"):
            raise ValueError("outputs of whole sequences are asked for: needs of tokens have log-probs and the like")
        found: list[tuple[list[int], Outputs]] = []
        for cut in self._cuts(batch, SINGLY):
            part = batch.select(cut) if cut else IDLE
            outputs = self.policy(part.to(self.spec.model.device), needs)
            found += [(cut, Outputs(hidden=outputs.hidden.cpu(), head=outputs.head.cpu()))] if cut else []
        parts = self._together(found)
        order = torch.tensor([index for cut, _ in parts for index in cut]).argsort()
        values = {
            name: torch.cat([getattr(outputs, name) for _, outputs in parts])[order]
            for name, wanted in (("hidden", needs.hidden), ("head", needs.head))
            if wanted is not None and parts
        }
        return Outputs(**values)

    def backward(self, minibatch: Batch, objective: Objective, divisor: int = 1, opening: bool = False) -> Passed:
        """Add the gradient of the summed loss of ``minibatch`` over ``divisor`` to what the parameters have.

        ``opening``: the policy still is its own reference, and these log-probs become the minibatch's.
        """
        own: list[Part] = []
        tokens = int(minibatch.loss_mask.sum())
        for cut in self._cuts(minibatch, objective):
            if not cut:
                self._idle(objective)
                continue
            part = minibatch.select(cut).to(self.spec.model.device)
            outputs = self.policy(part, objective.needs, self._temperature(objective))
            if opening:
                part = replace(part, reference_logprobs=outputs.logprobs.detach())
            loss = objective.loss(outputs, part)
            value = loss.value / divisor
            if loss.by_token is not None:
                value = value + loss.by_token / tokens
            value.backward()  # type: ignore[no-untyped-call]
            own.append(Part.of(cut, part, outputs, loss))
        parts = self._together(own)
        if opening:
            minibatch = replace(minibatch, reference_logprobs=_in_order(parts, minibatch))
        return Passed(minibatch, tuple(parts))

    def _cuts(self, minibatch: Batch, objective: Objective) -> list[list[int]]:
        """Return the micro-batches of this rank's own share."""
        return self.shares(minibatch, objective)[0 if self.ranks is None else self.ranks.share]

    def _together(self, own: list[T]) -> list[T]:
        """Return what all shares have of something, in their order."""
        return own if self.ranks is None else [item for share in self.ranks.gather(own) for item in share]

    def _idle(self, objective: Objective) -> None:
        """Take part in a micro-batch of the others, without any loss."""
        self.idle = True
        try:
            outputs = self.policy(IDLE.to(self.spec.model.device), objective.needs)
            nothing = (
                sum(values.sum() for values in (outputs.logprobs, outputs.hidden, outputs.head, outputs.copying)) * 0.0
            )
            nothing.backward()
        finally:
            self.idle = False

    def _temperature(self, objective: Objective) -> float:
        return self.spec.temperature if objective.needs.tempered else 1.0


def step_of(
    passed: Sequence[Passed], divisor: int, grad_norm: float, skipped: bool, lr: float, clipped: Clipped | None = None
) -> Step:
    """Return the statistics of the step on the gradient that ``passed`` left, whose loss is over ``divisor``."""
    parts = [part for each in passed for part in each.parts]
    entropy, ratios = (torch.cat([getattr(part, name) for part in parts]) for name in ("entropy", "log_ratio"))
    tokens = sum(int(each.batch.loss_mask.sum()) for each in passed)
    return Step(
        loss=sum(part.loss for part in parts) / divisor,
        grad_norm=grad_norm,
        skipped=skipped,
        lr=0.0 if skipped else lr,
        sequences=sum(len(each.batch) for each in passed),
        tokens=tokens,
        entropy=entropy.mean().item() if len(entropy) else None,
        log_ratio=LogRatio.of(ratios, tokens) if len(ratios) else None,
        tallies=add_up(part.tallies for part in parts),
        clipped=clipped,
    )


def opens(objective: Objective) -> bool:
    """Return whether the passes of an iteration's first step give its reference."""
    return objective.opens_on_reference and objective.needs.logprobs


def with_signal(minibatch: Batch, objective: Objective) -> Batch:
    """Return the sequences that have an advantage: while the log-ratio is 0, the others have no gradient.

    All of them where an auxiliary loss gives them one.
    """
    if objective.needs.copying:
        return minibatch
    return minibatch.select(minibatch.advantages.nonzero().flatten().tolist())


def divisor_of(minibatch: Batch, objective: Objective) -> int:
    """Return the divisor of the summed loss of ``minibatch``, for every part of it."""
    if objective.per == "token":
        return int(minibatch.loss_mask.sum())
    return minibatch.total // objective.unit


def _in_order(parts: Sequence[_Logprobs], minibatch: Batch) -> torch.Tensor:
    """Return the log-probs [L] of all micro-batches of ``minibatch`` in the order of its sequences."""
    lengths = minibatch.loss_lengths.tolist()
    found: dict[int, torch.Tensor] = {}
    for part in parts:
        values = part.logprobs.split([lengths[index] for index in part.sequences])
        found |= zip(part.sequences, values, strict=True)
    return torch.cat([found[index] for index in range(len(minibatch))]) if found else EMPTY
