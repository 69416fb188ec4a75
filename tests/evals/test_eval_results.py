"""results.json, samples.parquet and report.html: the schema is frozen, and hostile text stays text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from browser_kit import body_of, drawn, needs_browser
from eval_kit import answer, problem
from paths import ROOT

from evals.benchmark import Benchmark
from evals.benchmarks import get
from evals.evaluate import Answer
from evals.report.evaluation import SHOWN, histogram, payload, write_report
from evals.results import Context, Results, ResultsError, Speed, measure, read_results, write_results
from evals.store import write_samples
from evals.votes import same_text
from rollout.types import Problem, StopReason

HOSTILE = "</script><script>document.title='pwned'</script><img src=x onerror=alert(1)>\x1b[31m\u202egnp.exe\ud800"
SETTINGS = {"samples": 4, "temperature": 0.6, "prompt": "x"}


def answers(text: str = "7") -> list[Answer]:
    items = [problem(i, level=i % 3, subject=f"S{i % 2}") for i in range(12)]
    found = []
    for i, item in enumerate(items):
        for j in range(4):
            verdict = "correct" if (i + j) % 3 else "wrong"
            found.append(answer(item, j, verdict, f"{text}{(i + j) % 3}", 10 + i * j))
    found[5] = answer(items[1], 1, "ungradable", text)
    found[6] = answer(items[1], 2, "wrong", "", 99, StopReason.LENGTH)
    return found


def needles() -> list[Answer]:
    cells = [(length, depth) for length in (1000, 4000, 16000) for depth in (0, 50, 100)]
    items = [Problem.ask(f"n{i}", "q", "7", "exact", extra={"length": a, "depth": b}) for i, (a, b) in enumerate(cells)]
    return [answer(item, 0, "correct" if i < 7 else "wrong", "7") for i, item in enumerate(items)]


def context(benchmark: Benchmark, **changes: Any) -> Context:
    given = {"origin": "file", "fingerprint": "f", "defects": 0, "problems_in_data": 12, "settings": SETTINGS}
    return Context(benchmark, **{**given, **changes})


BENCHMARK = Benchmark("toy", "Toy", "Published so.", same=same_text, samples=4, breakdown=("level", "subject"))


def results(found: Sequence[Answer]) -> Results:
    speed = Speed(48, 1000, 10.0, 0.95)
    toy = measure(context(BENCHMARK, speed=speed, first_prompt="<user>" + HOSTILE), found)
    needle = measure(context(get("needle"), problems_in_data=9, settings={"samples": 1}), needles())
    return Results("a/model " + HOSTILE, {"created": "now", "engine": "test"}, (toy, needle))


def test_the_numbers_are_those_of_the_answers() -> None:
    found = measure(context(BENCHMARK), answers())
    graded = [a for a in answers() if a.score.gradable]
    assert found.responses == 48
    assert found.ungradable == pytest.approx(1 / 48)
    assert found.truncated == pytest.approx(1 / 48)
    assert found.score is not None
    assert found.score.problems == 12
    rows: dict[str, list[bool]] = {}
    for a in graded:
        rows.setdefault(a.problem.id, []).append(a.score.correct)
    assert found.score.mean == pytest.approx(sum(sum(r) / len(r) for r in rows.values()) / 12)
    assert found.score.ci95[0] < found.score.mean < found.score.ci95[1]
    assert list(found.pass_at) == ["1", "2", "4"]
    assert found.pass_at["4"].problems == 11  # one problem has three graded responses
    assert list(found.maj_at) == ["2", "4"]
    assert [(s.field, s.value) for s in found.slices] == [
        ("level", "0"), ("level", "1"), ("level", "2"), ("subject", "S0"), ("subject", "S1"),
    ]  # fmt: skip
    assert found.tokens is not None
    assert found.tokens.longest == 99


def test_nothing_gradable_has_no_score_and_is_no_zero() -> None:
    found = measure(context(BENCHMARK), [answer(problem(0), j, "ungradable") for j in range(3)])
    assert found.score is None
    assert found.bootstrap95 is None
    assert found.ungradable == 1.0


def test_results_can_be_read_back(tmp_path: Path) -> None:
    found = results(answers())
    write_results(tmp_path / "results.json", found)
    again = read_results(tmp_path)
    assert again.benchmarks[0].score == found.benchmarks[0].score
    assert again == read_results(tmp_path / "results.json")
    assert again.benchmarks[1].cells == found.benchmarks[1].cells


def keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [keys(value[0])] if value else []
    return type(value).__name__


RATE = {"mean": "float", "ci95": ["float"], "problems": "int"}
FROZEN = {
    "name": "str",
    "title": "str",
    "origin": "str",
    "fingerprint": "str",
    "defects": "int",
    "problems_in_data": "int",
    "settings": {"samples": "int", "temperature": "float", "prompt": "str"},
    "published": "str",
    "score": RATE,
    "bootstrap95": ["float"],
    "rerun_error": "float",
    "pass_at": {"1": RATE, "2": RATE, "4": RATE},
    "maj_at": {"2": RATE, "4": RATE},
    "responses": "int",
    "tokens": {"mean": "float", "ci95": ["float"], "median": "float", "longest": "int"},
    "truncated": "float",
    "repetition": "float",
    "ungradable": "float",
    "slices": [{"field": "str", "value": "str", "score": RATE, "responses": "int", "ungradable": "float"}],
    "cells": [],
    "speed": {"responses": "int", "tokens": "int", "seconds": "float", "busy": "float"},
    "first_prompt": "str",
    "problems": [{"id": "str", "verdicts": ["str"], "tokens": ["int"]}],
    "judge": "NoneType",
    "windows": "NoneType",
    "beside": "NoneType",
    "fused": [],
}


def test_the_schema_is_frozen(tmp_path: Path) -> None:
    """A change here breaks those who read results.json: raise ``evals.results.SCHEMA`` and say so in the docs."""
    write_results(tmp_path / "results.json", results(answers()))
    data = json.loads((tmp_path / "results.json").read_text())
    assert list(data) == ["schema", "model", "facts", "benchmarks"]
    assert data["schema"] == "k15.eval/1"
    assert keys(data["benchmarks"][0]) == FROZEN
    assert keys(data["benchmarks"][1]["cells"]) == [{"length": "int", "depth": "int", "right": "int", "graded": "int"}]
    documented = (ROOT / "docs" / "evaluation.md").read_text()
    assert data["schema"] in documented
    assert not [name for name in FROZEN if f"`{name}`" not in documented]


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), ("{", "not JSON"), ("[]", "schema None"), ('{"schema": "k15.eval/9"}', "k15.eval/9")],
)
def test_files_that_are_no_results(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(ResultsError, match=words):
        read_results(tmp_path)


def test_samples_are_a_table_that_any_tool_reads(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples.parquet", [("toy", answers(HOSTILE)), ("empty", [])])
    table = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert len(table) == 48
    assert {row["verdict"] for row in table} == {"correct", "wrong", "ungradable"}
    assert json.loads(table[0]["fields"]) == {"level": 0, "subject": "S0"}
    assert table[5]["score"] is None


def test_the_report_shows_every_verdict_and_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, results(answers(HOSTILE)), [("toy", answers(HOSTILE)), ("needle", needles())])
    text = path.read_text("utf-8")
    assert text.count("<script") == 2
    assert "<img" not in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))  # type: ignore[union-attr]
    assert {row["verdict"] for row in data["answers"]} == {"correct", "wrong", "ungradable"}
    assert data["answers_total"] == 57
    assert "\u202e" not in text


@needs_browser
def test_a_browser_draws_the_report(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, results(answers(HOSTILE)), [("toy", answers(HOSTILE)), ("needle", needles())])
    document = drawn(path, tmp_path / "profile")
    assert "pwned</title>" not in document
    body = body_of(document)
    for words in ("By level", "By subject", "Found by length and depth", "Response length", 'class="row"'):
        assert words in body, words
    assert "<img" not in body
    assert "&lt;/script&gt;" in body


def test_rare_kinds_are_among_the_answers_shown() -> None:
    many = [answer(problem(i), 0, "correct") for i in range(500)] + [answer(problem(500), 0, "ungradable")]
    shown = payload(results(many), [("toy", many)])["answers"]
    assert len(shown) == SHOWN
    assert any(row["verdict"] == "ungradable" for row in shown)


def test_histograms_count_all_answers_once() -> None:
    found = histogram(answers())
    assert found is not None
    assert sum(map(sum, (found["correct"], found["wrong"], found["ungradable"]))) == 48
    assert found["unit"] == "tokens"
    assert len(found["edges"]) == len(found["wrong"]) + 1
    unknown = histogram([answer(problem(0), 0, "wrong", "four", tokens=None)])
    assert unknown is not None
    assert unknown["unit"] == "characters"
    assert histogram([]) is None
