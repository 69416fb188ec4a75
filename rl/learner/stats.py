"""The statistics of optimiser steps, and of an iteration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Self

import torch

from rl.learner.batch import PackCounts
from rl.objectives.tally import Mean, Tallies, add_up


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
    """The loss as minimised: per sequence (or pair) or per token, as the objective says."""
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
    }
    if ratio := last.log_ratio:
        found |= {f"logratio/{name}": getattr(ratio, name) for name in ("mean", "std", "max", "per_token")}
    return found


def of_batch(counts: PackCounts, gaps: Sequence[torch.Tensor]) -> dict[str, float | None]:
    """Return the metrics of the batch; ``gaps``: |sampler - learner| of the tokens of the present version, in nats."""
    values = torch.cat([*gaps]) if gaps else torch.empty(0)
    return {
        "sequences/trained": counts.sequences,
        "sequences/masked": counts.masked,
        "sequences/stale": counts.stale,
        "sequences/small_groups": counts.small_groups,
        "gap/mean": Mean.of(values).value,
        "gap/max": values.max().item() if len(values) else None,
    }


def known(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Return those of ``metrics`` that are finite numbers."""
    return {name: value for name, value in metrics.items() if value is not None and math.isfinite(value)}
