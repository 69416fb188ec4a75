"""rl.record.health: what tells that a run cannot work or has not worked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rewards.stats import Estimate
from rl.config import PromiseConfig
from rl.record.health import FLAT_ITERATIONS, Course, broken_promise, findings, flat_groups, most_mixed, weak_start
from rl.record.log import Evaluation
from rl.record.metrics import Row


def evaluation(name: str, mean: float, half: float = 0.04, tokens: float = 80.0) -> Evaluation:
    accuracy = Estimate(mean, max(0.0, mean - half), min(1.0, mean + half), 256)
    return Evaluation(name, 0, accuracy, Estimate(tokens, tokens - 2, tokens + 2, 256), 2)


def rows(*kinds: str, groups: int = 10, length_weight: float = 0.0) -> list[Row]:
    """One row per word: all ``wrong``, all ``right``, ``mixed`` (half of the groups), or ``none`` finished."""
    counts = {"wrong": (groups, 0), "right": (0, groups), "mixed": (groups // 4, groups // 4), "none": (0, 0)}
    return [
        {
            "iteration": i,
            "groups/finished": 0 if kind == "none" else groups,
            "groups/all_wrong": counts[kind][0],
            "groups/all_right": counts[kind][1],
            "length_weight": length_weight,
        }
        for i, kind in enumerate(kinds)
    ]


def codes(course: Course) -> list[str]:
    return [finding.code for finding in findings(course)]


GOOD = Course(
    36, 8, rows(*["mixed"] * 36), evaluation("before", 0.3), evaluation("after", 0.75), Estimate(0.45, 0.4, 0.5, 256)
)


def test_a_run_that_works_has_nothing_to_say() -> None:
    assert findings(GOOD) == []
    assert findings(Course(36, 8)) == []


@pytest.mark.parametrize(
    ("rate", "k", "weak"), [(0.055, 8, True), (0.15, 8, False), (0.0, 64, True), (0.02, 64, False)]
)
def test_a_start_is_weak_when_most_groups_can_only_be_wrong(rate: float, k: int, weak: bool) -> None:
    found = weak_start(Course(36, k, before=evaluation("before", rate)))
    assert (found is not None) is weak


def test_a_weak_start_says_what_to_do() -> None:
    found = weak_start(Course(36, 8, before=evaluation("before", 0.055)))
    assert found is not None
    assert found.text == (
        "before RL only 5.5 % of the held-out responses are right: at most 36 % of the groups of 8 can hold right and "
        "wrong ones, which alone teach anything; what helps: easier problems, a longer warm-up, or more responses "
        "per problem (rollout.k)"
    )


def test_without_rl_a_weak_policy_is_no_fault() -> None:
    assert (
        findings(Course(0, 8, (), evaluation("before", 0.01), evaluation("after", 0.01), Estimate(0, -0.01, 0.01, 9)))
        == []
    )


def test_the_share_of_mixed_groups_is_a_bound_whatever_the_problems_are_like() -> None:
    rng = np.random.default_rng(0)
    for a, b in ((0.2, 2.0), (1.0, 1.0), (5.0, 0.5), (40.0, 40.0)):
        rates = rng.beta(a, b, size=100_000)
        seen = float((1 - rates**8 - (1 - rates) ** 8).mean())
        assert seen <= most_mixed(float(rates.mean()), 8) + 1e-9


@pytest.mark.parametrize(
    ("kinds", "code"),
    [
        ("wrong " * FLAT_ITERATIONS, "groups-all-wrong"),
        ("right " * FLAT_ITERATIONS, "groups-all-right"),
        ("wrong " * (FLAT_ITERATIONS - 1), None),
        ("wrong wrong wrong mixed wrong wrong wrong", None),
        ("wrong wrong none wrong wrong none wrong", "groups-all-wrong"),  # nothing finished: says nothing either way
        ("mixed " * 9, None),
        ("none " * 9, None),
    ],
)
def test_iterations_in_a_row_without_a_signal(kinds: str, code: str | None) -> None:
    found = flat_groups(rows(*kinds.split()))
    assert (found and found.code) == code


def test_the_stretch_is_named_by_iteration_and_is_the_first_one() -> None:
    found = flat_groups(rows(*["mixed"] * 2, *["wrong"] * 6, *["mixed"] * 3, *["right"] * 9))
    assert found is not None
    assert found.message == "iterations 3 to 8: 60 of 60 groups have no right response, and nothing to learn from"


def test_responses_that_nobody_can_grade_are_told_with_what_to_mend() -> None:
    """Neither more iterations nor a higher learning rate would help."""

    def row(iteration: int, finished: int, lost: int) -> Row:
        return {"iteration": iteration, "rollouts/finished": finished, "rollouts/ungradable": lost}

    course = [
        row(0, 8, 0),
        *(row(i, 8, 4) for i in range(1, 4)),
        row(4, 0, 0),
        row(5, 8, 8),
        row(6, 8, 6),
        row(7, 8, 3),
    ]
    assert codes(Course(20, 8, course)) == ["ungradable"]
    (found,) = findings(Course(20, 8, course))
    assert found.message == "iterations 2 to 7: 26 of 40 responses could not be graded, and were left out of training"
    assert codes(Course(20, 8, course[:6])) == []


def test_groups_that_are_all_right_still_teach_length() -> None:
    assert flat_groups(rows(*["right"] * 9, length_weight=0.2)) is None
    assert flat_groups(rows(*["wrong"] * 9, length_weight=0.2)) is not None


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (Estimate(0.019, -0.007, 0.045, 256), "no-gain"),
        (Estimate(-0.05, -0.08, -0.02, 256), "accuracy-fell"),
        (Estimate(0.05, 0.01, 0.09, 256), None),
        (None, None),
    ],
)
def test_the_end_of_rl_is_judged_by_the_paired_change(change: Estimate | None, code: str | None) -> None:
    assert codes(replace(GOOD, change=change)) == ([code] if code else [])


def test_shorter_responses_are_a_gain_where_they_were_rewarded() -> None:
    level = Estimate(0.0, -0.03, 0.03, 256)
    shorter = replace(GOOD, change=level, after=evaluation("after", 0.3, tokens=60.0))
    assert codes(shorter) == ["no-gain"]
    rewarded = rows(*["mixed"] * 36, length_weight=0.2)
    assert codes(replace(shorter, rows=rewarded)) == []
    assert codes(replace(shorter, rows=rewarded, change=Estimate(-0.1, -0.12, -0.05, 256))) == ["accuracy-fell"]
    assert codes(replace(GOOD, change=level, rows=rewarded)) == ["no-gain"]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (0.30, 0.75, None),
        (0.30, 0.54, ["gained +24.0 points, not 25", "ended at 54.0 %, not 60.0 %"]),
        (0.50, 0.74, ["gained +24.0 points, not 25"]),
        (0.055, 0.074, ["gained +1.9 points, not 25", "95 % interval not above that before RL"]),
    ],
)
def test_a_promise_is_kept_or_says_what_is_missing(before: float, after: float, words: list[str] | None) -> None:
    promise = PromiseConfig(gain=0.25, final=0.6)
    found = broken_promise(promise, evaluation("before", before), evaluation("after", after))
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert all(word in found.message for word in words)


def test_a_promise_of_nothing_but_a_gain_wants_the_intervals_apart() -> None:
    found = broken_promise(PromiseConfig(), evaluation("before", 0.3, 0.1), evaluation("after", 0.4, 0.1))
    assert found is not None
    assert "interval" in found.message


def test_everything_that_went_wrong_is_told_once_each_in_order() -> None:
    course = Course(
        iterations=6,
        k=8,
        rows=rows(*["wrong"] * 6),
        before=evaluation("before", 0.02),
        after=evaluation("after", 0.03),
        change=Estimate(0.01, -0.01, 0.03, 256),
        promise=PromiseConfig(gain=0.25, final=0.6),
    )
    assert codes(course) == ["weak-start", "groups-all-wrong", "no-gain", "promise-broken"]
    assert all("\n" not in finding.text and finding.advice for finding in findings(course))


def test_rewards_that_say_more_than_right_and_wrong_are_what_teaches_and_what_counts() -> None:
    """A user's reward may never call a response correct, or differ where all of them are wrong."""

    def rewarded(name: str, mean: float) -> Evaluation:
        return replace(evaluation(name, 0.0), reward=Estimate(mean, mean - 0.1, mean + 0.1, 256))

    level = Estimate(0.0, -0.01, 0.01, 256)
    varied = [row | {"groups/flat": 0.0} for row in rows(*["wrong"] * 36)]
    course = Course(36, 8, varied, rewarded("before", -0.8), rewarded("after", -0.2), level)
    assert codes(course) == []
    assert codes(replace(course, after=rewarded("after", -0.75))) == ["no-gain"]
    equal = [row | {"groups/flat": 10.0} for row in varied]
    assert codes(replace(course, rows=equal)) == ["groups-all-wrong"]
    by_verifier = replace(course, before=replace(evaluation("before", 0.01), reward=Estimate(0.01, 0, 0.02, 256)))
    assert "weak-start" in codes(by_verifier)
