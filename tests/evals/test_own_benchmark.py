"""Benchmarks from a user's file: what is found, what is refused, what fails later."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from evals.benchmarks import get
from evals.data import Choice, load
from evals.evaluate import asks_of
from evals.journal import JournalError
from evals.offline import Task, run_task
from recipes.commands.cli import main
from rollout.user_code import UserCodeError
from tests.eval_kit import Scripted

TEXT = """
from evals.benchmark import Benchmark

def ask(problem):
    return problem.extra["shown"]

BENCHMARK = Benchmark("mine", "Mine", "", file="mine.jsonl", ask=ask, verifier="exact")
OTHER = Benchmark("other", "Other", "", file="mine.jsonl", verifier="exact")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # another test's
    (tmp_path / "mine.py").write_text(TEXT)
    (tmp_path / "mine.jsonl").write_text('{"id": "a", "problem": "p", "answer": "7"}\n')
    return tmp_path


def grade(*more: str) -> int:
    Path("answers.jsonl").write_text(json.dumps({"id": "a", "response": "7"}) + "\n")
    return main(["eval", "--predictions", "answers.jsonl", "--data", ".", "--out", "out", *more])


def test_a_file_and_a_name_in_it(here: Path) -> None:
    assert get("mine.py").name == "mine"
    assert get(f"{here}/mine.py:OTHER").name == "other"
    assert get("mine:OTHER").name == "other"
    assert grade("--bench", "mine.py:OTHER") == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("BENCHMARK = 3", "must be an evals.benchmark.Benchmark, not int"),
        ("", "must be an evals.benchmark.Benchmark, not NoneType"),
        (TEXT.replace('"mine", "Mine"', '"gsm8k", "Mine"'), "'gsm8k' is taken"),
        (TEXT.replace('"mine", "Mine"', '"../mine", "Mine"'), "cannot name a folder"),
        (TEXT.replace('file="mine.jsonl", ask', "ask"), "mine has no problems"),
        ("1 / 0", r"bad.py:1: ZeroDivisionError"),
    ],
)
def test_what_is_no_benchmark_is_refused_in_one_line(
    text: str, reason: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "bad.py").write_text(text)
    assert grade("--bench", "bad.py") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert "bad.py" in line


def test_an_error_in_its_functions_names_file_and_line(here: Path) -> None:
    benchmark = get("mine.py")
    (problem,) = load(benchmark, here, Choice()).problems
    with pytest.raises(UserCodeError, match=r"mine\.py:5: KeyError: 'shown'"):
        benchmark.ask(problem)


def test_a_record_does_not_go_on_under_other_code(here: Path) -> None:
    def evaluate() -> float:
        benchmark = get("mine.py:OTHER")
        loaded = load(benchmark, here, Choice())
        task = Task(benchmark, loaded, asks_of(loaded.problems, 1, 0), Scripted(lambda ask: "7"), {})
        result, _ = run_task(task, here / "out")
        assert result.score is not None
        return result.score.mean

    assert evaluate() == evaluate() == 1
    (here / "mine.py").write_text(TEXT + "# judged otherwise\n")
    with pytest.raises(JournalError, match="code"):
        evaluate()
