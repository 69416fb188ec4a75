"""What a comparison says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the answer is the reference's; when not, why."""

    same: bool
    reason: str = ""


SAME = Verdict(True)


def differs(reason: str) -> Verdict:
    """Return a verdict with its reason."""
    return Verdict(False, reason)
