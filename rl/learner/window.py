"""Which tokens carry loss: those of a window of weight versions, or all; and how old they are. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

from rollout.types import Rollout, Segment, WeightVersion

if TYPE_CHECKING:
    from rl.config import OverlapConfig

LossOn = Literal["current", "all"]
"""As ``rollout.loss_on``."""


def window_of(overlap: OverlapConfig | None) -> int:
    """Return how many weight versions before the present one carry loss in a run that overlaps like this, or not."""
    return overlap.max_staleness if overlap is not None and overlap.mode == "window" else 0


def carries_loss(segment: Segment, version: WeightVersion, loss_on: LossOn, window: int = 0) -> bool:
    """Return whether the tokens of ``segment`` carry loss when the weights ``version`` are trained.

    Only tokens that the policy drew do: all of them, or (``current``) those of the versions ``version - window`` to
    ``version``.
    """
    return segment.sampled and (loss_on == "all" or version - window <= segment.version <= version)


def has_loss(rollout: Rollout, version: WeightVersion, loss_on: LossOn, window: int = 0) -> bool:
    """Return whether any token of ``rollout`` carries loss; see ``carries_loss``."""
    return any(len(segment) and carries_loss(segment, version, loss_on, window) for segment in rollout.segments)


@dataclass(frozen=True)
class Ages:
    """How many versions lie between the weights that drew what is trained on and those that are trained."""

    tokens: Counter[int] = field(default_factory=Counter)
    """Tokens that carry loss, by age."""
    oldest: Counter[int] = field(default_factory=Counter)
    """Rollouts, by the age of their oldest token, whether that one carries loss or not."""

    @classmethod
    def of(cls, rollouts: Iterable[Rollout], version: WeightVersion, loss_on: LossOn, window: int = 0) -> Self:
        """Return those of ``rollouts`` that have loss; see ``carries_loss``."""
        found = cls()
        for rollout in rollouts:
            drawn = [segment for segment in rollout.segments if segment.sampled and len(segment)]
            for segment in drawn:
                if carries_loss(segment, version, loss_on, window):
                    found.tokens[version - segment.version] += len(segment)
            found.oldest[version - drawn[0].version] += 1  # versions never decrease
        return found

    def __add__(self, other: Self, /) -> Self:
        """Return both together."""
        return type(self)(self.tokens + other.tokens, self.oldest + other.oldest)

    def metrics(self) -> dict[str, float]:
        """Return the metrics by name; none of them where nothing was trained."""
        if not self.tokens:
            return {}
        total = self.tokens.total()
        return {
            "staleness/loss_mean": _mean(self.tokens),
            "staleness/loss_max": max(self.tokens),
            "staleness/oldest_mean": _mean(self.oldest),
            "staleness/oldest_max": max(self.oldest),
            **{f"staleness/share/{age}": count / total for age, count in sorted(self.tokens.items())},
        }


def _mean(ages: Counter[int]) -> float:
    return sum(age * count for age, count in ages.items()) / ages.total()
