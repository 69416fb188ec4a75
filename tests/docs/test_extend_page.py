"""docs/extend.md as written: its parts are saved side by side, and a run trains with all of them."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from recipes.commands.choose import resolve
from recipes.commands.cli import main
from recipes.run.session import run
from rl.config import RunConfig
from rl.config_io import validate
from rl.record.log import read_metrics
from tests.docs.pages import LONGEST, Page
from tests.run_kit import tiny

PAGE = Page("extend.md")


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    PAGE.save(tmp_path)
    (tmp_path / "backwards.jsonl").write_text(PAGE.block("json"))
    return tmp_path


def test_every_part_has_an_example_and_each_is_short() -> None:
    parts = ("task", "reward", "environment", "objective", "recipe", "benchmark")
    assert set(PAGE.files) == {f"my_{part}.py" for part in parts}
    assert all(len(text.splitlines()) <= LONGEST for text in PAGE.files.values())


@pytest.mark.parametrize("command", [command for command in PAGE.commands if command.startswith("k15 train")])
def test_the_commands(command: str, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*shlex.split(command)[1:], "--dry-run"]) == 0
    assert str(saved) in capsys.readouterr().out


def test_the_recipe_trains_with_every_part(saved: Path) -> None:
    """With a model and budgets small enough for a test."""
    recipe, small = resolve("my_recipe.py", None, []), tiny()
    mine = {name: getattr(recipe, name).model_dump() for name in ("problems", "reward", "environment")}
    mine["problems"]["heldout_size"] = 4
    mine["rollout"] = small.rollout.model_copy(update={"segment_tokens": small.rollout.max_tokens}).model_dump()
    mine["learner"] = {"updates": 2, "objective": recipe.learner.objective.model_dump()}
    config = RunConfig.model_validate({**small.model_dump(), **mine, "iterations": 1})
    assert run(config, saved / "run") == 0
    (row,) = read_metrics(saved / "run")
    assert row["grader/failed"] == row["rollouts/ungradable"] == 0
    assert {"reward/part/places", "loss"} <= row.keys()
    assert row["turns/max"] == 2, "a wrong answer gets a hint"
    resolved = validate(yaml.safe_load((saved / "run" / "config.yaml").read_text()))
    assert resolved.learner.objective == recipe.learner.objective


def test_the_benchmark_judges_given_answers(saved: Path) -> None:
    answers = [{"id": "w1", "response": "desserts"}, {"id": "w2", "response": "Reward"}]
    (saved / "answers.jsonl").write_text("\n".join(map(json.dumps, answers)) + "\n")
    given = ["--predictions", "answers.jsonl", "--data", "backwards.jsonl", "--out", "out"]
    assert main(["eval", "--bench", "my_benchmark.py", *given]) == 0
    (result,) = json.loads((saved / "out" / "results.json").read_text())["benchmarks"]
    assert (result["name"], result["score"]["mean"]) == ("backwards", 0.5)
