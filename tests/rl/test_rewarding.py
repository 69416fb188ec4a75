"""From finished groups to rewards: what trains, what counts as correct, and that grading does not wait for sampling."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from factories import group, rollout

from rewards.score import Score
from rl.config import RewardConfig
from rl.record.measure import of_rollouts
from rl.rewarding import Rewarder, build_grader, failures, reward_group
from rollout.grading import Grading
from rollout.types import Problem, StopReason


def graded(prompt: Sequence[int], tokens: Sequence[int]) -> str:
    return " ".join(map(str, tokens))


@pytest.fixture
def opened() -> Iterator[list[Grading]]:
    made: list[Grading] = []
    yield made
    for one in made:
        one.close()


def test_training_takes_the_reward_and_everything_else_what_is_correct() -> None:
    rollouts = [rollout("g/0", [(0, 2)]), rollout("g/1", [(0, 4)]), rollout("g/2", [(0, 6)]), rollout("g/3")]
    scores = [Score(-3.0, False), Score(-5.0, True), Score(12.5, False), Score(None)]
    scored = reward_group(group("g", rollouts), scores, 1.0, 0.0)
    assert scored.length_rewards == (0.0, 0.0, -0.5, 0.0), "short, but wrong: no gain"
    assert scored.rewards == (-3.0, -5.0, 12.0, None)
    assert scored.success_rate == 1 / 3
    metrics = of_rollouts(0, [scored], {}, 1.0)
    assert metrics["accuracy"] == 1 / 3
    assert metrics["reward/mean"] == pytest.approx((-3.0 - 5.0 + 12.0) / 3)
    assert metrics["rollouts/ungradable"] == 1


def test_grading_begins_with_the_first_group_while_others_are_still_sampled(opened: list[Grading]) -> None:
    begun, sampled = threading.Event(), threading.Event()

    def verify(problem: Problem, text: str) -> Score:
        begun.set()
        assert sampled.wait(600)
        return Score.right(text)

    opened.append(Grading.by(verify))
    rewarder = Rewarder(RewardConfig(length=None), graded, opened[0])
    rewarder.submit(group("000000.0001", [rollout("b/0")], index=1))
    assert begun.wait(600), "nobody asked for the scores yet"
    rewarder.submit(group("000000.0000", [rollout("a/0"), rollout("a/1")]))
    sampled.set()
    scored = rewarder.collect(0)
    assert [item.group.id for item in scored] == ["000000.0000", "000000.0001"], "whichever was handed in first"
    assert [item.rewards for item in scored] == [(1.0, 1.0), (1.0,)]
    assert rewarder.collect(0) == []


def test_the_weight_of_the_length_reward_is_that_of_the_iteration_that_trains_it(opened: list[Grading]) -> None:
    opened.append(Grading.by(lambda problem, text: Score.right(text)))
    config = RewardConfig.model_validate({"length": {"weight": 1.0, "start_iteration": 5}})
    rewarder = Rewarder(config, graded, opened[0])
    for name in ("4", "5"):
        rewarder.submit(group(name, [rollout("a/0", [(0, 2)]), rollout("a/1", [(0, 4)])]))
    assert [item.rewards for item in rewarder.collect(4, {"4"})] == [(1.0, 1.0)]
    assert [item.rewards for item in rewarder.collect(5)] == [(1.5, 0.5)]


def test_a_rollout_that_has_its_score_already_keeps_it(opened: list[Grading]) -> None:
    """An environment may end an episode with a score of its own."""
    asked: list[str] = []

    def verify(problem: Problem, text: str) -> Score:
        asked.append(text)
        return Score.right(text)

    opened.append(Grading.by(verify))
    rewarder = Rewarder(RewardConfig(length=None), graded, opened[0])
    rewarder.submit(group("g", [rollout("g/0", score=Score(0.25)), rollout("g/1"), rollout("g/2", score=Score(2.0))]))
    (scored,) = rewarder.collect(0)
    assert scored.rewards == (0.25, 1.0, 2.0)
    assert len(asked) == 1


def test_a_users_reward_in_the_loop_counts_what_it_failed_on(tmp_path: Path, opened: list[Grading]) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def reward(problem, response):\n    return 3.0 / (len(response.split()) - 4)\n")
    config = RewardConfig.model_validate({"function": f"{file}:reward", "length": None, "timeout_s": 600.0})
    opened.append(Grading(build_grader(config)))
    rewarder = Rewarder(config, graded, opened[0])
    aborted = rollout("g/2", [(0, 1)], stop=StopReason.ABORTED)
    rewarder.submit(group("g", [rollout("g/0", [(0, 4)]), rollout("g/1", [(0, 2)]), aborted]))
    (scored,) = rewarder.collect(0)
    assert scored.rewards == (None, -1.5, None)
    assert failures([scored]) == {f"{file}:2: ZeroDivisionError: float division by zero": 1}
    assert rewarder.counts() == {"grader/calls": 2, "grader/failed": 1, "grader/timed_out": 0}
    assert set(rewarder.counts().values()) == {0.0}, "only what came since"


def test_tokens_that_cannot_be_decoded_are_ungradable(opened: list[Grading]) -> None:
    def broken(before: Sequence[int], tokens: Sequence[int]) -> str:
        if len(tokens) == 2:
            raise OverflowError("out of range")
        return "7"

    opened.append(Grading.by(lambda problem, text: Score.right(text)))
    rewarder = Rewarder(RewardConfig(length=None), broken, opened[0])
    rewarder.submit(group("g", [rollout("g/0", [(0, 2)]), rollout("g/1", [(0, 3)])]))
    (scored,) = rewarder.collect(0)
    assert scored.rewards == (None, 1.0)
    assert failures([scored]) == {"OverflowError: out of range": 1}


def test_a_repetitive_rollout_pays_the_penalty() -> None:
    rollouts = [rollout("g/0", stop=StopReason.REPETITION), rollout("g/1")]
    scored = reward_group(group("g", rollouts), [Score.wrong("stopped"), Score.right()], 0.0, 0.25)
    assert scored.rewards == (-0.25, 1.0)
