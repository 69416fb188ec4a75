"""``reward.quotes``: off it changes no bit, on it is recorded, with a weight it is subtracted from what is gradable."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from factories import group, rollout
from pydantic import ValidationError

from rewards.score import Score
from rl.config import RewardConfig
from rl.record.measure import of_rollouts
from rl.rewarding import Rewarder, ScoredGroup, build_grader, evaluating, reward_group
from rollout.grading import Grading
from rollout.quoting import MISQUOTES, Quoting
from rollout.reward_models.grader import RuleThenModel
from rollout.types import Group, Problem, StopReason

PROBLEM = Problem.ask("p", "Tom has 48 eggs and sells 5.", "43", "gsm8k")
TEXTS = {2: "48 - 5 = 43\n#### 43", 3: "It was 84.\n48 - 5 = 43\n#### 43", 4: "84 - 5 = 79\n#### 79"}


def graded(before: Sequence[int], tokens: Sequence[int]) -> str:
    return TEXTS[len(tokens)]


def asked() -> Group:
    made = group("g", [
        rollout("g/0", [(0, 2)]), rollout("g/1", [(0, 3)]), rollout("g/2", [(0, 4)]),
        rollout("g/3", [(0, 4)], stop=StopReason.ABORTED),
    ])  # fmt: skip
    return Group(made.id, PROBLEM, made.rollouts, made.born)


def scored(**reward: object) -> ScoredGroup:
    config = RewardConfig.model_validate({"length": {"weight": 0.2, "start_iteration": 0}, **reward})
    with Grading(build_grader(config)) as grading:
        rewarder = Rewarder(config, graded, grading)
        rewarder.submit(asked())
        return rewarder.collect(1)[0]


def bits(item: ScoredGroup) -> list[bytes]:
    return [b"" if reward is None else struct.pack("<d", reward) for reward in item.rewards]


def test_off_is_the_default_and_changes_no_bit() -> None:
    off, recorded = scored(), scored(quotes={})
    assert bits(off) == bits(recorded)
    assert all(MISQUOTES not in one.score.parts for one in off.group.rollouts if one.score)
    config = RewardConfig()
    assert config.quotes is None
    grader = build_grader(config)
    assert not isinstance(grader, Quoting)
    grader.close()


def test_the_weight_is_subtracted_once_and_never_from_what_is_ungradable() -> None:
    before, after = scored(), scored(quotes={"weight": 0.25})
    gains = [
        b - a if a is not None and b is not None else None for a, b in zip(before.rewards, after.rewards, strict=True)
    ]
    assert gains == [0.0, pytest.approx(-0.25), pytest.approx(-0.25), None]
    assert after.rewards[1] > after.rewards[2] + 0.25, "a right answer stays above a wrong one"
    assert [one.score.reward for one in after.group.rollouts if one.score] == [1.0, 1.0, 0.0, None]
    assert after.success_rate == 2 / 3


def test_it_is_recorded_as_a_part_of_the_score() -> None:
    row = of_rollouts(0, [scored(quotes={})], {}, 0.0)
    assert row["reward/part/misquotes"] == pytest.approx(2 / 3)
    assert 0 < row["reward/part/misquoted"] < 2 / 3
    assert not any("misquot" in name for name in of_rollouts(0, [scored()], {}, 0.0))


def test_scores_of_an_environment_have_no_such_part_and_pay_nothing() -> None:
    rollouts = [rollout("g/0", score=Score(0.5)), rollout("g/1", score=Score(None))]
    assert reward_group(group("g", rollouts), [Score(0.5), Score(None)], 0.0, 0.0, 0.9).rewards == (0.5, None)


def test_a_runs_evaluations_look_at_quotes_too() -> None:
    grader = build_grader(RewardConfig.model_validate({"quotes": {"weight": 0.1}}))
    assert isinstance(evaluating(grader), Quoting)
    assert not isinstance(grader, RuleThenModel)
    grader.close()


@pytest.mark.parametrize("weight", [-0.1, 1.0, float("nan")])
def test_weights_that_would_put_a_right_answer_below_a_wrong_one_are_refused(weight: float) -> None:
    with pytest.raises(ValidationError, match="weight"):
        RewardConfig.model_validate({"quotes": {"weight": weight}})
