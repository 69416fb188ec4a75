"""A finding: what a paper says, the arms that would show it here, and what they came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from recipes.evidence.bench.trial import Outcome, Trial, read_outcome
from rewards.stats import Estimate

Floats = npt.NDArray[np.float64]
Arms = Mapping[str, Sequence[Trial]]
"""The trials of each arm, one for each seed."""
Ruling = Literal["holds", "does not", "cannot tell"]
LEAST_SEEDS = 3
"""With fewer nothing ``holds``."""


@dataclass(frozen=True)
class Row:
    """A line of a finding's table."""

    name: str
    """Of an arm, or of the difference of two."""
    estimate: Estimate
    """Over seeds, with its 95 % interval."""
    unit: str = ""


@dataclass(frozen=True)
class Judgement:
    """What the trials of a finding have come to."""

    ruling: Ruling
    text: str
    """Why, in one or two sentences with their figures."""
    rows: tuple[Row, ...] = ()
    draw: Callable[[Any], None] | None = field(default=None, compare=False)
    """Draws the plot on matplotlib's axes."""


class Finding(Protocol):
    """A module of ``recipes.evidence``."""

    TITLE: str
    PAPER: str
    """Where it is from."""
    CLAIM: str
    """What the paper says."""
    PUBLISHED: str
    """Its figure."""
    SCALE: str
    """What is smaller here, and what it does not show."""

    @staticmethod
    def arms(bench: Bench) -> Arms:
        """Return the arms, as far as they are known: some choose what comes next."""

    @staticmethod
    def judge(results: Results) -> Judgement:
        """Return what the arms have come to; called when all of them are done."""


@dataclass(frozen=True)
class Bench:
    """Where trials are kept, and how many seeds there are."""

    root: Path
    seeds: tuple[int, ...]

    def outcome(self, trial: Trial) -> Outcome | None:
        """Return what a trial has come to; ``None`` while it is not done."""
        return read_outcome(trial, self.root)

    def best(self, choices: Mapping[float, Trial], score: Callable[[Outcome], float]) -> float | None:
        """Return the choice (a learning rate, say) whose trial scores highest; ``None`` while one is not done.

        What failed scores less than anything; if all did, it is the smallest.
        """
        outcomes = {choice: self.outcome(trial) for choice, trial in choices.items()}
        if None in outcomes.values():
            return None
        scores = {choice: score(one) for choice, one in outcomes.items() if one is not None and one.failed is None}
        return max(scores, key=lambda choice: scores[choice]) if scores else min(choices)


@dataclass(frozen=True)
class Results:
    """The outcomes of all arms."""

    arms: Mapping[str, Sequence[Outcome]]
    bench: Bench

    def values(self, arm: str, score: Callable[[Outcome], float]) -> Floats:
        """Return the score of an arm's trials [seeds]; NaN for those that failed."""
        return np.array([np.nan if one.failed is not None else score(one) for one in self.arms[arm]])

    @property
    def failed(self) -> list[str]:
        """The arms with trials that failed, and how many, as text."""
        counts = {arm: sum(one.failed is not None for one in outcomes) for arm, outcomes in self.arms.items()}
        return [f"{arm}: {count} of {len(self.arms[arm])}" for arm, count in counts.items() if count]


def estimate(values: Floats, confidence: float = 0.95) -> Estimate:
    """Return the mean of ``values`` [seeds] with Student's interval; NaNs are left out. One value has no interval."""
    from scipy.stats import t

    known = values[np.isfinite(values)]
    n = len(known)
    if not n:
        return Estimate(np.nan, -np.inf, np.inf, 0)
    mean = float(known.mean())
    if n == 1:
        return Estimate(mean, -np.inf, np.inf, 1)
    half = float(t.ppf(0.5 + confidence / 2, n - 1) * known.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def above(difference: Estimate, margin: float = 0.0) -> Ruling:
    """Return whether a difference is above ``margin``: ``holds`` if its whole interval is, over enough seeds; ``does
    not`` if none of it is.
    """
    if difference.n < LEAST_SEEDS:
        return "cannot tell"
    if difference.low > margin:
        return "holds"
    return "does not" if difference.high <= margin else "cannot tell"


def within(difference: Estimate, margin: float) -> Ruling:
    """Return whether two are alike: ``holds`` if the whole interval of their difference is closer to 0 than ``margin``;
    ``does not`` if none of it is.
    """
    if difference.n < LEAST_SEEDS:
        return "cannot tell"
    if -margin < difference.low and difference.high < margin:
        return "holds"
    return "does not" if difference.low > margin or difference.high < -margin else "cannot tell"


def all_of(rulings: Sequence[Ruling]) -> Ruling:
    """Return the ruling on claims together: one that does not hold decides, then one that cannot be told."""
    for ruling in ("does not", "cannot tell"):
        if ruling in rulings:
            return ruling
    return "holds"


def shown(one: Estimate, digits: int = 3, scale: float = 1.0) -> str:
    """Return an estimate with its interval as text."""
    if not np.isfinite(one.mean):
        return "no result"
    if not np.isfinite(one.low):
        return f"{scale * one.mean:.{digits}f} (one seed)"
    return f"{scale * one.mean:.{digits}f} [{scale * one.low:.{digits}f}, {scale * one.high:.{digits}f}]"
