"""Pretraining: next-token prediction on packed text, on the same learner as RL.

Every step is a pure function of the configuration: its windows of each text, its learning rate. So a run that was cut
short goes on from its last checkpoint, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Protocol

import numpy as np

from rl.planned import Kept, carry_out
from rl.pretraining_config import PretrainConfig
from rl.stop import Stopper
from rl.text.drawing import Windows, shares
from rl.text.shards import Ids, Shards
from rl.warmup import SHOWN_STEPS, Taught
from rollout.progress import Progress


@dataclass(frozen=True)
class PretrainStep:
    """One optimiser step, complete."""

    stage: int
    length: int
    """Tokens of a sequence."""
    lr: float
    balance: float
    """Step of the experts' biases."""
    counts: tuple[int, ...]
    """Sequences from each text."""
    first: tuple[int, ...]
    """Number of the first window of each."""

    @property
    def tokens(self) -> int:
        """Tokens that are read."""
        return self.length * sum(self.counts)


class Trainee(Kept, Protocol):
    """The part of the learner that pretraining uses."""

    def pretrain(self, rows: Sequence[Ids], lr: float, step: int, balance: float) -> Taught:
        """Take one optimiser step on whole sequences, with the attention of ``step``."""

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return the log-prob of each token but the first, in nats."""


def plan(config: PretrainConfig) -> list[PretrainStep]:
    """Return all steps.

    A stage goes on in each text behind as many tokens as the stages before have read: exactly there with the same
    length; with another the windows of the shard that was begun are shuffled anew, and some of it is read again.
    """
    steps: list[PretrainStep] = []
    read = np.zeros(len(config.text), np.int64)
    before = 0.0
    for number, stage in enumerate(config.stages):
        length = config.length(stage)
        first = -(-read // length)
        counts = shares(list(config.mixture(stage).values()), [stage.rows(step) for step in range(stage.steps)])
        for step, count in enumerate(counts):
            rate = stage.rate(step, before)
            steps.append(
                PretrainStep(number, length, rate, stage.balance, tuple(count.tolist()), tuple(first.tolist()))
            )
            first = first + count
        read = first * length
        before = stage.last_lr
    return steps


class Texts:
    """The texts of a configuration, in its order, and the windows that steps take of them."""

    def __init__(self, shards: Mapping[str, Shards], seed: int) -> None:
        self.shards, self._seed = shards, seed
        self._windows: dict[tuple[str, int], Windows] = {}

    def rows(self, step: PretrainStep) -> list[Ids]:
        """Return the sequences of a step. Raises ``rl.text.stretch.TextError``."""
        return [
            self.windows(name, step.length)[first + place]
            for name, count, first in zip(self.shards, step.counts, step.first, strict=True)
            for place in range(count)
        ]

    def windows(self, name: str, length: int) -> Windows:
        """Return the windows of so many tokens of a text."""
        return self._windows.setdefault((name, length), Windows(self.shards[name], length, self._seed))


def apart(rows: Sequence[Ids], end: int) -> list[Ids]:
    """Return rows cut behind each end token: documents by themselves. Pieces of one token predict nothing and go."""
    found = []
    for row in rows:
        cuts = np.flatnonzero(np.asarray(row) == end) + 1
        found += [piece for piece in np.split(row, cuts) if len(piece) > 1]
    return found


Measure = Callable[[int], Mapping[str, float]]
"""Held-out losses after so many steps, by the names of metrics."""


def pretrain(
    config: PretrainConfig,
    texts: Texts,
    end: int,
    policy: Trainee,
    measure: Measure,
    checkpoints: Path,
    watch: Progress,
    stopper: Stopper,
    record: Callable[[int, Mapping[str, float | None]], None],
) -> int:
    """Train on all steps; resumes from ``checkpoints``. Returns the tokens read. Each step calls ``record``.

    ``end`` ends documents. ``measure`` is asked before step 0 and after every so many. Raises ``TextError``,
    ``NonFiniteGradients``, and ``Interrupted`` on a stop signal.
    """
    steps = plan(config)
    losses: list[float] = []
    every = config.measure.every

    def act(number: int, step: PretrainStep) -> str:
        before = measure(number) if every and number % every == 0 else {}
        began = time.perf_counter()
        rows = texts.rows(step)
        taught = policy.pretrain(
            rows if config.documents == "together" else apart(rows, end), step.lr, number, step.balance
        )
        seconds = time.perf_counter() - began
        losses.append(taught.loss)
        values: dict[str, float | None] = {"loss": taught.loss, "lr": step.lr, "tokens": step.tokens}
        values |= {"seconds": seconds, "stage": step.stage, **taught.metrics, **before}
        record(number, values)
        recent = [loss for loss in losses[-SHOWN_STEPS:] if math.isfinite(loss)]
        return f"loss {fmean(recent):.3f}" if recent else "loss not finite"

    carry_out("pretraining", steps, act, policy, checkpoints, config.checkpoint.every, watch, stopper)
    return sum(step.tokens for step in steps)


@dataclass(frozen=True)
class HeldOut:
    """What a model makes of the held-out part of one text."""

    loss: float
    """Nats per token."""
    bits: float
    """Per byte of the text."""
    positions: tuple[float, ...]
    """Nats per token in stretches of positions; the last one is the trailing loss."""


def held_out(policy: Trainee, rows: Sequence[Ids], bytes_per_token: float, bins: int) -> HeldOut:
    """Return the loss on ``rows``, all of one length, which are read by themselves."""
    scores = -np.array(policy.score([row.tolist() for row in rows]))
    parts = [float(part.mean()) for part in np.array_split(scores, min(bins, scores.shape[1]), axis=1)]
    loss = float(scores.mean())
    return HeldOut(loss, loss / math.log(2) / bytes_per_token, tuple(parts))
