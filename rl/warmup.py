"""Long-CoT warm-up: supervised fine-tuning on verified reasoning paths [2501.12599 §2.2], on the same learner as RL.

Batches are a pure function of the step, so a warm-up that was cut short goes on from its last checkpoint. The
demonstrations of a stage may be the model's own: they are drawn when the stages before it are done.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Protocol

from rl.config import WarmupStage
from rl.planned import Kept, carry_out
from rl.stop import Stopper
from rollout.progress import Progress
from rollout.seeds import seed_of
from rollout.types import TokenIds

Pair = tuple[TokenIds, TokenIds]
"""Prompt tokens and response tokens (end token included) of one demonstration."""

CHECKPOINT_STEPS = 500
"""Optimiser steps between checkpoints of the warm-up."""
SHOWN_STEPS = 20
"""Number of newest steps whose mean loss is shown, since that of one step is mostly noise."""


@dataclass(frozen=True)
class Taught:
    """What one step tells."""

    loss: float
    """Nats per response token."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of an auxiliary loss, by their names in ``rl.record.metrics``."""


class Trainee(Kept, Protocol):
    """The part of the learner that the warm-up uses."""

    def sft(self, pairs: Sequence[Pair], lr: float) -> Taught:
        """Take one optimiser step on masked cross-entropy."""


@dataclass(frozen=True)
class WarmupReport:
    """The result of the warm-up."""

    steps: int
    """Optimiser steps."""
    tokens: int
    """Tokens seen, prompts included."""
    losses: tuple[float, ...]
    """Loss of each step that this process ran, in nats per response token."""


def learning_rate(step: int, steps: int, peak: float, ramp: float = 0.05, end: float = 0.1) -> float:
    """Return the rate: a linear ramp over the share ``ramp`` of the steps, then cosine towards the share ``end`` of
    ``peak``.
    """
    rising = max(1, round(ramp * steps))
    if step < rising:
        return peak * (step + 1) / rising
    progress = (step - rising) / max(1, steps - rising)
    return peak * (end + (1 - end) * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass(frozen=True)
class Step:
    """One optimiser step."""

    stage: int
    examples: tuple[int, ...]
    """Indices into the stage's demonstrations."""
    lr: float


def batches(lengths: Sequence[int], batch_tokens: int, order: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the examples of each step of one epoch, about ``batch_tokens`` a step; ``lengths`` [n] in tokens.

    A rest smaller than half a batch joins the step before it.
    """
    found: list[tuple[int, ...]] = []
    batch: list[int] = []
    tokens = 0
    for index in order:
        batch.append(index)
        tokens += lengths[index]
        if tokens >= batch_tokens:
            found.append(tuple(batch))
            batch, tokens = [], 0
    if batch and found and tokens < batch_tokens / 2:
        found[-1] += tuple(batch)
    elif batch:
        found.append(tuple(batch))
    return found


def plan(stages: Sequence[WarmupStage], lengths: Sequence[Sequence[int]], seed: int) -> list[Step]:
    """Return all steps of the warm-up; ``lengths[s][i]`` is the tokens of demonstration i of stage s.

    Every epoch has an order of its own; every stage has its own learning-rate schedule.
    """
    steps: list[Step] = []
    epoch = 0
    for number, (stage, sizes) in enumerate(zip(stages, lengths, strict=True)):
        drawn: list[tuple[int, ...]] = []
        for _ in range(stage.epochs):
            order = list(range(len(sizes)))
            random.Random(seed_of(seed, "warmup", epoch)).shuffle(order)
            drawn += batches(sizes, stage.batch_tokens, order)
            epoch += 1
        steps += [Step(number, batch, learning_rate(at, len(drawn), stage.lr)) for at, batch in enumerate(drawn)]
    return steps


Later = Callable[[], Sequence[Pair]]
"""Draws the demonstrations of a stage from the model as the stages before have left it; called again by a process that
goes on, it returns the same ones."""


def warm_up(
    stages: Sequence[WarmupStage],
    demonstrations: Sequence[Sequence[Pair] | Later],
    policy: Trainee,
    checkpoints: Path,
    watch: Progress,
    stopper: Stopper,
    seed: int,
    record: Callable[[int, Taught], None],
) -> WarmupReport:
    """Train on the demonstrations of each stage; resumes from ``checkpoints``. Each step calls ``record``.

    Before demonstrations are drawn from the model it is checkpointed. On a stop signal it is, too, and ``Interrupted``
    is raised.
    """
    known: list[Sequence[Pair]] = []
    losses: list[float] = []

    def act(number: int, step: Step) -> str:
        taught = policy.sft([known[step.stage][index] for index in step.examples], step.lr)
        losses.append(taught.loss)
        record(number, taught)
        return f"loss {fmean(losses[-SHOWN_STEPS:]):.3f}"

    def train(last: bool) -> list[Step]:
        """Take the steps of the stages whose demonstrations are known, so far as they are not taken yet."""
        steps = plan(stages[: len(known)], [[*map(_size, pairs)] for pairs in known], seed)
        carry_out("warm-up", steps, act, policy, checkpoints, CHECKPOINT_STEPS, watch, stopper, keep_last=not last)
        return steps

    for given in demonstrations:
        if callable(given) and known:
            train(last=False)
        known.append(given() if callable(given) else given)
    steps = train(last=True)
    tokens = sum(_size(known[step.stage][index]) for step in steps for index in step.examples)
    return WarmupReport(len(steps), tokens, tuple(losses))


def _size(pair: Pair) -> int:
    return len(pair[0]) + len(pair[1])
