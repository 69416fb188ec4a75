"""What people and other programs read is JSON: no bare NaN or Infinity, whatever the numbers were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evals.evaluate import Answer, Response
from evals.store import to_rows
from rewards.score import Score
from rewards.stats import Estimate
from rl.record.log import Evaluation, read_evaluations, write_evaluation
from rollout.files import replacing
from rollout.strict_json import dumps
from rollout.types import Problem

BAD = (float("nan"), float("inf"), float("-inf"))


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_nan_and_infinities_become_null_at_any_depth() -> None:
    value = {"a": [*BAD, 1.5, {"b": (float("nan"), "NaN", None, True, 3)}]}
    assert strict(dumps(value)) == {"a": [None, None, None, 1.5, {"b": [None, "NaN", None, True, 3]}]}


def test_an_evaluation_without_a_finite_mean_is_json(tmp_path: Path) -> None:
    nothing = Estimate(float("nan"), float("nan"), float("nan"), 0)
    written = write_evaluation(tmp_path, Evaluation("before", 0, nothing, nothing, 1))
    assert strict(written.read_text())["accuracy"]["mean"] is None
    assert read_evaluations(tmp_path)[0].name == "before"


def test_fields_of_an_evaluations_record_are_json() -> None:
    problem = Problem.ask("p", "1+1?", "2", "math", "test", None, {"weight": float("inf")})
    (row,) = to_rows("bench", [Answer(problem, 0, Response("2", None, 1), Score.right("2"))])
    assert strict(str(row["fields"])) == {"weight": None}


def test_a_file_takes_its_place_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as file:
        file.write("half")
        raise KeyError
    assert path.read_text() == "old"
    with replacing(path) as file:
        file.write("new")
    assert (path.read_text(), [each.name for each in tmp_path.iterdir()]) == ("new", ["out.jsonl"])


def test_what_is_written_through_a_link_or_to_a_device_stays_one(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with replacing(tmp_path / "link") as file:
        file.write("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    with replacing(Path("/dev/null")) as file:
        file.write("x")
    assert Path("/dev/null").is_char_device()
