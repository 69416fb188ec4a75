from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.length import length_rewards, length_weight

GROUPS = st.lists(st.tuples(st.integers(0, 5000), st.booleans()), min_size=1, max_size=16)


@pytest.mark.parametrize(
    ("lengths", "correct", "expected"),
    [
        ([10, 20, 30], [True, True, True], [0.5, 0.0, -0.5]),
        ([10, 20, 30], [False, False, False], [0.0, 0.0, -0.5]),
        ([10, 15, 30], [False, True, True], [0.0, 0.25, -0.5]),  # right and wrong share one minimum
        ([7, 7, 7], [True, False, True], [0.0, 0.0, 0.0]),  # nothing to compare
        ([42], [True], [0.0]),  # k = 1
        ([], [], []),
        ([0, 100], [False, True], [0.0, -0.5]),  # an empty response
        ([100, 101, 1100], [True, True, True], [0.5, 0.499, -0.5]),  # an outlier compresses the rest
    ],
)
def test_table(lengths, correct, expected):
    assert length_rewards(lengths, correct) == pytest.approx(expected, abs=1e-12)


@given(GROUPS)
def test_bounds_and_order(group):
    lengths, correct = [g[0] for g in group], [g[1] for g in group]
    rewards = length_rewards(lengths, correct)
    assert all(-0.5 <= reward <= 0.5 for reward in rewards)
    assert all(reward <= 0 for reward, right in zip(rewards, correct, strict=True) if not right)
    for a in range(len(group)):
        for b in range(len(group)):
            if lengths[a] < lengths[b] and correct[a] >= correct[b]:
                assert rewards[a] >= rewards[b]


@given(GROUPS, st.integers(1, 50), st.integers(0, 1000))
def test_unit_and_offset_of_the_length_do_not_matter(group, scale, shift):
    lengths, correct = [g[0] for g in group], [g[1] for g in group]
    moved = length_rewards([scale * length + shift for length in lengths], correct)
    assert moved == pytest.approx(length_rewards(lengths, correct), abs=1e-9)


@given(GROUPS, st.floats(0, 1.999))
def test_with_a_weight_below_two_right_stays_above_wrong(group, weight):
    rewards = length_rewards([g[0] for g in group], [g[1] for g in group])
    totals = [float(right) + weight * reward for (_, right), reward in zip(group, rewards, strict=True)]
    right = [total for total, (_, ok) in zip(totals, group, strict=True) if ok]
    wrong = [total for total, (_, ok) in zip(totals, group, strict=True) if not ok]
    assert not right or not wrong or min(right) > max(wrong)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="2 lengths but 1 verdicts"):
        length_rewards([1, 2], [True])
    with pytest.raises(ValueError, match="negative"):
        length_rewards([1, -2], [True, True])


def test_weight_is_off_then_constant():
    assert [length_weight(i, 0.2, start_iteration=3) for i in range(6)] == [0, 0, 0, 0.2, 0.2, 0.2]
    assert length_weight(0, 0.2, start_iteration=0) == 0.2
