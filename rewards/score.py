"""The verdict on one response."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

GRADER_TIMEOUT_S = 1.0
"""Processor seconds of one maths verdict, in training, evaluation and commands alike. What an answer may cost is
bounded in steps, far below this; an answer that spent it would be wrong, so with limits of their own they could differ
on the same response."""


@dataclass(frozen=True)
class Score:
    """A grader's verdict on one response.

    There are three outcomes: right, wrong and *ungradable*. Ungradable means that the grader failed, not the
    response: such a rollout is masked and counted, and never becomes reward 0 (invariant 3). Training maximises
    ``reward``; accuracy, votes and the length reward go by ``correct``.
    """

    reward: float | None
    """Any finite number; ``None`` exactly when ungradable. Our verifiers give 1 to right answers and 0 to others."""
    correct: bool = False
    """Whether the response solves the problem; never when ungradable."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Named parts for the report, e.g. ``{"answer": 1.0, "format": 1.0}``; never summed implicitly."""
    reason: str = ""
    """One short line: why wrong or why ungradable; empty when right."""
    extracted: str = ""
    """The answer that was read out of the response, as text; empty when none was found."""
    opinion: str = ""
    """What a reward model wrote of it last, for people: hostile text, as all that models write. In brackets: why it
    has no opinion. Empty: nothing."""

    def __post_init__(self) -> None:
        if self.reward is not None and not math.isfinite(self.reward):
            raise ValueError(f"Score.reward is {self.reward}; it must be a finite number (or None: ungradable)")
        if self.correct not in (True, False):
            raise ValueError(f"Score.correct is {self.correct!r}; it must be True or False")
        if self.correct and self.reward is None:
            raise ValueError("Score: a response without a reward is ungradable and cannot be correct")
        for name, value in self.parts.items():
            if not math.isfinite(value):
                raise ValueError(f"Score.parts: {name!r} is {value}; parts must be finite numbers")

    @property
    def verdict(self) -> str:
        """``correct``, ``wrong`` or ``ungradable``."""
        return "ungradable" if self.reward is None else "correct" if self.correct else "wrong"

    @property
    def gradable(self) -> bool:
        """False when the grader failed on this response."""
        return self.reward is not None

    @classmethod
    def right(cls, extracted: str = "", **parts: float) -> Score:
        """Return a correct response, reward 1."""
        return cls(1.0, True, parts, "", extracted)

    @classmethod
    def wrong(cls, reason: str, extracted: str = "", **parts: float) -> Score:
        """Return a gradable response that is not correct, reward 0."""
        return cls(0.0, False, parts, reason, extracted)

    @classmethod
    def ungradable(cls, reason: str, extracted: str = "") -> Score:
        """Return the score for a failed grader (time-out, crash, unusable reference): no reward, masked and counted."""
        return cls(None, False, {}, reason, extracted)
