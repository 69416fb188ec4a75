"""Whether a run watches how different its responses are. Imports no torch, vLLM or Ray."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from rollout.config import Config


class CollapseConfig(Config):
    """When a policy has ceased to explore: its responses have become alike (docs/diversity.md)."""

    shorthand: ClassVar[str] = "then"
    then: Literal["warn", "stop"] = "warn"
    """``warn``: say so, and go on. ``stop``: end the run with a checkpoint and a message."""
    least: float = Field(0.05, ge=0, le=1)
    """Spread of the wrong responses to a problem below which the alarm sounds; 0: never for that."""
    fall: float = Field(0.5, gt=0, lt=1)
    """Or: spread of the wrong responses to one problem, or of responses to different ones, that has fallen by more than
    this part of its mean over the ``first`` iterations."""
    first: int = Field(5, ge=1)
    """Iterations, from the first one that is measured, whose mean is what later ones are compared with."""
    window: int = Field(3, ge=1)
    """Iterations that are averaged before they are compared."""
    groups: int = Field(20, ge=1)
    """Fewest groups with two wrong responses in a window, and in the first iterations: with fewer, nothing is said of
    them."""


class DiversityConfig(Config):
    """Measures in each iteration how different its responses are (docs/diversity.md); given as one text it is what the
    ``alarm`` does.
    """

    shorthand: ClassVar[str] = "alarm"
    alarm: CollapseConfig | None = CollapseConfig()
    """When responses have become alike; ``null``: they are measured only."""

    @classmethod
    def spelled_out(cls, value: str | float) -> dict[str, Any]:
        """See ``Config``."""
        return {cls.shorthand: CollapseConfig.spelled_out(value)}
