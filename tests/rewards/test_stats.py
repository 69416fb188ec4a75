"""rewards.stats: exact values, edges, and coverage."""

from math import isclose, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.stats import bootstrap_ci, mean_ci, share_ci, wilson

Z = 1.959963984540054


def test_wilson_known_values() -> None:
    # By hand for 15 of 20: centre (0.75 + z^2/40) / (1 + z^2/20), half-width z sqrt(0.75 * 0.25/20 + z^2/1600) / (...).
    assert wilson(15 / 20, 20) == pytest.approx((0.531299, 0.888138), abs=1e-6)
    # 0 of 10: the upper end is z^2 / (n + z^2).
    assert wilson(0, 10) == (0.0, pytest.approx(Z**2 / (10 + Z**2)))
    assert wilson(1, 10) == (pytest.approx(10 / (10 + Z**2)), 1.0)
    # At one half: 1/2 -+ z / (2 sqrt(n + z^2)), z = 1.644854 for 90 %.
    assert wilson(0.5, 100, 0.9) == pytest.approx((0.4188478, 0.5811522), abs=1e-6)


@given(st.integers(1, 500), st.data())
def test_wilson_ends_solve_the_score_equation(n: int, data: st.DataObject) -> None:
    """An end b is where the score test just rejects: |rate - b| = z sqrt(b (1 - b) / n)."""
    rate = data.draw(st.integers(0, n)) / n
    for end in wilson(rate, n):
        if 0 < end < 1:
            assert isclose(abs(rate - end), Z * sqrt(end * (1 - end) / n), rel_tol=1e-6, abs_tol=1e-9)


@pytest.mark.parametrize(("rate", "n"), [(-0.1, 5), (1.1, 5), (0.5, 0), (float("nan"), 5)])
def test_wilson_refuses_nonsense(rate: float, n: float) -> None:
    with pytest.raises(ValueError, match="wilson"):
        wilson(rate, n)


def test_mean_ci_of_single_responses_is_wilson() -> None:
    for right in (0, 7, 19, 20):
        estimate = mean_ci([[1.0]] * right + [[0.0]] * (20 - right))
        assert (estimate.low, estimate.high) == pytest.approx(wilson(right / 20, 20))
        assert estimate.n == 20


def test_mean_ci_identical_responses_add_no_information() -> None:
    once = mean_ci([[1.0], [0.0], [0.0], [1.0], [1.0]] * 8)
    copied = mean_ci([[v] * 16 for v in (1.0, 0.0, 0.0, 1.0, 1.0)] * 8)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


def test_mean_ci_independent_responses_narrow_the_interval_at_most_to_all_of_them() -> None:
    rng = np.random.default_rng(0)
    many = mean_ci((rng.random((50, 16)) < 0.5).astype(float).tolist())
    one = mean_ci([[1.0], [0.0]] * 25)
    assert many.high - many.low < 0.5 * (one.high - one.low)
    low, high = wilson(many.mean, 50 * 16)
    assert many.low <= low + 1e-12
    assert many.high >= high - 1e-12


def test_mean_ci_edges() -> None:
    assert mean_ci([[1.0, 1.0]] * 10).low == pytest.approx(10 / (10 + Z**2))  # n is problems, not 20 responses
    assert mean_ci([[1.0, 0.0], [], [1.0]]).n == 2  # an ungradable problem does not count
    assert mean_ci([[1.0, 0.0], [1.0]]).mean == 0.75  # mean of rates
    with pytest.raises(ValueError, match="no problem"):
        mean_ci([[], []])


def test_mean_ci_covers() -> None:
    """Nominal 95 % over 400 simulated evaluations of correlated responses (beta-distributed problem difficulty)."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        rates = rng.beta(0.6, 0.4, size=60)
        estimate = mean_ci((rng.random((60, 4)) < rates[:, None]).astype(float).tolist())
        hits += estimate.low <= 0.6 <= estimate.high
    assert 0.92 <= hits / 400 <= 0.985


def test_bootstrap_matches_the_normal_interval_of_problem_means_and_is_seeded() -> None:
    rng = np.random.default_rng(2)
    values = (100 + 20 * rng.standard_normal((200, 1)) + rng.standard_normal((200, 4))).tolist()
    estimate = bootstrap_ci(values, seed=3)
    means = np.mean(values, axis=1)
    half = Z * means.std(ddof=1) / sqrt(200)
    assert estimate.mean == pytest.approx(means.mean())
    assert estimate.low == pytest.approx(means.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(means.mean() + half, abs=0.1 * half)
    assert bootstrap_ci(values, seed=3) == estimate
    assert bootstrap_ci([[5.0, 7.0]]).mean == 6.0
    with pytest.raises(ValueError, match="no problem"):
        bootstrap_ci([])


def test_a_share_weighs_responses_alike_and_is_wilsons_where_they_are_independent() -> None:
    alone = share_ci([[1.0], [0.0], [1.0], [1.0]])
    assert (alone.mean, alone.low, alone.high) == pytest.approx((0.75, *wilson(0.75, 4)))
    uneven = share_ci([[1.0] * 9, [0.0]])
    assert uneven.mean == pytest.approx(0.9)
    assert uneven.n == 2
    alike, mixed = share_ci([[1.0] * 8, [0.0] * 8] * 4), share_ci([[1.0, 0.0] * 4] * 8)
    assert alike.high - alike.low > 1.5 * (mixed.high - mixed.low)  # responses to a problem that go together tell less
    assert share_ci([[1.0, 1.0]] * 5).low == pytest.approx(wilson(1.0, 5)[0])
    with pytest.raises(ValueError, match="no problem"):
        share_ci([[]])


def test_a_share_of_which_few_problems_have_most_is_as_uncertain_as_they_are() -> None:
    """Where all responses are right, as many problems count as weigh alike: of 300, 1 and 1 hardly more than one."""
    alike = 302**2 / (300**2 + 1 + 1)
    assert share_ci([[1.0] * 300, [1.0], [1.0]]).low == pytest.approx(wilson(1.0, alike)[0])
    rng, hits = np.random.default_rng(4), 0
    sizes = [int(500 / place) + 1 for place in range(1, 41)]
    for _ in range(300):
        rates = rng.beta(0.6, 0.4, size=len(sizes))
        estimate = share_ci([(rng.random(m) < p).astype(float).tolist() for m, p in zip(sizes, rates, strict=True)])
        hits += estimate.low <= 0.6 <= estimate.high
    assert hits / 300 >= 0.88  # Wilson's takes normal quantiles: somewhat less than 95 % with so few large ones
