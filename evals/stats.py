"""The statistics of an evaluation. Pure functions, deterministic.

``rows`` is [problems][responses] with True for right; ungradable responses are left out, so rows may differ in length.
Problems are the independent units: several responses to one problem are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import comb, lcm, sqrt
from statistics import fmean, variance

import numpy as np

from rewards.stats import Estimate, mean_ci

Rows = Sequence[Sequence[bool]]

RESAMPLES = 4000
EXACT_SUBSETS = 2000
"""Subsets of k votes up to which all are counted; beyond, as many seeded draws as ``RESAMPLES`` are."""
EXACT_SUMS = 2_000_000
"""Size of the sign-flip distribution up to which it is worked out exactly."""


def average(rows: Rows) -> Estimate:
    """Return avg@n: the mean of the problems' rates, with Wilson's interval at the clustered effective sample size."""
    return mean_ci([[float(value) for value in row] for row in rows])


def bootstrap(rows: Rows, seed: int = 0, confidence: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of avg@n: problems are redrawn, and within each of them its responses.

    Wider than a bootstrap of problems alone by one sampling variance, since the observed rates hold that already; it
    has no width when all responses agree, where Wilson's interval still has. Raises ``ValueError`` without responses.
    """
    sizes = np.array([len(row) for row in rows if len(row)])
    if not len(sizes):
        raise ValueError("bootstrap: no problem has a graded response")
    rates = np.array([fmean(row) for row in rows if len(row)])
    random = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        chosen = random.integers(len(sizes), size=len(sizes))
        # Redrawing n responses of which a share r is right: a binomial count.
        means[i] = (random.binomial(sizes[chosen], rates[chosen]) / sizes[chosen]).mean()
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def rerun_error(rows: Rows) -> float | None:
    """Return the standard error of avg@n over fresh samples on the *same* problems; two runs differ by √2 of it.

    ``None`` when a problem has a single response: its spread cannot be seen.
    """
    rows = [row for row in rows if len(row)]
    if not rows or any(len(row) < 2 for row in rows):
        return None
    return sqrt(sum(variance([float(value) for value in row]) / len(row) for row in rows)) / len(rows)


def pass_at_k(n: int, right: int, k: int) -> float:
    """Return the unbiased chance that at least one of k responses is right, from ``right`` of n: 1 - C(n - c, k) / C(n,
    k).

    Raises ``ValueError`` unless 1 <= k <= n and 0 <= right <= n.
    """
    if not (1 <= k <= n and 0 <= right <= n):
        raise ValueError(f"pass@{k} needs at least {k} responses and 0 <= right <= n, not n {n}, right {right}")
    return 1.0 - comb(n - right, k) / comb(n, k)


def passed(rows: Rows, k: int) -> Estimate | None:
    """Return pass@k over the problems with at least k graded responses; ``None`` when there are none.

    Wilson's interval at the number of problems: on the safe side where per-problem values are fractions.
    """
    values = [[pass_at_k(len(row), sum(row), k)] for row in rows if len(row) >= k]
    return mean_ci(values) if values else None


@dataclass(frozen=True)
class Ballot:
    """The votes of one problem's responses."""

    votes: tuple[int | None, ...]
    """Class of each response's answer, answers that are equal in one class; ``None``: no answer, no vote."""
    right: frozenset[int]
    """Classes that are the reference's."""


def majority_at_k(ballot: Ballot, k: int, seed: int = 0) -> float:
    """Return the chance that the most frequent answer of k responses, drawn without replacement, is right; ties are
    drawn by lot.

    Exact when k is all of them or C(n, k) is at most ``EXACT_SUBSETS``, else from seeded draws (error below 0.01).
    Raises ``ValueError`` unless 1 <= k <= n.
    """
    n = len(ballot.votes)
    if not 1 <= k <= n:
        raise ValueError(f"maj@{k} needs at least {k} responses, not {n}")
    if comb(n, k) <= EXACT_SUBSETS:
        return fmean(_vote(Counter(subset), ballot.right) for subset in combinations(ballot.votes, k))
    classes = Counter(ballot.votes)
    names = list(classes)
    draws = np.random.default_rng(seed).multivariate_hypergeometric([classes[name] for name in names], k, RESAMPLES)
    return fmean(_vote(dict(zip(names, draw.tolist(), strict=True)), ballot.right) for draw in draws)


def _vote(counts: dict[int | None, int] | Counter[int | None], right: frozenset[int]) -> float:
    tied = _tied(counts)
    return sum(name in right for name in tied) / len(tied) if tied else 0.0


