"""Procedural sums of large numbers: hopeless for a small model to work out, and one call of Python away."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rollout.problems.source import Split
from rollout.problems.splits import owner
from rollout.types import Message, Problem

ASK = "Compute "
OPENS, CLOSES = "<python>", "</python>"
"""Around code, in the demonstrations and where the environment looks for it."""
HELD_OUT_SHARE = 4
"""One text in so many belongs to the held-out split."""


def split_of(text: str) -> Split:
    """Return the split that owns this text."""
    return owner(text, "sums", HELD_OUT_SHARE)


@dataclass(frozen=True)
class Sums:
    """A source of problems: ``Compute 48213+9912-70155``."""

    terms: tuple[int, int] = (2, 3)
    """Fewest and most numbers of a sum, inclusive."""
    digits: tuple[int, int] = (4, 6)
    """Fewest and most digits of a number, inclusive."""
    tool: float = 0.3
    """Share of demonstrations that call Python; the others state the answer at once."""
    seed: int = 0
    """Another seed is another stream of problems with the same splits."""

    def __post_init__(self) -> None:
        if not 2 <= self.terms[0] <= self.terms[1]:
            raise ValueError(f"terms must satisfy 2 <= fewest <= most, got {self.terms}")
        if not 1 <= self.digits[0] <= self.digits[1] <= 15:
            raise ValueError(f"digits must satisfy 1 <= fewest <= most <= 15, got {self.digits}")
        if not 0 <= self.tool <= 1:
            raise ValueError(f"tool is a share, got {self.tool}")

    @property
    def alphabet(self) -> tuple[str, ...]:
        """Tokens of which every prompt, demonstration and output is a concatenation."""
        return (ASK, OPENS, CLOSES, "\n", "+", "-", *"0123456789")

    def problem(self, index: int, split: Split) -> Problem:
        """Return problem ``index`` of a split; no text occurs in both."""
        rng = random.Random(f"k15.sums/{self.seed}/{split}/{index}")
        while True:
            text = self._draw(rng)
            if split_of(text) == split:
                break
        terms = text.count("+") + text.count("-") + 1
        return Problem.ask(f"sums:{text}", ASK + text, str(value_of(text)), "exact", "sums", float(terms))

    def _draw(self, rng: random.Random) -> str:
        numbers = []
        for _ in range(rng.randint(*self.terms)):
            digits = rng.randint(*self.digits)
            numbers.append(str(rng.randint(10 ** (digits - 1), 10**digits - 1)))
        return numbers[0] + "".join(rng.choice("+-") + number for number in numbers[1:])

    def demonstration(self, problem: Problem, rng: random.Random) -> str | Sequence[Message]:
        """Return the answer, or a call of Python, its output and the answer: right either way."""
        if rng.random() >= self.tool:
            return problem.answer
        code = OPENS + problem.prompt.removeprefix(ASK) + CLOSES
        return Message("assistant", code), Message("tool", problem.answer), Message("assistant", problem.answer)


def value_of(text: str) -> int:
    """Return the value of a sum's text."""
    return sum(int(term) for term in text.replace("-", "+-").split("+"))
