"""Schedules of pretraining at points that the papers give, and refusals that say what to change."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rl.pretraining_config import (
    CosineSchedule,
    MoonlightSchedule,
    PretrainConfig,
    PretrainStage,
    StagesSchedule,
    WsdSchedule,
)


def rates(stages: tuple[PretrainStage, ...]) -> list[float]:
    found, before = [], 0.0
    for stage in stages:
        found += [stage.rate(step, before) for step in range(stage.steps)]
        before = stage.last_lr
    return found


def test_cosine_rises_in_a_line_and_falls_to_its_floor() -> None:
    (stage,) = CosineSchedule(steps=1000, lr=1.0, ramp=0.1, floor=0.2).stages()
    found = rates((stage,))
    assert found[:100] == pytest.approx([(step + 1) / 100 for step in range(100)])
    assert found[100] == 1.0
    assert found[550] == pytest.approx(0.6)
    assert found[325] == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)
    assert found[-1] == pytest.approx(0.2, abs=1e-5)
    assert stage.last_lr == 0.2


def test_wsd_stays_at_its_peak_until_the_decay() -> None:
    schedule = WsdSchedule(steps=1000, lr=2.0, ramp=0.05, decay=0.2, floor=0.1)
    found = rates(schedule.stages())
    assert found[:50] == pytest.approx([2.0 * (step + 1) / 50 for step in range(50)])
    assert found[50:801] == [2.0] * 751
    assert found[900] == pytest.approx(0.2 + 1.8 / 2)
    assert found[999] == pytest.approx(0.2 + 1.8 / 200)


def test_moonlight_is_the_three_stages_of_the_paper() -> None:
    """2502.16982 §3.3, a thousandth of its steps a tenth each: 2,000 of ramp, doubled at 12,000, 0.5 T of cooldown."""
    schedule = MoonlightSchedule(
        steps=17_600, lr=4.2e-4, first=200 / 17_600, grown=1200 / 17_600, cooldown=1490 / 17_600, batch=2048,
        mixture={"a": 1.0}, best={"b": 1.0},
    )  # fmt: skip
    first, main, last = schedule.stages()
    assert [stage.steps for stage in (first, main, last)] == [200, 15_910, 1490]
    found = rates((first, main, last))
    assert found[:200] == pytest.approx([4.2e-4 * (step + 1) / 200 for step in range(200)])
    assert found[200] == 4.2e-4
    assert found[200 + 7955] == pytest.approx((4.2e-4 + 4.2e-5) / 2)
    assert found[200 + 15_909] == pytest.approx(4.2e-5, rel=1e-4)
    assert found[200 + 15_910 + 148] == pytest.approx(1e-4, rel=0.01), "after the cooldown's ramp"
    assert found[200 + 15_910] == pytest.approx(4.2e-5 + (1.008e-4 - 4.2e-5) / 149)
    middle = 200 + 15_910 + 149 + 1341 // 2
    assert found[middle] == pytest.approx(1.008e-4 / 2, rel=0.01)
    assert found[-1] == pytest.approx(1.008e-4 / 1341)
    rows = [stage.rows(step) for stage in (first, main, last) for step in range(stage.steps)]
    assert [rows.index(4096), set(rows[:1200]), set(rows[1200:])] == [1200, {2048}, {4096}]
    assert [stage.balance for stage in (first, main, last)] == [1e-3, 1e-3, 0.0]
    assert [stage.mixture for stage in (first, main, last)] == [{"a": 1.0}, {"a": 1.0}, {"b": 1.0}]


@given(st.integers(10, 400), st.floats(0.001, 0.98), st.floats(0, 0.99), st.floats(0.001, 0.98))
def test_moonlight_has_as_many_steps_as_it_says_or_is_refused(
    steps: int, first: float, grown: float, cooldown: float
) -> None:
    try:
        stages = MoonlightSchedule(steps=steps, first=first, grown=grown, cooldown=cooldown).stages()
    except ValidationError:
        assert first + cooldown > 1 - 2 / steps
        return
    assert sum(stage.steps for stage in stages) == steps
    for stage in stages:
        PretrainStage.model_validate(stage.model_dump())


@given(st.integers(2, 300), st.floats(0, 0.9), st.floats(0.01, 0.99))
def test_wsd_has_as_many_steps_as_it_says(steps: int, ramp: float, decay: float) -> None:
    if ramp + decay <= 1:
        stages = WsdSchedule(steps=steps, ramp=ramp, decay=decay).stages()
        assert sum(stage.steps for stage in stages) == steps
        assert all(0 < rate <= WsdSchedule().lr * (1 + 1e-12) for rate in rates(stages))


def test_the_mixture_is_of_all_texts_alike_unless_it_names_some() -> None:
    config = PretrainConfig()
    assert config.mixture(PretrainStage(steps=1, lr=1)) == {"prose": 1.0, "sums": 1.0}
    assert config.mixture(PretrainStage(steps=1, lr=1, mixture={"sums": 3})) == {"prose": 0.0, "sums": 3.0}
    assert config.length(config.stages[0]) == config.longest == config.model.base.context  # type: ignore[union-attr]


STAGE = {"steps": 4, "lr": 1e-3}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"text": {}}, "text: name at least one"),
        ({"text": {"../up": {"kind": "facts"}}}, "text: '../up' names files and metrics; use letters, digits, '_'"),
        ({"schedule": {"kind": "cosine", "mixture": {"news": 1}}}, "mixture names 'news'; text has: prose, sums"),
        ({"schedule": {"kind": "cosine", "mixture": {"sums": 0}}}, "a mixture has no text with a share above 0"),
        ({"schedule": {"kind": "cosine", "mixture": {"sums": math.inf}}}, "finite number"),
        ({"schedule": {"kind": "cosine", "length": 1}}, "greater than or equal to 2"),
        ({"schedule": {"kind": "wsd", "ramp": 0.5, "decay": 0.6}}, r"ramp \(0.5\) and decay \(0.6\) are more than all"),
        ({"schedule": {"kind": "moonlight", "first": 0.5, "cooldown": 0.5}}, r"first \(0.5\) and cooldown \(0.5\)"),
        ({"schedule": {"kind": "stages", "list": []}}, "at least 1 item"),
        ({"schedule": {"kind": "stages", "list": [STAGE | {"ramp": 5}]}}, r"ramp \(5\) is longer than the stage's"),
        ({"schedule": {"kind": "stages", "list": [STAGE | {"grows": [4, 9]}]}}, "grows is at step 4, .* one of 1 to 3"),
        ({"schedule": {"kind": "stages", "list": [STAGE | {"grows": [2, 0]}]}}, "grows to 0 sequences"),
        ({"model": {"base": {"kind": "pretrained", "path": "some/model"}}}, "give length, the tokens of a sequence"),
        ({"schedule": {"kind": "cosine", "length": 9999}}, r"length \(9999\) is above model.base.context"),
        ({"texts": {}}, "Extra inputs"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        PretrainConfig(**keys)
    assert all("\n" not in error["msg"] for error in caught.value.errors())


def test_the_configuration_loads_no_library_that_computes() -> None:
    heavy = "torch vllm ray transformers datasets pyarrow pandas sklearn tokenizers"
    code = f"import sys, rl.pretraining_config; sys.exit(str(set({heavy!r}.split()) & set(sys.modules) or ''))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == ""


def test_stages_of_ones_own_go_on_from_each_others_rate() -> None:
    stages = StagesSchedule(
        list=(
            PretrainStage(steps=4, lr=1.0, end=0.5),
            PretrainStage(steps=4, lr=0.9, ramp=4),
            PretrainStage(steps=1, lr=2),
        )
    ).stages()
    assert rates(stages) == pytest.approx([1, 0.875, 0.75, 0.625, 0.6, 0.7, 0.8, 0.9, 2])
