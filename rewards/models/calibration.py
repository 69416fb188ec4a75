"""How well probabilities of classes say how often they are right: temperature, calibration error, separation.

Pure functions of arrays. p: probability of being right; y: whether it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rewards.stats import wilson

Floats = npt.NDArray[np.float64]
COLDEST, HOTTEST = 0.05, 20.0
"""Temperatures within which one is looked for: of logits that are all alike, or mostly wrong, none is the best."""


def probabilities(logits: npt.ArrayLike, temperature: float = 1.0) -> Floats:
    """Return softmax(logits / temperature) [n, C]; a row with a NaN or infinite logit is NaN throughout."""
    scaled = np.asarray(logits, np.float64) / temperature
    finite = np.isfinite(scaled).all(axis=1, keepdims=True)
    scaled = np.where(finite, scaled, 0.0)
    grown = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.where(finite, grown / grown.sum(axis=1, keepdims=True), np.nan)


def cross_entropy(logits: npt.ArrayLike, classes: npt.ArrayLike, temperature: float = 1.0) -> float:
    """Return the mean of -log p(class), nats, of ``logits`` [n, C] and ``classes`` [n]."""
    scaled = np.asarray(logits, np.float64) / temperature
    shifted = scaled - scaled.max(axis=1, keepdims=True)
    own = np.take_along_axis(shifted, np.asarray(classes, np.int64)[:, None], axis=1)[:, 0]
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - own))


def fit_temperature(logits: npt.ArrayLike, classes: npt.ArrayLike) -> float:
    """Return the temperature in [``COLDEST``, ``HOTTEST``] that minimises the cross-entropy [1706.04599 §4.2] with
    Platt's targets: of n rows of a class the truth is that class with (n + 1) / (n + C), not 1 [Platt 1999].

    So a few rows that are all told apart do not make it sure of everything; of many rows it is the plain minimum. It is
    convex in 1 / T, so the root of its derivative, the mean of E_p[logit] - E_target[logit], is found by bisection.
    Raises ``ValueError`` without rows.
    """
    given, chosen = np.asarray(logits, np.float64), np.asarray(classes, np.int64)
    if not len(given):
        raise ValueError("fit_temperature: no rows")
    number = given.shape[1]
    counts = np.bincount(chosen, minlength=number)[:, None]
    targets = (np.eye(number) * counts + 1) / (counts + number)  # [class, C]
    expected = float(np.mean((targets[chosen] * given).sum(axis=1)))

    def slope(inverse: float) -> float:
        return float(np.mean((probabilities(given, 1 / inverse) * given).sum(axis=1))) - expected

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(low) >= 0:
        return HOTTEST
    if slope(high) <= 0:
        return COLDEST
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)


@dataclass(frozen=True)
class Bin:
    """Responses whose probability lies in an interval."""

    low: float
    high: float
    count: int
    said: float
    """Mean probability."""
    seen: float
    """Share that is right."""
    ci95: tuple[float, float]
    """Wilson's interval of ``seen``."""


def bins(p: npt.ArrayLike, y: npt.ArrayLike, number: int = 10) -> tuple[Bin, ...]:
    """Return the intervals of equal width that hold any of ``p`` [n], with the share of ``y`` [n] in each."""
    said, right = np.asarray(p, np.float64), np.asarray(y, np.float64)
    place = np.minimum((said * number).astype(np.int64), number - 1)
    found = []
    for index in range(number):
        inside = place == index
        if count := int(inside.sum()):
            seen = float(right[inside].mean())
            interval = wilson(seen, count)
            found.append(Bin(index / number, (index + 1) / number, count, float(said[inside].mean()), seen, interval))
    return tuple(found)


def calibration_error(held: Sequence[Bin]) -> float:
    """Return the expected calibration error: the mean over responses of |said - seen| of their bin [1706.04599 §2]."""
    total = sum(one.count for one in held)
    return sum(one.count * abs(one.said - one.seen) for one in held) / total if total else 0.0


def brier(p: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Return the mean of (p - y)^2."""
    return float(np.mean((np.asarray(p, np.float64) - np.asarray(y, np.float64)) ** 2))


def separation(p: npt.ArrayLike, y: npt.ArrayLike) -> float | None:
    """Return the area under the ROC curve: P(a right response has the higher p than a wrong one), ties half; ``None``
    where only one of the two occurs.
    """
    said, right = np.asarray(p, np.float64), np.asarray(y, bool)
    rights, wrongs = int(right.sum()), int((~right).sum())
    if not rights or not wrongs:
        return None
    _, where, counts = np.unique(said, return_inverse=True, return_counts=True)
    last: Any = np.cumsum(counts)
    rank = (last - (counts - 1) / 2)[where]  # of ties the mean
    return float((rank[right].sum() - rights * (rights + 1) / 2) / (rights * wrongs))
