"""Interval estimates of means over problems, for training metrics and evaluations.

Several responses to one problem are not independent: the problem is the unit of sampling, so every interval here treats
a problem as a cluster. All functions are pure and deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean and its confidence interval."""

    mean: float
    """Point estimate, in the unit of the data (a rate in [0, 1] for accuracies)."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    n: int
    """Independent units behind it: problems, not responses."""


def wilson(rate: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion ``rate`` in [0, 1] seen in ``n`` > 0 independent trials.

    Unlike the normal interval it keeps its coverage near 0 and 1 and never leaves [0, 1]. ``n`` may be fractional (an
    effective sample size). Raises ``ValueError`` outside those ranges.
    """
    if not (0.0 <= rate <= 1.0 and n > 0):
        raise ValueError(f"wilson: needs a rate in [0, 1] and n > 0, not rate {rate}, n {n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    scale = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / scale
    half = z * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / scale
    # At the ends one bound is the rate itself; rounding must not push it past.
    low = 0.0 if rate == 0.0 else max(0.0, centre - half)
    high = 1.0 if rate == 1.0 else min(1.0, centre + half)
    return low, high


def mean_ci(correct: Sequence[Sequence[float]], confidence: float = 0.95) -> Estimate:
    """Return the mean success rate over problems, with several responses each: avg@n and its interval.

    ``correct`` is [problems][responses], values in [0, 1]; rows may differ in length (ungradable responses left out)
    and empty rows do not count. The mean is the mean of the problems' rates. The interval is Wilson's at the effective
    sample size p (1 - p) / Var(mean), whose variance is taken between problems, kept within [problems, responses]; with
    one response each it is exactly Wilson's. Raises ``ValueError`` when no problem has a response.
    """
    rows = [np.asarray(row, dtype=float) for row in correct if len(row)]
    if not rows:
        raise ValueError("mean_ci: no problem has a graded response")
    rates = np.array([row.mean() for row in rows])
    n, total = len(rows), sum(len(row) for row in rows)
    mean = float(rates.mean())
    spread = mean * (1 - mean)
    variance = float(rates.var(ddof=1)) / n if n > 1 else 0.0
    # No spread between problems at p = 0 or 1 says nothing about how alike responses are: count problems only.
    size = n if spread <= 0 else min(max(spread / variance if variance > 0 else total, n), total)
    low, high = wilson(min(max(mean, 0.0), 1.0), size, confidence)
    return Estimate(mean, low, high, n)


def share_ci(correct: Sequence[Sequence[float]], confidence: float = 0.95) -> Estimate:
    """Return the share of all responses that are right, each counting alike, and its interval.

    As ``mean_ci``, but problems with more responses weigh more: the variance is that of a ratio over problems, and the
    effective sample size may be as small as that of problems whose responses are all alike, which is fewer than the
    problems where some have most of the responses. Raises ``ValueError`` when no problem has a response.
    """
    rows = [np.asarray(row, dtype=float) for row in correct if len(row)]
    if not rows:
        raise ValueError("share_ci: no problem has a graded response")
    sizes = np.array([len(row) for row in rows], dtype=float)
    n, total = len(rows), float(sizes.sum())
    share = float(sum(row.sum() for row in rows) / total)
    off = np.array([(row - share).sum() for row in rows])
    # A problem pulls the share towards itself, the more so the larger it is: its part in all is taken out again.
    variance = float((off**2 / (1 - sizes / total)).sum() / total**2) if n > 1 else 0.0
    spread, alike = share * (1 - share), total**2 / float(sizes @ sizes)
    size = alike if spread <= 0 else min(max(spread / variance if variance > 0 else total, alike), total)
    low, high = wilson(min(max(share, 0.0), 1.0), size, confidence)
    return Estimate(share, low, high, n)


def bootstrap_ci(
    values: Sequence[Sequence[float]], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Return the mean over all responses of any quantity (e.g. tokens), with a percentile bootstrap over problems.

    ``values`` is [problems][responses]; whole problems are redrawn, so responses of one problem stay together. Seeded.
    Raises ``ValueError`` when no problem has a value.
    """
    rows = [row for row in values if len(row)]
    if not rows:
        raise ValueError("bootstrap_ci: no problem has a value")
    sums = np.array([float(np.sum(row)) for row in rows])
    sizes = np.array([len(row) for row in rows], dtype=float)
    n = len(rows)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)  # [resamples, problems]
    means = (draws @ sums) / (draws @ sizes)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Estimate(float(sums.sum() / sizes.sum()), float(low), float(high), n)