def _tied(counts: Mapping[int | None, int]) -> list[int]:
    cast = {name: count for name, count in counts.items() if name is not None and count}
    most = max(cast.values(), default=0)
    return [name for name, count in cast.items() if count == most]


def winners(votes: Sequence[int | None]) -> list[int]:
    """Return the classes that have the most votes; more than one where there is a tie, none without a vote."""
    return _tied(Counter(votes))


def majority(ballots: Sequence[Ballot], k: int) -> Estimate | None:
    """Return maj@k over the problems with at least k responses; ``None`` when there are none."""
    values = [[majority_at_k(ballot, k)] for ballot in ballots if len(ballot.votes) >= k]
    return mean_ci(values) if values else None


@dataclass(frozen=True)
class Paired:
    """The comparison of two runs on the same problems."""

    difference: float
    """Mean rate of the second minus that of the first."""
    low: float
    high: float
    """95 % interval of the difference."""
    p: float
    """Two-sided p-value of no difference: sign flips of the problems' differences."""
    problems: int
    better: int
    """Number of problems with a higher rate in the second run."""
    worse: int


def paired(first: Rows, second: Rows, seed: int = 0) -> Paired:
    """Compare two runs problem by problem; row i of both belongs to the same problem, no row is empty.

    The interval is Newcombe's for paired proportions (method 10), with clustered Wilson limits and the correlation of
    rates; of their covariance his correction takes 1 / (2 n), so that it has a width also when the runs agree
    everywhere. With one response per problem the p-value is exact McNemar's.
    Raises ``ValueError`` when there is no problem or a row is empty.
    """
    if not first or len(first) != len(second) or not all(first) or not all(second):
        raise ValueError("paired: needs the same problems in both runs, with a graded response each")
    a, b = average(first), average(second)
    rates = [[Fraction(sum(row), len(row)) for row in rows] for rows in (first, second)]
    differences = [y - x for x, y in zip(*rates, strict=True)]
    x, y = (np.array([float(rate) for rate in column]) for column in rates)
    spread = float(x.std() * y.std())
    covariance = float(((x - x.mean()) * (y - y.mean())).mean())
    if covariance > 0:
        covariance = max(0.0, covariance - 0.5 / len(x))
    phi = covariance / spread if spread > 0 else 0.0
    shift = b.mean - a.mean
    return Paired(
        difference=shift,
        low=max(-1.0, shift - _hypotenuse(b.mean - b.low, a.high - a.mean, phi)),
        high=min(1.0, shift + _hypotenuse(b.high - b.mean, a.mean - a.low, phi)),
        p=sign_flip_p(differences, seed),
        problems=len(differences),
        better=sum(value > 0 for value in differences),
        worse=sum(value < 0 for value in differences),
    )


def _hypotenuse(a: float, b: float, phi: float) -> float:
    return sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))


def sign_flip_p(differences: Sequence[Fraction], seed: int = 0) -> float:
    """Return the two-sided p-value of the sum of ``differences`` when each sign is a fair coin.

    Exact by convolution while the sums are few enough, else from 100,000 seeded draws with the observed one counted in.
    """
    scale = lcm(*(value.denominator for value in differences)) if differences else 1
    steps = [abs(int(value * scale)) for value in differences if value]
    observed, reach = abs(sum(int(value * scale) for value in differences)), sum(steps)
    if not steps:
        return 1.0
    if reach <= EXACT_SUMS // max(1, len(steps)) or reach <= 20_000:
        chances = np.zeros(2 * reach + 1)
        chances[reach] = 1.0
        for step in steps:
            chances = 0.5 * (np.roll(chances, step) + np.roll(chances, -step))
        sums = np.abs(np.arange(-reach, reach + 1))
        return min(1.0, float(chances[sums >= observed].sum()))
    random, sizes, draws = np.random.default_rng(seed), np.array([float(s) for s in steps]), 100_000
    hits = 0
    for _ in range(100):
        signs = random.integers(0, 2, size=(draws // 100, len(steps))) * 2 - 1
        hits += int((np.abs(signs @ sizes) >= observed * (1 - 1e-12)).sum())
    return (hits + 1) / (draws + 1)


def powers(n: int) -> tuple[int, ...]:
    """Return 1, 2, 4, ... up to n, and n itself: the k for which pass@k and maj@k are reported."""
    return tuple(sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n}))
