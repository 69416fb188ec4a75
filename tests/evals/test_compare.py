"""``k15 compare``: two evaluations on the same problems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eval_kit import answer, problem

from evals.benchmark import Benchmark
from evals.compare import change
from evals.results import Context, Results, measure, write_results
from evals.store import write_samples
from recipes.commands.cli import main

BENCHMARK = Benchmark("toy", "Toy", "Published so.", same=None)


def write(folder: Path, right: set[int], ungradable: frozenset[int] = frozenset(), **settings: Any) -> Path:
    """An evaluation of 40 problems with one response each."""
    verdicts = ["ungradable" if i in ungradable else "correct" if i in right else "wrong" for i in range(40)]
    found = [answer(problem(i), 0, verdict) for i, verdict in enumerate(verdicts)]
    context = Context(BENCHMARK, "file", "f", 0, 40, {"samples": 1, "temperature": 0.6, **settings})
    folder.mkdir()
    write_results(folder / "results.json", Results(folder.name, {}, (measure(context, found),)))
    return folder


def test_change_between_files_of_samples(tmp_path: Path) -> None:
    """Problem by problem; ungradable responses and problems without another leave no trace."""

    def store(name: str, verdicts: list[list[str]]) -> Path:
        rows = [answer(problem(i), j, v) for i, own in enumerate(verdicts) for j, v in enumerate(own)]
        write_samples(tmp_path / name, [("toy", rows)])
        return tmp_path / name

    before = store("a.parquet", [["wrong", "wrong"]] * 6 + [["correct", "ungradable"], ["ungradable", "ungradable"]])
    after = store("b.parquet", [["correct", "wrong"]] * 6 + [["correct", "correct"], ["correct", "correct"]])
    found = change(before, after)
    assert found is not None
    assert (found.problems, found.better, found.worse) == (7, 6, 0)
    assert found.difference == pytest.approx(3 / 7)
    assert found.p == pytest.approx(2 / 2**6)
    assert change(before, store("c.parquet", [["ungradable"]])) is None


def test_a_clear_difference_is_called_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a", set(range(10)))
    b = write(tmp_path / "b", set(range(24)))
    assert main(["compare", str(a), str(b), "--out", str(tmp_path / "c.json")]) == 0
    out = capsys.readouterr().out
    assert "+35.0" in out
    assert "B is better" in out
    row = json.loads((tmp_path / "c.json").read_text())["benchmarks"][0]
    assert row["paired"]["p"] == pytest.approx(2 / 2**14)
    assert 0.1 < row["paired"]["low"] < 0.35 < row["paired"]["high"] < 0.55


def test_what_chance_can_do_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a", {1, 2, 3})
    b = write(tmp_path / "b", {3, 4}, temperature=1.0)
    assert main(["compare", str(a), str(b / "results.json")]) == 0
    out = capsys.readouterr().out
    assert "no difference shown" in out
    assert "other settings, so not the models alone: temperature: 0.6 -> 1.0" in out


def test_problems_without_a_verdict_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write(tmp_path / "a", {1}, ungradable=frozenset({5, 6}))
    b = write(tmp_path / "b", {1}, ungradable=frozenset({6, 7}))
    assert main(["compare", str(a), str(b)]) == 0
    assert "3 problems that only one of them answered are left out" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nothing", "text"])
def test_what_is_no_evaluation_is_one_line(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a", {1})
    (tmp_path / "text").write_text("hello")
    assert main(["compare", str(a), str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("k15: ")
    assert len(error.splitlines()) == 1


def test_evaluations_of_other_benchmarks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a", {1})
    data = json.loads((a / "results.json").read_text())
    data["benchmarks"][0]["name"] = "other"
    (tmp_path / "b.json").write_text(json.dumps(data))
    assert main(["compare", str(a), str(tmp_path / "b.json")]) == 2
    assert "the first has toy, the second other" in capsys.readouterr().err
