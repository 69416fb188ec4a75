"""How different an iteration's responses are, and when a policy is found to have ceased to explore."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from factories import problem

from rewards.score import Score
from rl.diversity import ACROSS, observe
from rl.diversity_config import CollapseConfig
from rl.record.collapse import collapsed
from rl.record.health import Course, findings, halted
from rl.record.metrics import METRICS, Row
from rl.rewarding import ScoredGroup
from rollout.embedding.bag import DIMENSION, bags
from rollout.embedding.diversity import vendi_score
from rollout.embedding.whitening import Moments
from rollout.types import Author, Group, Prompt, Rollout, Segment, StopReason

RIGHT, WRONG, UNKNOWN = Score.right(), Score.wrong("another number"), Score.ungradable("timed out")
Draw = np.random.Generator
Tokens = Sequence[int]


def rollout(tokens: Tokens, score: Score | None = WRONG, stop: StopReason = StopReason.EOS) -> Rollout:
    return Rollout("r", Prompt((1, 2)), (Segment(0, tuple(tokens), (-1.0,) * len(tokens)),), stop, score)


def scored(*rollouts: Rollout, index: int = 0) -> ScoredGroup:
    rewards = tuple(r.score.reward if r.score else None for r in rollouts)
    return ScoredGroup(Group(f"g{index}", problem(index), rollouts, 0), (0.0,) * len(rollouts), rewards)


def random_tokens(draw: Draw, length: int = 20) -> list[int]:
    return draw.integers(10, 400, length).tolist()


def policy(
    draw: Draw, right: float, stuck: float, same: float = 0.0, problems: int = 16, k: int = 8
) -> list[ScoredGroup]:
    """Groups of a policy that says the same whenever it is ``right``; of its wrong responses the share ``stuck`` is one
    mistake of each problem's, the others are new ones. The share ``same`` of all is one text whatever was asked.
    """
    anything = random_tokens(np.random.default_rng(0))
    groups = []
    for index in range(problems):
        answer, mistake = random_tokens(draw), random_tokens(draw)
        rollouts = []
        for _ in range(k):
            if draw.random() < same:
                rollouts.append(rollout(anything))
            elif draw.random() < right:
                rollouts.append(rollout(answer, RIGHT))
            else:
                rollouts.append(rollout(mistake if draw.random() < stuck else random_tokens(draw)))
        groups.append(scored(*rollouts, index=index))
    return groups


def course(seed: int, iterations: int, at: Callable[[float], dict[str, float]]) -> list[Row]:
    """The rows of a run whose policy is what ``at`` says of each share of the way."""
    draw, moments, rows = np.random.default_rng(seed), None, list[Row]()
    for i in range(iterations):
        row, moments = observe(policy(draw, **at(i / (iterations - 1))), moments)
        rows.append({"iteration": i, **row})
    return rows


def healthy(way: float) -> dict[str, float]:
    """Learns: from 5 to 98 % right, ever surer of it, and of some mistakes too."""
    return {"right": 0.05 + 0.93 * way, "stuck": 0.3 + 0.1 * way}


def collapsing(way: float) -> dict[str, float]:
    """Becomes deterministic before it has learnt to solve anything more."""
    return {"right": 0.05, "stuck": min(1.0, 0.3 + 1.4 * max(0.0, way - 0.25))}


def hacking(way: float) -> dict[str, float]:
    """Finds one text that it says to everything."""
    return {"right": 0.05, "stuck": 0.3, "same": min(1.0, 2 * max(0.0, way - 0.25))}


def test_of_identical_responses_nothing_is_new_and_of_unrelated_ones_all_is() -> None:
    draw = np.random.default_rng(1)
    others = [scored(*(rollout(random_tokens(draw)) for _ in range(8)), index=i) for i in range(30)]
    same = [scored(*[rollout(random_tokens(draw))] * 8, index=i) for i in range(30)]
    (alike, _), (unlike, _), (both, _) = (observe(groups, None) for groups in (same, others, [*same, *others]))
    assert alike["diversity/effective_rank"] == 1
    assert (alike["diversity/spread"], alike["diversity/identical"]) == (0, 1)
    assert 6.5 < unlike["diversity/effective_rank"] <= 8
    assert (unlike["diversity/wrong_groups"], unlike["diversity/identical"]) == (30, 0)
    assert both["diversity/identical"] == 0.5
    assert both["diversity/spread"] == pytest.approx(unlike["diversity/spread"] / 2, abs=0.05)
    assert min(row["diversity/across"] for row in (alike, unlike)) > 0.4
    assert {name for row in (alike, unlike) for name in row} <= METRICS.keys()


def test_a_row_is_the_mean_over_the_groups_of_what_the_definition_says() -> None:
    draw = np.random.default_rng(2)
    groups, before = policy(draw, 0.4, 0.3), policy(draw, 0.2, 0.1)
    _, known = observe(before, None)
    row, after = observe(groups, known)
    texts = [[r.token_ids for r in item.group.rollouts] for item in groups]
    everything = bags([r.token_ids for item in (*before, *groups) for r in item.group.rollouts])
    whole = Moments.empty(DIMENSION).partial_fit(everything)
    np.testing.assert_allclose(after.scatter, whole.scatter, atol=1e-9)
    assert after.count == 256
    whitener = whole.finalize()
    ranks = [vendi_score(whitener.transform(bags(each))) for each in texts]
    assert row["diversity/effective_rank"] == pytest.approx(np.mean(ranks), abs=1e-6)
    assert row["diversity/spread"] == pytest.approx((np.mean(ranks) - 1) / 7, abs=1e-6)
    firsts = vendi_score(whitener.transform(bags([each[0] for each in texts])))
    assert row["diversity/across"] == pytest.approx((firsts - 1) / 15, abs=1e-6)
    for name, wanted in (("right", True), ("wrong", False)):
        shares = [
            (vendi_score(whitener.transform(bags(chosen))) - 1) / (len(chosen) - 1)
            for item in groups
            if len(chosen := [r.token_ids for r in item.group.rollouts if r.correct is wanted]) > 1
        ]
        assert row[f"diversity/{name}_spread"] == pytest.approx(np.mean(shares), abs=1e-6)


def test_what_failed_and_what_an_environment_wrote_does_not_count() -> None:
    draw = np.random.default_rng(3)
    texts = [random_tokens(draw) for _ in range(4)]
    others = [scored(*(rollout(random_tokens(draw)) for _ in range(4)), index=i) for i in range(1, 9)]
    plain = scored(*(rollout(text) for text in texts))
    fed = Segment(0, (7, 8, 9), by=Author.ENVIRONMENT)
    noisy = scored(
        *(Rollout("r", Prompt((1,)), (*rollout(text).segments, fed), StopReason.EOS, WRONG) for text in texts),
        rollout(random_tokens(draw), None, StopReason.ABORTED),
        Rollout("r", Prompt((1,)), (), StopReason.LENGTH, WRONG),
    )
    one, other = observe([plain, *others], None), observe([noisy, *others], None)
    assert one[0] == other[0]
    assert one[1].count == other[1].count == 36
    unjudged = scored(*(rollout(text, UNKNOWN) for text in texts))
    assert observe([unjudged, *others], None)[0]["diversity/wrong_groups"] == 8


@pytest.mark.parametrize(
    "groups",
    [
        [],
        [scored(rollout([5], None, StopReason.ABORTED))],
    ],
)
def test_without_a_response_there_is_nothing_to_say(groups: list[ScoredGroup]) -> None:
    _, known = observe(policy(np.random.default_rng(0), 0.1, 0.1), None)
    row, moments = observe(groups, known)
    assert row == {}
    assert moments is known


def test_one_response_alone_is_measured_against_those_before_and_has_no_spread() -> None:
    row, moments = observe([scored(rollout([5, 6]))], None)
    assert row == {"diversity/wrong_groups": 0}
    assert moments.count == 1
    row, _ = observe([scored(rollout([5, 6]), rollout([6, 5]))], moments)
    assert row["diversity/effective_rank"] >= 1


def test_no_more_than_a_number_of_problems_are_compared() -> None:
    draw = np.random.default_rng(4)
    groups = policy(draw, 0.1, 0.1, problems=ACROSS)
    more = [scored(*[rollout([9])] * 8, index=i) for i in range(40)]
    known = observe(policy(draw, 0.1, 0.1, problems=200), None)[1]
    few, many = (observe(each, known)[0]["diversity/across"] for each in (groups, [*groups, *more]))
    assert many == pytest.approx(few, rel=0.25), "the others are in its whitening alone"


@pytest.mark.parametrize("seed", range(20))
def test_a_policy_that_learns_sounds_no_alarm(seed: int) -> None:
    rows = course(seed, 30, healthy)
    assert rows[-1]["diversity/spread"] < 0.2 * rows[0]["diversity/spread"], "its responses do become alike"
    assert collapsed(rows, CollapseConfig()) is None


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("at", "words"), [(collapsing, "to the same problem"), (hacking, "")])
def test_a_policy_that_becomes_deterministic_does(seed: int, at: Any, words: str) -> None:
    rows = course(seed, 24, at)
    found = collapsed(rows, CollapseConfig())
    assert found is not None
    assert found.code == "exploration-collapsed"
    assert words in found.message
    assert collapsed(rows[:8], CollapseConfig()) is None, "not before it has"


def rows(wrong: Sequence[float], groups: float = 10, across: float = 0.5) -> list[Row]:
    return [
        {"iteration": i, "diversity/wrong_spread": value, "diversity/wrong_groups": groups, "diversity/across": across}
        for i, value in enumerate(wrong)
    ]


ALARM = CollapseConfig(least=0.05, fall=0.5, first=2, window=2, groups=20)


@pytest.mark.parametrize(
    ("wrong", "sounds"),
    [
        ([0.4] * 9, False),
        ([0.4, 0.4, 0.1], False),
        ([0.4, 0.4, 0.3, 0.25, 0.21], False),
        ([0.4, 0.4, 0.1, 0.1], True),
        ([0.4, 0.4, 0.05, 0.4], False),
        ([0.04, 0.04], True),
        ([0.04], False),
        ([0.06, 0.06, 0.06, 0.06], False),
        ([], False),
    ],
)
def test_the_alarm_goes_by_the_mean_of_a_window(wrong: list[float], sounds: bool) -> None:
    assert (collapsed(rows(wrong), ALARM) is not None) is sounds
    assert collapsed(rows(wrong), None) is None


def test_it_says_when_by_how_much_and_what_to_do() -> None:
    found = collapsed(rows([0.4, 0.4, 0.15, 0.05]), ALARM)
    assert found is not None
    assert found.message == (
        "iterations 3 to 4: the wrong responses to the same problem are nearly the same: their spread is 10.0 %, "
        "after 40.0 % in iterations 1 to 2"
    )
    low = collapsed(rows([0.01, 0.03]), ALARM)
    assert low is not None
    assert low.message.endswith("their spread is 2.0 %, less than 5.0 %")
    assert collapsed(rows([0.01, 0.03]), ALARM.model_copy(update={"least": 0.0})) is None


def test_with_few_wrong_responses_nothing_is_said_of_them_and_windows_are_means_over_groups() -> None:
    assert collapsed(rows([0.4, 0.4, 0.1, 0.1], groups=9), ALARM) is None
    few = rows([0.4, 0.4, 0.0, 0.4])
    few[2]["diversity/wrong_groups"] = 1
    assert collapsed(few, ALARM) is None
    few[2]["diversity/wrong_groups"] = 100
    assert collapsed(few, ALARM) is not None


def test_the_same_response_to_all_problems_sounds_it_though_all_be_right() -> None:
    same: list[Row] = [{"iteration": i, "diversity/across": value} for i, value in enumerate([0.6, 0.6, 0.2, 0.2])]
    found = collapsed(same, ALARM)
    assert found is not None
    assert "the responses to different problems are nearly the same" in found.message
    assert collapsed([{"iteration": i, "diversity/across": 0.01} for i in range(9)], ALARM) is None


def test_a_run_stops_only_where_it_is_told_to_and_iterations_are_left() -> None:
    low = rows([0.4, 0.4, 0.1, 0.1])
    stop = ALARM.model_copy(update={"then": "stop"})
    assert [one.code for one in findings(Course(9, 8, low, collapse=ALARM))] == ["exploration-collapsed"]
    assert halted(Course(9, 8, low, collapse=ALARM)) == ""
    assert halted(Course(4, 8, low, collapse=stop)) == "", "it is over"
    said = halted(Course(9, 8, low, collapse=stop))
    assert said.startswith("stopped after iteration 4 of 9 by diversity.alarm: iterations 3 to 4: the wrong responses")
    assert "`--diversity.alarm.then warn` goes on" in said
