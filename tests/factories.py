"""Small objects for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rewards.score import Score
from rollout.engine import Delta
from rollout.types import Group, Problem, Prompt, Rollout, Segment, StopReason


def ids(tokens: Any) -> tuple[int, ...]:
    """Token data as what compares with ``==``."""
    return tuple(tokens.tolist())


def joined(one: Delta, other: Delta) -> Delta:
    """Two pieces of one request's progress as one."""
    parts = {name: [getattr(d, name) for d in (one, other)] for name in ("token_ids", "logprobs", "pointers")}
    return replace(other, **{name: np.concatenate(arrays) for name, arrays in parts.items()})


def problem(index: int = 0, answer: str = "7") -> Problem:
    return Problem.ask(id=f"p{index}", prompt=f"What is {index}?", answer=answer, verifier="exact", source="test")


def rollout(
    name: str,
    segments: list[tuple[int, int]] | None = None,
    stop: StopReason | None = StopReason.EOS,
    score: Score | None = None,
    prompt: tuple[int, ...] = (1, 2, 3),
) -> Rollout:
    """``segments``: (version, number of tokens) pairs; token ids and log-probs are made up but distinct."""
    parts = []
    position = 0
    for version, count in segments or [(0, 4)]:
        tokens = tuple(5 + (position + t) % 20 for t in range(count))
        logprobs = tuple(-0.1 * (1 + (position + t) % 7) - 1e-17 for t in range(count))
        parts.append(Segment(version, tokens, logprobs))
        position += count
    return Rollout(name, Prompt(prompt), tuple(parts), stop, score)


def group(name: str, rollouts: list[Rollout], born: int = 0, index: int = 0) -> Group:
    return Group(name, problem(index), tuple(rollouts), born)
