"""Intervals over seeds, and when they say that something holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recipes.evidence.bench.finding import Judgement, Row, above, all_of, estimate, shown, within
from rewards.stats import Estimate

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=12)
INTERVALS = st.tuples(st.floats(-5, 5), st.floats(0, 5), st.integers(0, 6))


def interval(mean: float, half: float, n: int) -> Estimate:
    return Estimate(mean, mean - half, mean + half, n)


@given(VALUES, st.sampled_from([0.8, 0.95, 0.99]))
def test_the_interval_is_students(values: list[float], confidence: float) -> None:
    one = estimate(np.array(values), confidence)
    assert one.n == len(values)
    assert one.mean == pytest.approx(math.fsum(values) / len(values), abs=1e-9)
    error = stats.sem(values)
    if error == 0:
        assert (one.low, one.high) == pytest.approx((one.mean, one.mean))
        return
    low, high = stats.t.interval(confidence, len(values) - 1, loc=np.mean(values), scale=error)
    assert (one.low, one.high) == pytest.approx((low, high), abs=1e-9)


def test_three_seeds_by_hand() -> None:
    """1, 2, 3: mean 2, s = 1, t(0.975, 2) = 4.302653, so half of it is 4.302653 / sqrt(3)."""
    one = estimate(np.array([1.0, 2.0, 3.0]))
    assert one.high - one.mean == pytest.approx(4.3026527297 / math.sqrt(3), rel=1e-9)


def test_what_is_not_a_number_is_left_out() -> None:
    known = np.array([0.1, 0.4, 0.2])
    assert estimate(np.array([0.1, np.nan, 0.4, np.inf, 0.2])) == estimate(known)
    one = estimate(np.array([np.nan, 0.3]))
    assert (one.mean, one.low, one.high, one.n) == (0.3, -np.inf, np.inf, 1)
    none = estimate(np.array([np.nan]))
    assert math.isnan(none.mean)
    assert (none.low, none.high, none.n) == (-np.inf, np.inf, 0)
    assert estimate(np.array([])).n == 0


@given(INTERVALS, st.floats(-2, 2))
def test_above_goes_by_the_whole_interval(one: tuple[float, float, int], margin: float) -> None:
    given_ = interval(*one)
    ruling = above(given_, margin)
    if given_.n < 3:
        assert ruling == "cannot tell"
    elif ruling == "holds":
        assert given_.low > margin
    elif ruling == "does not":
        assert given_.high <= margin
    else:
        assert given_.low <= margin < given_.high


@given(INTERVALS, st.floats(0.01, 2))
def test_within_goes_by_the_whole_interval(one: tuple[float, float, int], margin: float) -> None:
    given_ = interval(*one)
    ruling = within(given_, margin)
    if given_.n < 3:
        assert ruling == "cannot tell"
    elif ruling == "holds":
        assert max(abs(given_.low), abs(given_.high)) < margin
    elif ruling == "does not":
        assert above(given_, margin) == "holds" or above(Estimate(0, -given_.high, -given_.low, 3), margin) == "holds"
    else:
        assert any(abs(end) >= margin for end in (given_.low, given_.high))


@given(st.lists(st.sampled_from(["holds", "does not", "cannot tell"]), max_size=5))
def test_the_worst_of_several_decides(rulings: list[str]) -> None:
    order = ["does not", "cannot tell", "holds"]
    expected = min(rulings, key=order.index) if rulings else "holds"
    assert all_of(rulings) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_seeds_never_hold(n: int) -> None:
    sure = Estimate(5.0, 4.9, 5.1, n)
    assert above(sure) == "cannot tell"
    assert within(Estimate(0.0, -0.1, 0.1, n), 1) == "cannot tell"


def test_intervals_as_text() -> None:
    assert shown(Estimate(0.1234, 0.1, 0.15, 3)) == "0.123 [0.100, 0.150]"
    assert shown(Estimate(0.1234, 0.1, 0.15, 3), 1, 100) == "12.3 [10.0, 15.0]"
    assert shown(estimate(np.array([0.5]))) == "0.500 (one seed)"
    assert shown(estimate(np.array([np.nan]))) == "no result"


def test_judgements_are_told_apart_without_their_plots() -> None:
    row = Row("a", Estimate(0, 0, 0, 3))
    assert Judgement("holds", "t", (row,), lambda _: None) == Judgement("holds", "t", (row,))
