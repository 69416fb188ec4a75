"""The verdict on one response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GRADER_TIMEOUT_S = 1.0
"""Processor seconds of one maths verdict, in training, evaluation and commands alike. What an answer may cost is
bounded in steps, far below this; an answer that spent it would be wrong, so with limits of their own they could differ
on the same response."""


@dataclass(frozen=True)
class Score:
    """What a verifier says of one response.

    There are three outcomes: right, wrong and *ungradable*. Ungradable means that the grader failed, not the
    response: such a rollout is masked and counted, and never becomes reward 0 (invariant 3).
    """

    total: float | None
    """Reward in [0, 1]; ``None`` exactly when ungradable."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Named parts for the report, e.g. ``{"answer": 1.0, "format": 1.0}``; never summed implicitly."""
    reason: str = ""
    """One short line: why wrong or why ungradable; empty when right."""
    extracted: str = ""
    """The answer that was read out of the response, as text; empty when none was found."""

    def __post_init__(self) -> None:
        if self.total is not None and not 0.0 <= self.total <= 1.0:
            raise ValueError(f"Score.total is {self.total}; it must lie in [0, 1] (or be None: ungradable)")

    @property
    def verdict(self) -> str:
        """``correct``, ``wrong`` (anything short of the full reward) or ``ungradable``."""
        return "ungradable" if self.total is None else "correct" if self.total == 1.0 else "wrong"

    @property
    def gradable(self) -> bool:
        """False when the grader failed on this response."""
        return self.total is not None

    @property
    def correct(self) -> bool:
        """True when the response earned the full reward."""
        return self.total == 1.0

    @classmethod
    def right(cls, extracted: str = "", **parts: float) -> Score:
        """A fully correct response."""
        return cls(1.0, parts, "", extracted)

    @classmethod
    def wrong(cls, reason: str, extracted: str = "", **parts: float) -> Score:
        """A gradable response that is not correct."""
        return cls(0.0, parts, reason, extracted)

    @classmethod
    def ungradable(cls, reason: str, extracted: str = "") -> Score:
        """The grader itself failed (time-out, crash, unusable reference): no reward, masked and counted."""
        return cls(None, {}, reason, extracted)
