"""docs/rewards.md as written: its files are saved, its commands are run."""

from __future__ import annotations

import json
import shlex
import sys
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from factories import problem

from recipes.commands.choose import resolve
from recipes.commands.cli import main
from recipes.run.session import run
from rl.config import RunConfig
from rl.config_io import read_file, validate
from rl.record.log import read_evaluations, read_metrics
from rl.rewarding import build_grader
from rollout.grading import Answered, Grading
from rollout.problems.build import build_source
from rollout.problems.config import PythonSource
from rollout.problems.source import check_disjoint
from rollout.types import StopReason
from tests.docs.pages import LONGEST, Page
from tests.run_kit import tiny

PAGE = Page("rewards.md")


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    PAGE.save(tmp_path)
    return tmp_path


def scores(spec: str, *texts: str) -> list[tuple[float | None, bool]]:
    config = RunConfig.model_validate({"reward": {"function": spec, "timeout_s": 600.0}}).reward
    with Grading(build_grader(config)) as grading:
        given = grading.submit(lambda: [Answered(problem(), text, StopReason.EOS) for text in texts]).result()
    assert all(score.gradable for score in given), given
    return [(score.reward, score.correct) for score in given]


def test_examples_are_short() -> None:
    assert set(PAGE.files) == {"my_reward.py", "my_judge.py", "my_problems.py", "my_task.py", "my_recipe.py"}
    assert all(len(text.splitlines()) <= LONGEST for text in PAGE.files.values())


def test_the_rewards(saved: Path) -> None:
    assert scores("my_reward.py:reward", "Answer: 7", "maybe, maybe Answer: 7", "8") == [
        (1.0, True), (0.8, True), (0.0, False)
    ]  # fmt: skip
    assert scores("my_judge.py:reward", "it is 7", "no") == [(1.0, True), (-0.5, False)]
    assert scores("my_judge.py:lengths", "a" * 500, "") == [(-0.5, False), (0.0, False)]


def test_the_problems(saved: Path) -> None:
    config = PythonSource(path="my_problems.py:problems", verifier="exact")
    train, heldout = build_source(config, "train"), build_source(config, "heldout")
    assert (train.size, heldout.size) == (3, 1)
    assert heldout[0].answer == "Lima"
    check_disjoint(train, heldout)


@pytest.mark.parametrize("command", [command for command in PAGE.commands if "hedging" not in command])
def test_the_commands(command: str, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*shlex.split(command)[1:], "--dry-run"]) == 0
    config = validate(yaml.safe_load(capsys.readouterr().out))
    assert config.reward.function in (None, f"{saved}/my_reward.py:reward")


def test_the_entry_points_are_toml() -> None:
    groups = tomllib.loads(PAGE.block("toml"))["project"]["entry-points"]
    assert {"k15.rewards", "k15.recipes"} == set(groups)


def test_the_recipe_trains(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own task, demonstrations and reward, with a model and budgets small enough for a test."""
    recipe, small = resolve("my_recipe.py", None, []), tiny()
    kept = {name: getattr(recipe, name) for name in ("recipe", "reward")}
    kept["problems"] = recipe.problems.model_copy(update={"heldout_size": 4})
    kept["rollout"] = small.rollout.model_copy(update={"segment_tokens": small.rollout.max_tokens})
    config = RunConfig.model_validate({**small.model_dump(), **kept, "iterations": 1})
    assert run(config, saved / "run") == 0
    (row,) = read_metrics(saved / "run")
    assert (row["grader/calls"], row["grader/failed"]) == (6 + 8, 0), "training, and evaluation before RL"
    assert "reward/part/hedges" in row
    summary = json.loads((saved / "run" / "summary.json").read_bytes())
    assert summary["reward_before"]["mean"] == read_evaluations(saved / "run")[0].reward.mean  # type: ignore[union-attr]
    assert read_file(saved / "run" / "config.yaml")["reward"]["function"] == f"{saved}/my_reward.py:reward"

    # The same reward grades the run's stored rollouts, and its model on the held-out problems, again [invariant 10].
    assert main(["grade", "run"]) == 0
    assert "6 rollouts: " in (told := capsys.readouterr().err)
    assert "all as stored" in told
    assert main(["eval", "heldout", "--model", "run", "--out", "again"]) == 0
    after = pq.read_table(saved / "run" / "eval" / "after.parquet").to_pylist()
    again = pq.read_table(saved / "again" / "samples.parquet").to_pylist()
    assert [(row["problem"], row["score"]) for row in again] == [(row["problem"], row["score"]) for row in after]
    assert {row["score"] for row in after} != {None}
