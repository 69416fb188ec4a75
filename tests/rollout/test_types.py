"""The words: segments, rollouts, groups."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from factories import group, ids, problem, rollout

from rewards.score import Score
from rollout.types import Author, Message, Prompt, Rollout, Segment, StopReason, split


def test_every_token_carries_the_version_that_sampled_it() -> None:
    r = rollout("g/0", [(3, 2), (4, 3)])
    assert ids(r.versions) == (3, 3, 4, 4, 4)
    assert len(r.token_ids) == len(r.logprobs) == r.length == 5


def test_versions_never_decrease() -> None:
    with pytest.raises(ValueError, match="decrease"):
        rollout("g/0", [(4, 2), (3, 3)])


def test_tokens_of_one_version_are_one_segment() -> None:
    r = (
        Rollout("g/0", Prompt((1,)))
        .append([Segment(2, (5,), (-1.0,))], None)
        .append([Segment(2, (6,), (-2.0,))], StopReason.EOS)
    )
    assert r.segments == (Segment(2, (5, 6), (-1.0, -2.0)),)
    assert r.finished
    with pytest.raises(ValueError, match="already stopped"):
        r.append([Segment(3, (7,), (-1.0,))], None)


def test_an_empty_segment_only_sets_the_stop_reason() -> None:
    r = rollout("g/0", [(1, 2)], stop=None).append([Segment(2, (), ())], StopReason.ABORTED)
    assert len(r.segments) == 1
    assert r.stop is StopReason.ABORTED


def test_tokens_without_logprobs_are_refused() -> None:
    with pytest.raises(ValueError, match="log-probs"):
        Segment(0, (1, 2), (-1.0,))


def test_a_group_completes_when_all_of_its_rollouts_do() -> None:
    done = group("a", [rollout("a/0"), rollout("a/1")])
    half = group("b", [rollout("b/0"), rollout("b/1", stop=None)])
    assert split([half, done]) == ([done], [half])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": ""}, "'id' is empty"),
        ({"answer": ""}, "'answer' is empty, which verifier 'exact' needs"),
        ({"messages": ()}, "must be the user's"),
        ({"messages": (Message("user", ""),)}, "not empty"),
        ({"messages": (Message("user", "?"), Message("assistant", "!"))}, "must be the user's"),
    ],
)
def test_a_problem_that_asks_nothing_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(problem(), **changes)


def test_what_an_environment_wrote_is_no_response() -> None:
    told = Segment(0, (9, 8), by=Author.ENVIRONMENT)
    r = Rollout("g/0", Prompt((1,)), (Segment(0, (5, 6), (-1, -2)), told, Segment(1, (7,), (-3,))))
    assert (r.size, r.length, r.turns, r.drawn_under) == (5, 3, 2, {0, 1})
    assert ids(r.token_ids) == (5, 6, 9, 8, 7)
    assert ids(r.sampled) == (True, True, False, False, True)
    np.testing.assert_array_equal(r.logprobs, np.array([-1, -2, np.nan, np.nan, -3], np.float32))
    assert (ids(r.before_last_turn()), ids(r.last_turn()), ids(r.tail(3))) == ((1, 5, 6, 9, 8), (7,), (7,))
    with pytest.raises(ValueError, match="2 tokens but 2 log-probs"):
        Segment(0, (9, 8), (-1, -1), by=Author.ENVIRONMENT)


@pytest.mark.parametrize("reward", [-12.5, 0.0, 0.3, 7.0])
@pytest.mark.parametrize("correct", [True, False])
def test_any_finite_number_is_a_reward_and_says_nothing_of_correctness(reward: float, correct: bool) -> None:
    score = Score(reward, correct)
    assert score.gradable
    assert score.verdict == ("correct" if correct else "wrong")


def test_a_score_that_no_training_could_use_is_refused() -> None:
    for reward in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match="finite"):
            Score(reward)
    with pytest.raises(ValueError, match="'style' is nan"):
        Score(1.0, True, {"style": float("nan")})
    with pytest.raises(ValueError, match="cannot be correct"):
        Score(None, True)
    with pytest.raises(ValueError, match="must be True or False"):
        Score(1.0, {"format": 1.0})  # type: ignore[arg-type]


def test_ungradable_is_neither_right_nor_zero() -> None:
    score = Score.ungradable("timed out")
    assert score.reward is None
    assert not score.gradable
    assert not score.correct
