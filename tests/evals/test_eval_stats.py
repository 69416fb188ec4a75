"""The statistics of evaluations against closed forms and brute force."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import combinations, product
from math import comb, sqrt
from statistics import NormalDist, fmean

import numpy as np
import pytest
from eval_kit import answer, problem
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.stats import (
    Ballot,
    average,
    bootstrap,
    majority_at_k,
    paired,
    pass_at_k,
    passed,
    powers,
    rerun_error,
    sign_flip_p,
)
from evals.votes import ballot, classes, same_maths, same_text
from rewards.stats import wilson
from rollout.types import StopReason


@pytest.mark.parametrize(("n", "right", "k"), [(8, 3, 1), (8, 3, 4), (8, 8, 8), (8, 0, 8), (5, 2, 3), (200, 20, 100)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n: int, right: int, k: int) -> None:
    values = [i < right for i in range(n)]
    exact = 1 - Fraction(comb(n - right, k), comb(n, k))
    if comb(n, k) < 10_000:
        assert exact == Fraction(sum(any(subset) for subset in combinations(values, k)), comb(n, k))
    assert pass_at_k(n, right, k) == pytest.approx(float(exact), abs=1e-12)


@pytest.mark.parametrize(("n", "right", "k"), [(1, 1, 8), (4, 5, 1), (4, 1, 0)])
def test_pass_at_k_refuses_what_cannot_be(n: int, right: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"pass@{k} needs"):
        pass_at_k(n, right, k)


def test_pass_at_1_is_the_average_and_problems_with_too_few_are_left_out() -> None:
    rows = [[True, False], [True, True], [False, False], [True]]
    assert passed(rows, 1).mean == pytest.approx(average(rows).mean)
    assert passed(rows, 2).n == 3
    assert passed(rows, 2).mean == pytest.approx(2 / 3)
    assert passed(rows, 3) is None


def test_average_with_one_response_each_is_wilson() -> None:
    found = average([[i < 7] for i in range(30)])
    assert (found.low, found.high) == pytest.approx(wilson(7 / 30, 30))


def test_bootstrap_has_the_two_level_variance() -> None:
    """The spread of the resampled means is that of redrawing problems, plus that of redrawing responses."""
    draw = random.Random(0)
    rows = [[draw.random() < rate for _ in range(8)] for rate in [i / 199 for i in range(200)]]
    rates = np.array([fmean(row) for row in rows])
    inner = fmean(rate * (1 - rate) / 8 for rate in rates)
    expected = sqrt((rates.var() + inner) / 200)
    low, high = bootstrap(rows)
    assert high - low == pytest.approx(2 * 1.96 * expected, rel=0.05)
    assert low < rates.mean() < high
    assert bootstrap(rows) == (low, high)


def test_rerun_error_is_the_spread_of_reruns() -> None:
    draw, rates, n = np.random.default_rng(0), np.linspace(0, 1, 40), 8
    runs = [[(draw.random(n) < rate).tolist() for rate in rates] for _ in range(400)]
    spread = float(np.std([average(rows).mean for rows in runs]))
    assert fmean(rerun_error(rows) or 0 for rows in runs) == pytest.approx(spread, rel=0.1)
    assert rerun_error([[True], [True, False]]) is None


@given(st.lists(st.sampled_from([0, 1, 2, None]), min_size=1, max_size=7), st.data())
@settings(max_examples=60, deadline=None)
def test_majority_is_the_mean_over_all_subsets(votes: list[int | None], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(votes)))

    def winner(subset: tuple[int | None, ...]) -> float:
        cast = [vote for vote in subset if vote is not None]
        most = max((cast.count(vote) for vote in cast), default=0)
        tied = {vote for vote in cast if cast.count(vote) == most}
        return (1 in tied) / len(tied) if tied else 0.0

    expected = fmean(winner(subset) for subset in combinations(votes, k))
    assert majority_at_k(Ballot(tuple(votes), frozenset({1})), k) == pytest.approx(expected)


def test_majority_by_draws_agrees_with_the_exact_one() -> None:
    votes = (0,) * 6 + (1,) * 5 + (2,) * 3 + (None,) * 2  # C(16, 8) = 12,870 subsets: drawn
    found = majority_at_k(Ballot(votes, frozenset({0})), 8)

    def winner(subset: tuple[int | None, ...]) -> float:
        counts = [subset.count(vote) for vote in (0, 1, 2)]
        return (counts[0] == max(counts)) / counts.count(max(counts))

    assert found == pytest.approx(fmean(winner(subset) for subset in combinations(votes, 8)), abs=0.02)


def test_votes_are_counted_by_equivalence() -> None:
    texts = ["0.5", "\\frac{1}{2}", "1/2", "", "\\dfrac12", "0.33"]
    assert classes(texts, same_maths) == [0, 0, 0, None, 0, 1]
    assert classes(texts, same_text) == [0, 1, 2, None, 3, 4]


def test_truncated_answers_have_no_vote() -> None:
    item = problem()
    answers = [answer(item, 0, "correct", "7"), answer(item, 1, "wrong", "8", stop=StopReason.LENGTH)]
    assert ballot(answers, same_text) == Ballot((0, None), frozenset({0}))


@given(st.lists(st.fractions(-1, 1, max_denominator=8), min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_sign_flip_p_is_exact(differences: list[Fraction]) -> None:
    observed = abs(sum(differences))
    every = product((1, -1), repeat=len(differences))
    flips = [abs(sum(sign * d for sign, d in zip(signs, differences, strict=True))) for signs in every]
    assert sign_flip_p(differences) == pytest.approx(sum(flip >= observed for flip in flips) / len(flips))


def test_with_one_response_each_p_is_mcnemars() -> None:
    first = [[True]] * 40 + [[True]] * 9 + [[False]] * 21 + [[False]] * 30
    second = [[True]] * 40 + [[False]] * 9 + [[True]] * 21 + [[False]] * 30
    found = paired(first, second)
    assert found.p == pytest.approx(2 * sum(comb(30, i) for i in range(10)) / 2**30)
    assert (found.better, found.worse, found.problems) == (21, 9, 100)
    assert found.difference == pytest.approx(0.12)


def test_sampled_p_is_close_to_the_exact_one() -> None:
    """Denominators that fit no small grid: the distribution is drawn."""
    draw = random.Random(1)
    differences = [Fraction(draw.randint(-50, 60), draw.choice([97, 101, 103, 107, 109])) for _ in range(40)]
    values = np.array([float(d) for d in differences])
    normal = abs(values.sum()) / sqrt((values**2).sum())
    assert sign_flip_p(differences) == pytest.approx(2 * (1 - NormalDist().cdf(normal)), abs=0.02)


@pytest.mark.parametrize("right", [0, 15, 30])
def test_equal_runs_have_an_interval_with_a_width(right: int) -> None:
    rows = [[True]] * right + [[False]] * (30 - right)
    found = paired(rows, rows)
    assert found.p == 1.0
    assert found.difference == 0.0
    assert found.low < -0.03 < 0.03 < found.high


def test_the_paired_interval_is_newcombes() -> None:
    """Newcombe (1998), method 10, on counts 36, 12, 2, 0: his own formula in plain words."""
    a, b, c, d = 36, 12, 2, 0
    n, p1, p2 = a + b + c + d, (a + b) / 50, (a + c) / 50
    (l1, u1), (l2, u2) = wilson(p1, n), wilson(p2, n)
    product = (a + b) * (c + d) * (a + c) * (b + d)
    numerator = a * d - b * c
    phi = (max(numerator - n / 2, 0) if numerator > 0 else numerator) / sqrt(product)
    low = p1 - p2 - sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    high = p1 - p2 + sqrt((p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2)
    first = [[True]] * (a + c) + [[False]] * (b + d)
    second = [[True]] * a + [[False]] * c + [[True]] * b + [[False]] * d
    found = paired(first, second)
    assert (found.difference, found.low, found.high) == pytest.approx((p1 - p2, low, high), abs=1e-6)


def test_paired_interval_covers_as_often_as_it_says() -> None:
    """Problems and responses are both drawn anew; the second run is better by 0.1 wherever it can be."""
    draw, hits, trials = np.random.default_rng(0), 0, 300
    below = float(np.mean(draw.beta(0.6, 0.6, size=400_000) < 0.9))
    for _ in range(trials):
        rates = draw.beta(0.6, 0.6, size=60)
        both = rates, rates + 0.1 * (rates < 0.9)
        found = paired(*[[(draw.random(4) < p).tolist() for p in column] for column in both])
        hits += found.low <= 0.1 * below <= found.high
    assert 0.92 <= hits / trials <= 1.0


def test_powers() -> None:
    assert powers(1) == (1,)
    assert powers(8) == (1, 2, 4, 8)
    assert powers(10) == (1, 2, 4, 8, 10)
