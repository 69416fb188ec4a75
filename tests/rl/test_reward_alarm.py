"""When a reward model is found to be hacked, and what a run does then: pure functions of its rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from reward_model_kit import Says, rewarded

from rl.audit import Audit, read_verdicts
from rl.record.health import Course, findings, hacked, halted
from rl.record.metrics import Row
from rollout.grading import Grading, VerifierGrader
from rollout.reward_models.config import AlarmConfig, RewardModelConfig
from rollout.reward_models.grader import RuleThenModel
from rollout.reward_models.labelled import LabelledError

WATCH = AlarmConfig(least=0.8, fall=0.1, window=2, verdicts=100)


def rows(agreement: Sequence[float | None], compared: int = 100, kind: str = "") -> list[Row]:
    return [
        {"iteration": i}
        if share is None
        else {
            "iteration": i,
            f"reward/{kind}compared": compared,
            f"reward/{kind}agreement": share,
            f"reward/{kind}false_right": 1 - share,
        }
        for i, share in enumerate(agreement)
    ]


@pytest.mark.parametrize(
    ("agreement", "sounds"),
    [
        ([0.95] * 12, False),
        ([0.95, 0.94, 0.9, 0.88, 0.87], False),
        ([0.95, 0.95, 0.9, 0.8, 0.7], True),
        ([0.99, 0.99, 0.88, 0.85], True),
        ([0.82, 0.82, 0.7], True),
        ([0.9, 0.9, 0.71, 0.95, 0.9], False),
        ([0.5], False),
        ([None, 0.7, None, 0.7], True),
        ([], False),
    ],
)
def test_the_alarm_goes_by_the_mean_of_a_window(agreement: list[float | None], sounds: bool) -> None:
    assert (hacked(rows(agreement), WATCH) is not None) is sounds


def test_it_says_when_by_how_much_and_what_to_do() -> None:
    found = hacked(rows([0.95, 0.95, 0.75, 0.75], compared=60), WATCH)
    assert found is not None
    assert found.code == "reward-hacked"
    assert found.message == (
        "iterations 3 to 4: the reward model agrees with the rule on 75.0 % of 120 responses, fewer than 80.0 %; "
        "25.0 % are right by the model alone"
    )
    fallen = hacked(rows([0.99, 0.99, 0.85, 0.85]), WATCH)
    assert fallen is not None
    assert "iterations 2 to 3" not in fallen.message
    assert "after 99.0 % at best" in fallen.message


def test_a_fall_that_chance_explains_is_none() -> None:
    few = AlarmConfig(least=0.0, fall=0.1, window=1, verdicts=10)
    assert hacked(rows([0.9, 0.7], compared=20), few) is None
    assert hacked(rows([0.9, 0.7], compared=200), few) is not None


def test_with_few_verdicts_nothing_is_said() -> None:
    assert hacked(rows([0.2] * 9, compared=49), WATCH) is None
    assert hacked(rows([0.2] * 9, compared=50), WATCH) is not None
    assert hacked(rows([0.2] * 9), None) is None


def test_labels_sound_it_too() -> None:
    found = hacked(rows([0.6] * 3, kind="labelled_"), WATCH)
    assert found is not None
    assert "agrees with the labels on 60.0 % of 200 responses" in found.message


def test_a_run_stops_only_where_it_is_told_to_and_iterations_are_left() -> None:
    low = rows([0.6] * 3)
    stop = WATCH.model_copy(update={"then": "stop"})
    assert [one.code for one in findings(Course(9, 8, low, alarm=WATCH))] == ["reward-hacked"]
    assert halted(Course(9, 8, low, alarm=WATCH)) == ""
    assert halted(Course(3, 8, low, alarm=stop)) == "", "it is over"
    said = halted(Course(9, 8, low, alarm=stop))
    assert said.startswith("stopped after iteration 3 of 9 by reward.model.alarm: iterations 1 to 2: the reward model")
    assert "`--reward.model.alarm.then warn` goes on" in said
    assert halted(Course(9, 8, low, alarm=stop.model_copy(update={"least": 0.5}))) == ""


def write(file: Path, labels: Sequence[str]) -> None:
    lines = [{"problem": "1+1", "response": f"{label} {i}", "label": label} for i, label in enumerate(labels)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def audit(file: Path, told: list[str], size: int = 100) -> tuple[Grading, Audit]:
    """A model that is right about all but those whose text has a 7."""
    model = Says(lambda text: None if "9" in text else float(text.startswith("right") != ("7" in text)))
    config = RewardModelConfig(path="unused", labelled=str(file), labelled_size=size)
    grading = Grading(grader := RuleThenModel(VerifierGrader(), model, config))
    return grading, Audit(grading, grader, str(file), told.append)


def test_held_out_labels_are_judged_and_read_again_when_they_change(tmp_path: Path) -> None:
    file, told = tmp_path / "labelled.jsonl", list[str]()
    write(file, ["right", "wrong"] * 5)
    grading, one = audit(file, told)
    with grading:
        one.begin(0)
        assert one.finish() == {
            "reward/labelled_compared": 9,
            "reward/labelled_silent": 1,
            "reward/labelled_agreement": 8 / 9,
            "reward/labelled_false_right": 1 / 9,
        }
        assert one.finish() == {}, "once"
        write(file, ["right", "wrong"] * 3)
        one.begin(1)
        assert one.finish()["reward/labelled_compared"] == 6
        file.unlink()
        one.begin(2)
        assert one.finish() == {}
    assert len(told) == 1
    assert "no labelled responses were judged in this iteration" in told[0]


def test_of_many_labels_each_iteration_has_others_and_always_the_same(tmp_path: Path) -> None:
    file = tmp_path / "labelled.jsonl"
    write(file, ["right", "wrong"] * 50)
    asked = []
    for iteration in (0, 1, 0):
        grading, one = audit(file, [], size=10)
        with grading:
            one.begin(iteration)
            one.finish()
            asked.append(one._grader.model.asked)  # type: ignore[attr-defined]
    assert asked[0] == asked[2] != asked[1]
    assert {len(texts) for texts in asked} == {10}


def test_labels_of_one_kind_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "labelled.jsonl", ["right"] * 5)
    with pytest.raises(LabelledError, match=r"labelled\.jsonl has no response that is wrong"):
        read_verdicts(tmp_path / "labelled.jsonl")


def test_a_configuration_brings_its_alarm_along(tmp_path: Path) -> None:
    config = rewarded(tmp_path, 9, alarm={"then": "stop", "window": 1, "verdicts": 1})
    assert halted(Course.so_far(config, rows([0.1])))
