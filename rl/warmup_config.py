"""Configuration of the supervised warm-up. Imports no torch, vLLM or Ray."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field, model_validator

from rollout.config import Config


class WarmupStage(Config):
    """One pass of the supervised warm-up: which demonstrations, and how they are learnt."""

    examples: int = Field(20_000, ge=1)
    """Demonstrations: drawn from a procedural source's training split, or the first rows of ``path`` or problems."""
    path: str | None = None
    """JSONL with ``problem`` and ``response``, or with ``messages``, instead of procedural demonstrations; of messages
    what is behind the user's last one is learnt."""
    response: str | None = None
    """Or: make them of training problems from a file, by filling in their fields: ``"{rationale}\\n#### {answer}"``."""
    mixture: dict[str, float] = {}
    """Dials of the procedural source that differ for these demonstrations: ``{thorough: 0.8}``."""
    sampled: int | None = Field(None, ge=1)
    """Or: draw so many responses to each of ``examples`` training problems from the model itself, as the stages before
    have left it, grade them as in RL, and learn those that are right (rejection sampling)."""
    kept: int = Field(1, ge=1)
    """Of the right responses to a problem, learn at most so many, all different. With more the easy problems weigh
    more."""
    faithful: bool = False
    """Of the right responses, learn only those that state nothing as given that the problem does not have
    (docs/quotes.md)."""
    epochs: int = Field(1, ge=1)
    """Passes over the examples."""
    batch_tokens: int = Field(8192, ge=1)
    """Tokens per optimiser step, prompt included."""
    lr: float = Field(2e-3, gt=0)
    """Peak learning rate; linear warm-up over the first 5 %, then cosine to a tenth."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.path is not None and self.response is not None:
            raise ValueError("warmup.path and warmup.response exclude each other: give one of them")
        if self.response is not None and not re.search(r"\{[A-Za-z_]\w*\}", self.response):
            raise ValueError("warmup.response names no field, as in '{answer}': all demonstrations would say the same")
        if self.mixture and (self.path is not None or self.response is not None):
            raise ValueError("warmup.mixture is for demonstrations of a procedural source, not for path or response")
        if self.sampled is not None and (self.path is not None or self.response is not None or self.mixture):
            raise ValueError("warmup.sampled learns what the model itself says: leave path, response and mixture out")
        if self.sampled is None and self.faithful:
            raise ValueError("warmup.faithful chooses among the model's own responses: it goes with warmup.sampled")
        if self.sampled is not None and self.kept > self.sampled:
            raise ValueError(f"warmup.kept {self.kept} is more than the {self.sampled} responses of warmup.sampled")
        return self


class WarmupConfig(WarmupStage):
    """Long-CoT supervised warm-up [2501.12599 §2.2]; the paper gives no size, epochs or learning rate."""

    then: tuple[WarmupStage, ...] = ()
    """Further passes, one after the other, each with examples and a schedule of its own."""

    @property
    def stages(self) -> tuple[WarmupStage, ...]:
        """All passes in order."""
        return (self, *self.then)
