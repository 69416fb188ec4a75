"""Classic reward models for `benchmarks.judges`, with every chance: all weights, rate and epoch by validation."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import say
from rewards.models.verdict import CORRECT
from rl.config import RunConfig
from rl.learner.config import LearnerConfig, ModelConfig, OptimizerConfig, PretrainedModel
from rl.objectives.config import ClassesConfig
from rollout.config import EngineConfig, RolloutConfig
from rollout.files import replace_file
from rollout.models.prompts import render_chat
from rollout.problems.config import VerdictsSource
from rollout.problems.verdicts import load_verdicts
from rollout.strict_json import dumps
from rollout.types import Problem, TokenIds

RATES = (3e-4, 1e-3, 3e-3)
"""Learning rates that are tried."""
EPOCHS = 10
"""Passes over the labelled responses."""
BATCH = 64
"""Responses of an optimiser step."""
VALIDATION = 10
"""One labelled response in so many chooses rate and epoch, and is not learnt."""


@dataclass(frozen=True)
class Tried:
    """The best epoch of one learning rate."""

    lr: float
    epoch: int
    validation: float
    """Accuracy."""
    loss: float
    """Mean over the epoch, in nats a response."""
    rights: Mapping[str, list[bool]]
    """Claim of the test -> whether it was called what it is."""


def head_rights(
    base: Path,
    labelled: VerdictsSource,
    test: VerdictsSource,
    kept: Path,
    seed: int,
    threads: int,
    rates: Sequence[float] = RATES,
    epochs: int = EPOCHS,
) -> tuple[Mapping[str, list[bool]], float]:
    """Return what the best head makes of the test, and its rate; what ``kept`` has of it is not trained again."""
    known = json.loads(kept.read_text()) if kept.exists() else {}
    sequences = Sequences.of(base, labelled, test)
    for lr in rates:
        if str(lr) in known:
            continue
        tried = train(base, sequences, lr, epochs, seed, threads)
        known[str(lr)] = asdict(tried)
        replace_file(kept, dumps(known).encode())
        accuracy = np.mean([*tried.rights.values()])
        say(
            f"head, {len(sequences.train)} responses, rate {lr:g}: epoch {tried.epoch}, loss {tried.loss:.3f}, "
            f"validation {tried.validation:.3f}, test {accuracy:.3f}"
        )
    best: dict[str, Any] = max(known.values(), key=lambda one: one["validation"])
    return best["rights"], best["lr"]


Example = tuple[str, TokenIds, int]
"""Claim, what is read of it, and its class."""


@dataclass(frozen=True)
class Sequences:
    """Labelled responses as the base model's tokens: exactly what a judge reads, too."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]

    @classmethod
    def of(cls, base: Path, labelled: VerdictsSource, test: VerdictsSource) -> Sequences:
        """Read them."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(base)

        def example(problem: Problem) -> Example:
            messages = [{"role": message.role, "content": message.content} for message in problem.messages]
            return problem.id, render_chat(tokenizer, messages).token_ids, int(problem.answer == CORRECT)

        known = [example(problem) for problem in load_verdicts(labelled, "train")]
        return cls(
            tuple(known[len(known) // VALIDATION :]),
            tuple(known[: len(known) // VALIDATION]),
            tuple(example(problem) for problem in load_verdicts(test, "heldout")),
        )


def train(base: Path, sequences: Sequences, lr: float, epochs: int, seed: int, threads: int = 0) -> Tried:
    """Train one head from ``base``; its best epoch is the one that is right most often on the validation part."""
    from rl.learner.batch import pack_labelled
    from rl.learner.learner import Learner
    from rl.learner.spec import LearnerSpec

    config = RunConfig(
        seed=seed,
        iterations=0,
        model=ModelConfig(base=PretrainedModel(path=str(base)), threads=threads),
        engine=EngineConfig(kind="hf", max_model_len=384),
        rollout=RolloutConfig(max_tokens=1, segment_tokens=1),
        learner=LearnerConfig(
            optimizer=OptimizerConfig(kind="muon", lr=lr, weight_decay=0.01, reset_each_iteration=False),
            objective=ClassesConfig(),
        ),
    )
    learner = Learner(LearnerSpec.of(config), base)
    best: Tried | None = None
    steps = epochs * math.ceil(len(sequences.train) / BATCH)
    step = 0
    for epoch in range(1, epochs + 1):
        order = [*sequences.train]
        random.Random(f"{seed}/{epoch}").shuffle(order)
        losses = []
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            batch = pack_labelled([ids for _, ids, _ in part], [[label] for _, _, label in part])
            losses.append(learner.step(batch, lr=rate(step, steps, lr)).loss)
            step += 1
        right = np.mean([value for (value,) in judged(learner, sequences.validation).values()])
        if best is None or right >= best.validation:
            rights = judged(learner, sequences.test)
            best = Tried(lr, epoch, float(right), float(np.mean(losses)), rights)
    assert best is not None
    return best


def rate(step: int, steps: int, peak: float) -> float:
    """Return the learning rate of a step: as in a warm-up."""
    from rl.warmup import learning_rate

    return learning_rate(step, steps, peak)


def judged(learner: Any, examples: Sequence[Example]) -> dict[str, list[bool]]:
    """Return claim -> whether the head calls it what it is."""
    from rl.learner.batch import pack_labelled
    from rl.objectives.classes import Classes

    called = learner.judged(pack_labelled([ids for _, ids, _ in examples]), Classes(2).needs).head.argmax(1).tolist()
    return {name: [call == label] for (name, _, label), call in zip(examples, called, strict=True)}
