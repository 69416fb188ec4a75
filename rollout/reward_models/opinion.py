"""What a reward model is: responses in, opinions out. Heads, judges and verifiers alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rollout.grading import Answered

NO_ANSWER = "there is no answer behind its thinking"
"""Why a response is wrong to a model that sees answers alone, without being asked of."""


@dataclass(frozen=True)
class Opinion:
    """What a reward model makes of one response."""

    right: float | None
    """Probability in [0, 1] that it is right; ``None``: no opinion (unreadable, too late, abstained, not finite)."""
    reason: str = ""
    """One short line: why there is none."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Named numbers for the record: the verifier's conflict, how many of a judge's verdicts were read."""
    text: str = ""
    """What a judge wrote last, for people: hostile text, as all that models write."""

    def __post_init__(self) -> None:
        if self.right is not None and not 0 <= self.right <= 1:  # NaN, too
            raise ValueError(f"Opinion.right is {self.right}; it must be a probability, or None")
        if wrong := [name for name, value in self.parts.items() if not math.isfinite(value)]:
            raise ValueError(f"Opinion.parts: {wrong[0]!r} is {self.parts[wrong[0]]}; parts must be finite numbers")

    @classmethod
    def none(cls, reason: str, text: str = "", **parts: float) -> Opinion:
        """Return no opinion, and why."""
        return cls(None, reason, parts, text)


class RewardModel(Protocol):
    """Judges finished responses. Used from one event loop only, in which it may wait for engines."""

    async def judge(self, answers: Sequence[Answered]) -> Sequence[Opinion]:
        """Return one opinion per response, in order; what fails is an opinion without ``right``, and is counted.

        Raises ``rollout.engine.AllEnginesDead`` when it can judge no more, which ends the run.
        """

    def counts(self) -> dict[str, float]:
        """Return what it counted since its start, by name. May be called from any thread."""

    def close(self) -> None:
        """Give up what it holds: engines, threads, memory. Idempotent."""
