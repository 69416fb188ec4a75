"""The statistics of optimiser steps, and of an iteration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Self

import torch

from rl.learner.batch import Batch
from rl.objectives.importance import EffectiveShare
from rl.objectives.sequences import reference_of
from rl.objectives.tally import Mean, Tallies, add_up

if TYPE_CHECKING:
    from rl.learner.qk_clip import Clipped


@dataclass(frozen=True)
class LogRatio:
    """Delta = log pi_theta - log pi_reference of a minibatch's sequences, in nats [2501.12599 eq. 3]."""

    mean: float
    """Mean over sequences."""
    std: float
    max: float
    """Largest absolute value."""
    per_token: float
    """Sum of absolute values over the loss tokens."""

    @classmethod
    def of(cls, values: torch.Tensor, tokens: int) -> Self:
        """Compute it from ``values`` [n], one a sequence; ``tokens``: loss tokens of all."""
        return cls(
            mean=values.mean().item(),
            std=values.std(correction=0).item(),
            max=values.abs().max().item(),
            per_token=values.abs().sum().item() / tokens,
        )


@dataclass(frozen=True)
class Step:
    """Statistics of one optimiser step, those of the policy from the forward pass, before the update."""

    loss: float
    """The objective's loss as minimised, per sequence (or pair) or per token as it says; no auxiliary one."""
    grad_norm: float
    """Global norm before clipping; NaN or infinite when the step was skipped."""
    skipped: bool
    """True when the gradients were not finite: the weights did not change."""
    lr: float
    """Learning rate, ramp included; 0 when the step was skipped."""
    sequences: int
    """Number of sequences."""
    tokens: int
    """Number of loss tokens."""
    entropy: float | None = None
    """Mean entropy of the next-token distribution at the loss tokens, in nats."""
    log_ratio: LogRatio | None = None
    """``None`` without a reference."""
    tallies: Tallies = field(default_factory=dict)
    """The objective's own metrics."""
    clipped: Clipped | None = None
    """What was done to the attention; ``None`` where nothing watches it."""


@dataclass(frozen=True)
class IterationStats:
    """One iteration of training."""

    metrics: dict[str, float]
    """Metrics by their names in ``rl.record.metrics``; finite, or absent."""
    steps: tuple[Step, ...] = ()
    """Empty when nothing was trainable."""


def of_steps(steps: Sequence[Step]) -> dict[str, float | None]:
    """Return the metrics of an iteration's optimiser steps."""
    done = [step for step in steps if not step.skipped]
    found: dict[str, float | None] = {
        "steps/done": len(done),
        "steps/skipped": len(steps) - len(done),
        "tokens/trained": sum(step.tokens for step in steps),
    }
    if not done:
        return found
    last = done[-1]
    found |= {
        "loss": fmean(step.loss for step in done),
        "loss/first": done[0].loss,
        "loss/last": last.loss,
        "grad_norm": fmean(step.grad_norm for step in done),
        "entropy": last.entropy,
        "lr": last.lr,
        **{name: tally.value for name, tally in add_up(step.tallies for step in done).items()},
        **of_clipping(done),
    }
    if ratio := last.log_ratio:
        found |= {f"logratio/{name}": getattr(ratio, name) for name in ("mean", "std", "max", "per_token")}
    return found


def of_clipping(steps: Sequence[Step]) -> dict[str, float]:
    """Return the metrics of what bounds attention logits; none where nothing does."""
    clipped = [step.clipped for step in steps if step.clipped is not None]
    if not clipped:
        return {}
    return {
        "attention/largest_logit": max(each.largest for each in clipped),
        "attention/clipped_heads": sum(each.heads for each in clipped),
    }


def of_batch(batch: Batch, referenced: Sequence[Batch]) -> dict[str, float | None]:
    """Return the metrics of an iteration's ``batch``; ``referenced``: what of it was run, with reference log-probs."""
    gaps = torch.cat([sampler_gaps(each) for each in referenced]) if referenced else torch.empty(0)
    counts = batch.counts
    return {
        "sequences/trained": counts.sequences,
        "sequences/masked": counts.masked,
        "sequences/stale": counts.stale,
        "sequences/small_groups": counts.small_groups,
        **batch.ages.metrics(),
        "gap/mean": Mean.of(gaps).value,
        "gap/max": gaps.max().item() if len(gaps) else None,
        "off_policy/ess": effective_share(referenced),
    }


def sampler_gaps(minibatch: Batch) -> torch.Tensor:
    """Return |sampler - learner| log-prob [m] of the trained tokens that the present weights sampled, in nats."""
    difference = (minibatch.sampled_logprobs - reference_of(minibatch)).abs()
    return difference[minibatch.current[minibatch.loss_mask]]


def effective_share(referenced: Sequence[Batch]) -> float | None:
    """Return the effective share of the weights pi_i / mu of all loss tokens, none of them truncated; ``None`` for no
    tokens.
    """
    ratios = [reference_of(each).double() - each.sampled_logprobs for each in referenced]
    log_weights = torch.cat(ratios) if ratios else torch.empty(0)
    if not len(log_weights):
        return None
    return EffectiveShare.of((log_weights - log_weights.max()).exp()).value  # whose scale does not matter


def known(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Return those of ``metrics`` that are finite numbers."""
    return {name: value for name, value in metrics.items() if value is not None and math.isfinite(value)}
