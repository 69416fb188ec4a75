"""``k15 judge``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.commands.cli import main
from tests.code_kit import ROWS, wrapped


def write(path: Path, *rows: object) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def judged(
    tmp_path: Path, problems: list[object], programs: list[object], *more: str
) -> tuple[int, list[dict[str, Any]]]:
    out = tmp_path / "out"
    files = ["--problems", write(tmp_path / "p", *problems), "--programs", write(tmp_path / "s", *programs)]
    code = main(["judge", *files, "--out", str(out), *more])
    return code, [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


PROBLEMS: list[object] = [{"id": kind, **row} for kind, row in ROWS.items()]


def test_one_line_for_each_program_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    programs: list[object] = []
    for kind in ROWS:
        programs += [
            {"id": kind, "code": wrapped("return n * n + 1", kind)},
            {"id": kind, "code": wrapped("return 10", kind)},
        ]
    programs.append({"id": "stdin", "code": "read n; echo $((n * n + 1))", "language": "bash"})
    programs.append({"id": "mbpp", "response": "<think></think>```python\ndef f(n): return n * n + 1\n```"})
    code, rows = judged(tmp_path, PROBLEMS, programs)
    assert code == 0
    assert [row["verdict"] for row in rows] == ["AC", "WA"] * len(ROWS) + ["AC", "AC"]
    assert [row["id"] for row in rows] == [program["id"] for program in programs]  # type: ignore[index]
    first, second = rows[:2]
    assert (first["passed"], first["total"], first["reason"]) == (3, 3, "")
    assert first["cpu_s"] > 0
    assert [test["verdict"] for test in second["tests"]] == ["AC", "WA", "SKIPPED"]
    assert second["tests"][0]["cpu_s"] > 0
    assert "10 programs in" in capsys.readouterr().err


def test_all_tests_and_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = {"id": "stdin", "code": "print(int(input()) and 10)"}
    files = ["--problems", write(tmp_path / "p", *PROBLEMS), "--programs", write(tmp_path / "s", program)]
    assert main(["judge", *files, "--all-tests", "--workers", "1"]) == 0
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert [test["verdict"] for test in row["tests"]] == ["AC", "WA", "WA"]


def test_bad_lines_are_named_and_bad_problems_are_nobodys_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    programs: list[object] = [
        "{",
        {"code": "1"},
        {"id": "stdin"},
        [1],
        {"id": "x", "code": "1"},
        {"id": "empty", "code": "1"},
        {"id": "mbpp", "response": "it is 4"},
        {"id": "stdin", "code": "1", "language": "cobol"},
        {"id": "stdin", "code": "n = int(input())\nprint(n * n + 1)"},
    ]
    code, rows = judged(tmp_path, [*PROBLEMS, {"id": "empty", "tests": []}], programs)
    assert code == 1
    assert [(row["id"], row["verdict"]) for row in rows] == [
        ("x", "SE"), ("empty", "SE"), ("mbpp", "CE"), ("stdin", "CE"), ("stdin", "AC"),
    ]  # fmt: skip
    assert rows[0]["reason"] == "unknown problem id 'x'"
    assert "p:5: the problem has no tests" in rows[1]["reason"]
    assert rows[3]["reason"].startswith("language 'cobol' is not taken here")
    said = capsys.readouterr().err
    for text in ("s:1: not valid JSON", "s:2: 'id' is missing", "s:3: neither 'code' nor", "s:4: expected an object"):
        assert text in said


@pytest.mark.parametrize(
    ("problems", "message"),
    [(["{"], "p:1: not valid JSON"), ([], "holds no problems"), ([{"tests": []}], "p:1: 'id' is missing")],
)
def test_bad_problem_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], problems: list[object], message: str
) -> None:
    assert judged(tmp_path, problems, [{"id": "a", "code": "1"}])[0] == 2
    assert message in capsys.readouterr().err


def test_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problems = write(tmp_path / "p", *PROBLEMS)
    assert main(["judge", "--problems", problems, "--programs", str(tmp_path / "none")]) == 2
    assert "none: No such file" in capsys.readouterr().err
    assert main(["judge", "--problems", problems, "--programs", problems, "--out", problems]) == 2
    assert "is an input itself" in capsys.readouterr().err


def test_wrong_fields_are_one_line_and_leave_the_output_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems, programs, out = tmp_path / "p.jsonl", tmp_path / "s.jsonl", tmp_path / "o.jsonl"
    problems.write_text(json.dumps({"id": "a", "tests": [{"input": "1", "output": "1"}]}) + "\n")
    out.write_text("of before")
    command = ["judge", "--problems", str(problems), "--programs", str(programs), "--out", str(out)]
    programs.write_text('{"task": "a", "code": ""}\n' * 30)
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("s.jsonl:1: 'id' is missing or no text; the line has: task, code (and 29 more lines up to 30)")
    programs.write_text("\n")
    assert main(command) == 2
    assert capsys.readouterr().err == f"k15: {programs}: holds no programs\n"
    assert out.read_text() == "of before"
