"""Calibration, against closed forms and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import mannwhitneyu

from rewards.models.calibration import (
    COLDEST,
    HOTTEST,
    bins,
    brier,
    calibration_error,
    cross_entropy,
    fit_temperature,
    probabilities,
    separation,
)


def drawn(classes: int, temperature: float, rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose classes are drawn at ``temperature``."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(rows, classes), scale=3)
    told = np.array([rng.choice(classes, p=row) for row in softmax(logits / temperature, axis=1)])
    return logits, told


def test_probabilities_are_scipys_and_nan_stays_in_its_row() -> None:
    logits = np.array([[1e4, -1e4, 3.0], [0.5, 0.25, np.nan], [1.0, np.inf, 0.0]])
    found = probabilities(logits, 2.0)
    np.testing.assert_allclose(found[0], softmax(logits[0] / 2.0), rtol=1e-14)
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize("classes", [2, 5])
def test_the_temperature_is_the_best_there_is(classes: int) -> None:
    logits, told = drawn(classes, temperature=2.5)
    found = fit_temperature(logits, told)
    counts = np.bincount(told)
    targets = np.where(np.arange(classes) == told[:, None], (counts[told] + 1)[:, None], 1.0)
    targets /= (counts[told] + classes)[:, None]

    def smoothed(temperature: float) -> float:
        return sum(
            float((targets[row] * -np.log(softmax(logits[row] / temperature))).sum()) for row in range(len(logits))
        )

    assert targets.sum(1) == pytest.approx(1)
    assert found == pytest.approx(minimize_scalar(smoothed, bounds=(0.05, 20), options={"xatol": 1e-7}).x, rel=1e-4)
    plain = minimize_scalar(lambda t: cross_entropy(logits, told, t), bounds=(0.05, 20), options={"xatol": 1e-7}).x
    assert found == pytest.approx(plain, rel=0.15)
    assert found == pytest.approx(2.5, rel=0.2)


def test_of_one_gap_the_temperature_has_a_closed_form() -> None:
    """With all logits [0, d] and targets whose mean is q, p = sigmoid(d / T) = q."""
    logits, told = np.tile([0.0, 3.0], (10, 1)), np.array([1] * 8 + [0] * 2)
    q = 0.8 * 9 / 10 + 0.2 * 1 / 4
    assert fit_temperature(logits, told) == pytest.approx(3.0 / np.log(q / (1 - q)), rel=1e-9)


def test_few_rows_that_are_told_apart_do_not_make_it_sure() -> None:
    logits = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(1 / np.log(2))  # two of three right
    assert fit_temperature(np.tile(logits, (50, 1)), np.array([1, 0] * 50)) == pytest.approx(1 / np.log(51))


def test_without_a_best_temperature_it_stays_within_its_bounds() -> None:
    logits = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert fit_temperature(0.01 * np.tile(logits, (50, 1)), np.array([1, 0] * 50)) == COLDEST
    assert fit_temperature(logits, np.array([0, 1])) == HOTTEST
    with pytest.raises(ValueError, match="no rows"):
        fit_temperature(np.empty((0, 2)), [])


def test_bins_and_their_error_by_hand() -> None:
    p, y = [0.0, 0.05, 0.95, 1.0, 0.55], [0, 1, 1, 1, 0]
    held = bins(p, y, 10)
    assert [(one.low, one.count) for one in held] == [(0.0, 2), (0.5, 1), (0.9, 2)]
    assert [one.seen for one in held] == [0.5, 0.0, 1.0]
    assert calibration_error(held) == pytest.approx((2 * 0.475 + 1 * 0.55 + 2 * 0.025) / 5)
    assert all(one.ci95[0] <= one.seen <= one.ci95[1] for one in held)
    assert brier(p, y) == pytest.approx((0 + 0.95**2 + 0.05**2 + 0 + 0.55**2) / 5)
    assert calibration_error(()) == 0


def test_separation_is_mann_whitneys_u() -> None:
    rng = np.random.default_rng(1)
    p, y = rng.integers(0, 20, 300) / 20, rng.integers(0, 2, 300).astype(bool)
    u = mannwhitneyu(p[y], p[~y]).statistic
    assert separation(p, y) == pytest.approx(u / (y.sum() * (~y).sum()), rel=1e-12)
    assert separation([0.1, 0.9], [0, 1]) == 1
    assert separation([0.1, 0.9], [1, 1]) is None
