"""A learner that dies while a run goes on: another takes its place, and the run ends as if nothing had been.

In one process, with every method dying before and after its work; real ranks that are killed: ``test_cluster.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_kit import assert_same_run, timeless, tiny

from recipes.run.launching import Machines
from recipes.run.session import run
from rl.record.log import read_metrics
from tests.mortal import mortal


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """An undisturbed run, and how often it called each method of the learner."""
    folder, made = tmp_path_factory.mktemp("runs") / "whole", []
    assert run(tiny(), folder, mortal((), made)) == 0
    return folder, dict(made[0].policy.calls)


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("method", "number"),
    [
        ("export", 1),  # the rehearsal
        ("publish", 1),  # before the warm-up
        ("sft", 3),
        ("save", 1),  # the first checkpoint of RL
        ("export", 2),  # of the warm-up
        ("publish", 2),  # before the first evaluation
        ("score", 2),
        ("train", 1),  # no checkpoint yet
        ("train", 3),
        ("publish", 4),
        ("save", 3),
        ("saved", 2),
        ("publish", -1),
        ("export", -1),
    ],
)
def test_a_death_anywhere_leaves_no_trace_in_what_the_run_writes(
    method: str, number: int, done: bool, whole: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    undisturbed, calls = whole
    number = number if number > 0 else calls[method]
    made: list[Machines] = []
    assert run(tiny(), tmp_path / "run", mortal([(method, number, done)], made)) == 0
    assert len(made) == 1, "the engines live on"
    assert made[0].policy.calls["replace"] == 1
    assert_same(undisturbed, tmp_path / "run")


def test_deaths_at_the_start_of_another_learner_count_too(whole: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    made: list[Machines] = []
    deaths = [("train", 2, False), ("replace", 1, False), ("replace", 2, False)]
    assert run(tiny(), tmp_path / "run", mortal(deaths, made)) == 0
    assert made[0].policy.calls["replace"] == 3
    assert_same(whole[0], tmp_path / "run")


@pytest.mark.parametrize(
    "deaths",
    [
        [("train", n, False) for n in range(2, 9)],
        [("train", 2, True), *(("replace", n, False) for n in range(1, 9))],
        [("save", n, True) for n in range(2, 9)],
    ],
    ids=["train", "start", "save"],
)
def test_deaths_without_progress_end_the_run_which_the_same_command_resumes(
    deaths: list[Any], whole: tuple[Path, dict[str, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Machines] = []
    config = tiny(learner={"updates": 2, "ranks": {"max_restarts": 2}})
    assert run(config, tmp_path / "run", mortal(deaths, made)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("k15: rank 1")
    assert made[0].policy.calls["replace"] == 2
    assert run(config, tmp_path / "run", mortal((), made)) == 0
    assert_same(whole[0], tmp_path / "run")


def test_deaths_with_iterations_between_them_end_nothing(whole: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    config = tiny(learner={"updates": 2, "ranks": {"max_restarts": 1}})
    deaths = [("train", 1, False), ("train", 4, False), ("train", 7, True)]  # a checkpoint on its way is lost with it
    made: list[Machines] = []
    assert run(config, tmp_path / "run", mortal(deaths, made)) == 0
    assert made[0].policy.calls["replace"] == 3
    assert_same(whole[0], tmp_path / "run")


def assert_same(one: Path, other: Path) -> None:
    """No rollout is lost, trained twice or counted twice: rollouts and weights bit for bit, rows, totals."""
    assert_same_run(one, other)
    rows = [[timeless(row) for row in read_metrics(folder)] for folder in (one, other)]
    assert rows[0] == rows[1]
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (one, other))
    for key in ours.keys() - {"wall_seconds", "max_logprob_gap", "model_path", "report_path"}:
        assert ours[key] == theirs[key], key
