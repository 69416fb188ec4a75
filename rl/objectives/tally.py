"""Numbers of a loss that add up: over micro-batches, over steps, over ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import torch


class Tally(Protocol):
    """A part of a number that adds up with other parts."""

    def __add__(self, other: Self, /) -> Self:
        """Return both parts as one."""

    @property
    def value(self) -> float | None:
        """The number, or ``None`` when nothing was counted."""


@dataclass(frozen=True)
class Mean:
    """A mean, as its sum and count."""

    total: float
    count: float

    @classmethod
    def of(cls, values: torch.Tensor) -> Self:
        """Return the mean of ``values``, a tensor of numbers or bools of any shape."""
        return cls(values.detach().sum().item(), values.numel())

    def __add__(self, other: Self, /) -> Self:
        """See ``Tally``."""
        return type(self)(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float | None:
        """See ``Tally``."""
        return self.total / self.count if self.count else None


@dataclass(frozen=True)
class Max:
    """A largest value."""

    largest: float

    def __add__(self, other: Self, /) -> Self:
        """See ``Tally``."""
        return type(self)(max(self.largest, other.largest))

    @property
    def value(self) -> float | None:
        """See ``Tally``."""
        return self.largest


Tallies = Mapping[str, Tally]
"""Tallies by the name of their metric."""


def add_up(parts: Iterable[Tallies]) -> dict[str, Tally]:
    """Return the tallies of the whole; some parts may lack a name."""
    whole: dict[str, Tally] = {}
    for part in parts:
        for name, tally in part.items():
            whole[name] = whole[name] + tally if name in whole else tally
    return whole
