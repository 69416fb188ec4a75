"""Long-CoT warm-up: supervised fine-tuning on verified reasoning paths [A.3], on the same learner as RL.

Batches are a pure function of the step, so a warm-up that was cut short goes on from its last checkpoint.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rl import checkpoint
from rl.checkpoint import RunState
from rl.config import WarmupConfig
from rl.stop import Interrupted, Stopper
from rollout.seeds import seed_of

Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""Prompt tokens and response tokens (end token included) of one demonstration."""

CHECKPOINT_STEPS = 500
"""Optimiser steps between checkpoints of the warm-up."""


class Trainee(Protocol):
    """The learner as the warm-up sees it."""

    def sft(self, pairs: Sequence[Pair], lr: float) -> float:
        """One optimiser step on masked cross-entropy; returns the loss in nats per response token."""

    def save(self, folder: Path) -> None:
        """Weights, optimiser and RNG into an existing directory."""

    def load(self, folder: Path) -> None:
        """Inverse of ``save``."""


class Progress(Protocol):
    """The live view."""

    def stage(self, name: str, total: int) -> None: ...
    def advance(self, n: int) -> None: ...
    def warn(self, text: str) -> None: ...


@dataclass(frozen=True)
class WarmupReport:
    """How the warm-up went."""

    steps: int
    """Optimiser steps."""
    tokens: int
    """Tokens seen, prompts included."""
    losses: tuple[float, ...]
    """Loss of each step that this process ran, in nats per response token."""


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear ramp over the first 5 % of the steps, then cosine to a tenth of ``peak``."""
    ramp = max(1, round(0.05 * steps))
    if step < ramp:
        return peak * (step + 1) / ramp
    progress = (step - ramp) / max(1, steps - ramp)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def plan(lengths: Sequence[int], config: WarmupConfig, seed: int) -> list[list[int]]:
    """Example indices of each optimiser step: every epoch in an order of its own, about ``batch_tokens`` a step.

    A rest smaller than half a batch joins the step before it.
    """
    steps: list[list[int]] = []
    for epoch in range(config.epochs):
        order = list(range(len(lengths)))
        random.Random(seed_of(seed, "warmup", epoch)).shuffle(order)
        batch: list[int] = []
        tokens = 0
        for index in order:
            batch.append(index)
            tokens += lengths[index]
            if tokens >= config.batch_tokens:
                steps.append(batch)
                batch, tokens = [], 0
        if batch and (tokens >= config.batch_tokens / 2 or not steps):
            steps.append(batch)
        elif batch:
            steps[-1].extend(batch)
    return steps


def warm_up(
    config: WarmupConfig,
    pairs: Sequence[Pair],
    policy: Trainee,
    checkpoints: Path,
    watch: Progress,
    stopper: Stopper,
    seed: int,
    record: Callable[[int, float], None],
) -> WarmupReport:
    """Train on all ``pairs``; resumes from ``checkpoints``. ``record(step, loss)`` is called after each step.

    On a stop signal it checkpoints and raises ``Interrupted``.
    """
    batches = plan([len(prompt) + len(response) for prompt, response in pairs], config, seed)
    first = 0
    if found := checkpoint.latest(checkpoints, watch.warn):
        first = found[0].iteration
        policy.load(found[1])
    watch.stage("warm-up", len(batches))
    watch.advance(first)
    losses: list[float] = []
    for step in range(first, len(batches)):
        batch = [pairs[index] for index in batches[step]]
        losses.append(policy.sft(batch, learning_rate(step, len(batches), config.lr)))
        record(step, losses[-1])
        watch.advance(1)
        if stopper.requested or (step + 1) % CHECKPOINT_STEPS == 0:
            checkpoint.save(checkpoints, RunState(step + 1), policy.save, keep=2)
        if stopper.requested:
            raise Interrupted(f"stopped after warm-up step {step}")
    tokens = sum(len(pairs[i][0]) + len(pairs[i][1]) for batch in batches for i in batch)
    return WarmupReport(len(batches), tokens, tuple(losses))
