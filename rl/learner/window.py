"""Which tokens carry loss: those of a window of weight versions, or all. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

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
