"""The verdict of a comparison."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict: whether the answer is the reference's and, if not, why."""

    same: bool
    reason: str = ""


SAME = Verdict(True)


def differs(reason: str) -> Verdict:
    """Return a verdict with its reason."""
    return Verdict(False, reason)
