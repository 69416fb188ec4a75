"""Deaths of a run's learner: how often in a row it is started again, and whose death an engine's failure was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rl.actors import LearnerDead
from rollout.engine import CopyGone


class Mortal(Protocol):
    """A learner that may be dead."""

    def saving(self) -> object:
        """Raises ``LearnerDead`` when it is."""


@dataclass
class Deaths:
    """Counts a learner's deaths without an iteration done for the first time in between."""

    most: int
    """So many are borne in a row."""
    furthest: int = 0
    """Iterations done when it last died."""
    in_a_row: int = 0

    def note(self, death: LearnerDead, done: int) -> None:
        """Note one more death, after ``done`` iterations; raise it when it is one too many."""
        self.in_a_row = 1 if done > self.furthest else self.in_a_row + 1
        self.furthest = max(done, self.furthest)
        if self.in_a_row > self.most:
            raise death


def death_behind(gone: CopyGone, policy: Mortal) -> LearnerDead:
    """Return the learner's death, of which an engine has heard first that could not take its weights.

    Raises ``gone`` when the learner lives.
    """
    try:
        policy.saving()
    except LearnerDead as death:
        return death
    raise gone
