"""Difficulty by pass rate: what it is, what is left out, and what is said of a model that tells nothing apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from curate_kit import Model, Says, problems, right

from recipes.curate.config import DifficultyConfig
from recipes.curate.difficulty import Difficulty, DifficultyOutcome, difficulties, difficulty_of, measure_difficulty
from rewards.score import Score
from rollout.types import Problem, StopReason
from tests.eval_kit import answer

CONFIG = DifficultyConfig(samples=4, max_tokens=40, prompt="{problem}")


def measured(says: Says, base: Path, out: Path, config: DifficultyConfig = CONFIG) -> DifficultyOutcome:
    with Model(base, says).asker() as asker:
        return measure_difficulty(asker, problems(5), config, out)


@pytest.fixture
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "tiny"


def test_pass_rates(base: Path, tmp_path: Path) -> None:
    """Of problem i: 0 always right, 1 half of the time, 2 never, 3 cannot be judged, 4 right, cut or lost."""

    def says(problem: str, sample: int) -> str:
        number = int(problem[1:])
        if number == 4:
            return [right(4), right(4) + "+", "!", right(4)][sample]
        if number == 3:
            return "!"
        return right(number) if sample >= 2 * number else "\\boxed{77}"

    found = measured(says, base, tmp_path / "keep")
    assert [one.fate for one in found.problems] == ["trivial", "kept", "kept", "ungradable", "kept"]
    assert [one.rate for one in found.problems] == [1.0, 0.5, 0.0, None, pytest.approx(2 / 3)]
    assert [one.dropped for one in found.problems] == [True, False, False, True, False]
    assert [one.cut for one in found.problems] == [0, 0, 0, 0, 1]
    assert [one.detail for one in found.problems] == [
        "4 of 4 right",
        "2 of 4 right",
        "0 of 4 right",
        "none of 4 responses could be judged: aborted",
        "2 of 3 right, 1 could not be judged",
    ]
    assert found.problems[0].tokens == 4 * len(right(0) + ".")  # a token a character, and the end
    assert found.warning == ""
    drop = CONFIG.model_copy(update={"unsolved": "drop", "easiest": 0.5})
    again = measured(lambda *_: "!", base, tmp_path / "keep", drop)  # what failed is tried once more
    assert [one.fate for one in again.problems] == ["trivial", "trivial", "unsolved", "ungradable", "trivial"]


def test_a_model_that_is_always_right(base: Path, tmp_path: Path) -> None:
    found = measured(lambda problem, _: right(int(problem[1:])), base, tmp_path)
    assert all(one.dropped for one in found.problems)
    assert found.warning.startswith("the model is right too often: all 5 problems are trivial")


def test_a_model_that_is_never_right(base: Path, tmp_path: Path) -> None:
    found = measured(lambda *_: "It is 7.", base, tmp_path)
    assert [one.fate for one in found.problems] == ["kept"] * 5
    assert found.warning.startswith(
        "the model is never right: 0 of 20 responses to 5 problems, mostly: no \\boxed{} answer after the thinking"
    )


def test_a_model_that_is_cut(base: Path, tmp_path: Path) -> None:
    found = measured(lambda problem, sample: right(int(problem[1:])) + "+" * (sample > 0), base, tmp_path)
    assert [one.rate for one in found.problems] == [0.25] * 5
    assert found.warning.startswith("15 of 20 responses were cut at difficulty.max_tokens")


def test_a_model_that_fails(base: Path, tmp_path: Path) -> None:
    found = measured(lambda *_: "!", base, tmp_path)
    assert {one.fate for one in found.problems} == {"ungradable"}
    assert found.warning == "none of 20 responses could be judged: mostly: aborted"


def test_plain_functions() -> None:
    (one,) = problems(1)
    cut = answer(one, 0, "wrong", stop=StopReason.LENGTH)
    lost = answer(one, 1, "ungradable")
    good = answer(one, 2, "correct")
    assert difficulties([cut, lost, good], CONFIG) == {"p0": Difficulty("p0", "kept", 1, 2, 3, 1, 30, "differs")}
    assert difficulty_of(CONFIG, one, [], "too long") == Difficulty("p0", "unfitting", reason="too long")
    assert difficulty_of(CONFIG, one, [], "too long").rate is None
    assert DifficultyOutcome(()).warning == ""
    assert Score.ungradable("x").reward is None
    assert isinstance(one, Problem)
