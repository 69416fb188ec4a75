"""Of a result: which windows of evidence spoke, and NBCE beside another way to use the same evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from evals.evaluate import Answer


@dataclass(frozen=True)
class Voting:
    """Which windows of evidence spoke, over all responses from several windows."""

    tokens: tuple[float, ...]
    """Mean share of a response's tokens that each window spoke for."""
    first: tuple[float, ...]
    """Share of the responses whose first token each window spoke for."""
    found: float | None
    """Share of the responses whose first token the window with the answer spoke for; ``None``: not known which it
    is."""


@dataclass(frozen=True)
class Beside:
    """The result with evidence in windows, beside this one of another way on the same problems and seeds."""

    name: str
    """Of the other result."""
    difference: float
    """Its mean rate less this one's."""
    ci95: tuple[float, float]
    p: float
    """Of sign flips."""
    better: int
    """Problems at which it is the better."""
    worse: int
    problems: int


def voting(answers: Sequence[Answer]) -> Voting | None:
    """Return which windows spoke over all responses from several; ``None`` without any."""
    spoke = [answer.response.spoke for answer in answers if answer.response.spoke is not None]
    if not spoke:
        return None
    windows = max(len(one.shares) for one in spoke)
    known = [one for one in spoke if one.holder]
    return Voting(
        tokens=tuple(fmean(one.shares[k] for one in spoke) for k in range(windows)),
        first=tuple(fmean(one.first == k + 1 for one in spoke) for k in range(windows)),
        found=fmean(one.first == one.holder for one in known) if known else None,
    )
