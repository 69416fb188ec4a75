"""The engines that are simulated, and the lengths of the responses that they draw."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.scale.hardware import DEFAULT, H100
from benchmarks.scale.models import QWEN2_7B
from benchmarks.scale.rollout import SLOTS
from benchmarks.scale.rollout import Engine as ModelledEngine
from rollout.seeds import seed_of

CONTEXT = 1000
"""Tokens before a token that is drawn, for the GPU engine's constants."""


@dataclass(frozen=True)
class Engine:
    """How long an engine takes."""

    name: str
    step_s: float
    """Seconds of a decoding step, whatever is in it."""
    sequence_s: float
    """Seconds that each sequence adds to a step."""
    prefill_s: float
    """Seconds to read a token of a prompt, or of a response that is continued."""
    publish_s: float
    """Seconds to take new weights."""
    slots: int = SLOTS
    """Sequences that it is at, ``engine.max_concurrency``."""

    def step(self, sequences: int) -> float:
        """Return the seconds of a step."""
        return self.step_s + self.sequence_s * sequences

    def token(self, sequences: float) -> float:
        """Return the seconds a token while it is at so many."""
        return self.step_s / sequences + self.sequence_s


def cpu() -> Engine:
    """Return the quickstart's engine on two cores with AVX-512: 9,100 tokens/s at 256 sequences, nearly all of it
    overhead of each sequence (docs/log.md).
    """
    return Engine("quickstart, two cores", step_s=4e-3, sequence_s=1 / 9100 - 4e-3 / 256, prefill_s=1e-5, publish_s=0.1)


def gpu() -> Engine:
    """Return what ``benchmarks.scale`` has for a model of 7 billion parameters on one H100: memory-bound, so that a
    step of few sequences takes not much less than one of many.
    """
    engine = ModelledEngine(QWEN2_7B, H100)
    few, many = engine.step(1, CONTEXT), engine.step(SLOTS, SLOTS * CONTEXT)
    each = (many - few) / (SLOTS - 1)
    prefill = 2.0 * QWEN2_7B.active / (H100.sustained * H100.flops)
    return Engine(f"{QWEN2_7B.name}, H100", few - each, each, prefill, DEFAULT.publish)


@dataclass(frozen=True)
class Lengths:
    """Log-normal lengths of responses in tokens, as they would be without a cap."""

    mean: float
    sigma: float

    def of(self, group: int, sibling: int) -> int:
        """Return the length of one response; the same in every arm."""
        first, second = (seed_of(group, 2 * sibling + part) for part in (0, 1))
        uniform, turn = ((value % 2**32 + 0.5) / 2**32 for value in (first, second))
        normal = math.sqrt(-2 * math.log(uniform)) * math.cos(2 * math.pi * turn)
        return max(1, round(self.mean * math.exp(self.sigma * normal - self.sigma**2 / 2)))
