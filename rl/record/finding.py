"""What a person should know of a run, and the words for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rl.record.metrics import Row


@dataclass(frozen=True)
class Finding:
    """Something that a person should know of a run; each code comes at most once in a run."""

    code: str
    """Stable name, for programs."""
    message: str
    """The observation, with numbers."""
    advice: str
    """What to do."""

    @property
    def text(self) -> str:
        """One line."""
        return f"{self.message}; {self.advice}"


def span(stretch: Sequence[Row]) -> str:
    """Return which iterations these are, as they are counted for people."""
    first, last = (round(row["iteration"]) + 1 for row in (stretch[0], stretch[-1]))
    return f"iterations {first} to {last}" if last > first else f"iteration {first}"


def percent(rate: float) -> str:
    """Return a share with one decimal."""
    return f"{100 * rate:.1f} %"
