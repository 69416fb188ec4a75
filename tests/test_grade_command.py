"""``k15 grade``: lines in, the same lines with verdicts out, in order."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recipes.cli import main
from recipes.grade import SINGLE, Grading, grade_stream


def write(path: Path, *rows: dict[str, Any] | str) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_same_line_with_its_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(
        tmp_path / "f.jsonl",
        {"id": 7, "gold": "1/2", "prediction": r"<think>\boxed{1}</think>\boxed{0.5}", "extra": ["kept", None]},
        "",
        {"gold": 42, "prediction": r"\boxed{41}"},
        {"gold": " ", "prediction": r"\boxed{41}"},
    )
    assert main(["grade", file]) == 0
    out, err = capsys.readouterr()
    first, second, third = (json.loads(line) for line in out.splitlines())
    assert first == {
        "id": 7, "gold": "1/2", "prediction": r"<think>\boxed{1}</think>\boxed{0.5}", "extra": ["kept", None],
        "verdict": "correct", "extracted": "0.5", "reason": "",
    }  # fmt: skip
    assert (second["verdict"], second["extracted"], second["reason"]) == ("wrong", "41", "another value")
    assert (third["verdict"], third["reason"]) == ("ungradable", "the reference is empty")
    assert err.startswith("3 lines: 1 correct, 1 wrong, 1 ungradable; 50.0% of the gradable ones are correct (")


def test_malformed_lines_are_named_and_the_others_graded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"gold": "1", "prediction": r"\boxed{1}"}
    file = tmp_path / "f.jsonl"
    file.write_bytes(
        b"\n".join(
            [
                json.dumps(good).encode(), b"{bad", b"[1]", b'{"gold": true, "prediction": "1"}',
                b'{"prediction": "1"}',
                b'{"gold": "1", "prediction": ["1"]}', b"\xff\xfe", b"[" * 100_000, b'"text"',
                json.dumps(good).encode(),
            ]
        )
    )  # fmt: skip
    assert main(["grade", str(file), "--out", str(tmp_path / "o.jsonl")]) == 1
    assert [row["verdict"] for row in rows(tmp_path / "o.jsonl")] == ["correct", "correct"]
    named = capsys.readouterr().err.splitlines()
    for number, reason in [
        (2, "not valid JSON"), (3, "expected an object, found list"), (4, "field 'gold' is bool, not text"),
        (5, "no field 'gold'; there are: prediction"), (6, "field 'prediction' is list, not text"),
        (7, "not UTF-8 text"),
        (8, "nested too deeply"), (9, "expected an object, found str"),
    ]:  # fmt: skip
        assert named[number - 2].startswith(f"k15: {file}:{number}: {reason}"), named
    assert "8 malformed and left out" in named[-1]


def test_fields_rules_and_tolerance(tmp_path: Path) -> None:
    file = write(
        tmp_path / "f.jsonl",
        {"answer": "42", "text": "#### 42", "error": None},
        {"answer": "4.2", "text": "#### 4.25", "error": "1e-1"},
        {"answer": "4.2", "text": "#### 4.25"},
    )
    out = tmp_path / "o.jsonl"
    fields = ["--gold-field", "answer", "--prediction-field", "text", "--tolerance-field", "error", "--out", str(out)]
    assert main(["grade", file, "--rule", "gsm8k", *fields]) == 0
    assert [row["verdict"] for row in rows(out)] == ["correct", "correct", "wrong"]
    assert main(["grade", file, *fields]) == 0
    assert {row["reason"] for row in rows(out)} == {"no \\boxed{} answer after the thinking"}


@pytest.mark.parametrize("error", ["-1", "nan", "x", "[1]"])
def test_a_bad_tolerance_is_named(error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "f.jsonl", {"gold": "1", "prediction": "1", "error": error})
    assert main(["grade", file, "--bare", "--tolerance-field", "error"]) == 1
    assert f":1: field 'error' is '{error}', not a number of at least 0" in capsys.readouterr().err


def test_bare_from_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = b'{"gold": "1/2", "prediction": "$0.5$"}\nnope\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert main(["grade", "-", "--bare"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["verdict"] == "correct"
    assert "k15: standard input:2: not valid JSON" in err


def test_hostile_text_comes_out_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "f.jsonl", '{"gold": "1", "prediction": "\\\\boxed{\\u001b[31m\\ud800\\u202e1}"}')
    assert main(["grade", file]) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert json.loads(out)["verdict"] == "wrong"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.jsonl"], "cannot open no.jsonl: No such file"),
        (["."], ".: holds no rollouts (no rollouts/*.parquet); name the directory of a run"),
        (["f.jsonl", "--out", "no/such/o.jsonl"], "cannot open no/such/o.jsonl: No such file"),
        (["f.jsonl", "--out", "f.jsonl"], "--out f.jsonl is the input itself"),
    ],
)
def test_files_that_do_not_open(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "f.jsonl", {"gold": "1", "prediction": "1"})
    assert main(["grade", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert rows(tmp_path / "f.jsonl")


@pytest.mark.parametrize("arguments", [["f", "--rule", "box"], ["f", "--workers", "0"], ["f", "--timeout", "0"], []])
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["grade", *arguments])
    assert caught.value.code == 2
    assert "usage: k15 grade" in capsys.readouterr().err


def test_help_teaches_and_loads_late(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["grade", "--help"])
    text = capsys.readouterr().out
    for word in ("verdict", "extracted", "reason", "boxed", "gsm8k", "exact", "examples", "--tolerance-field"):
        assert word in text
    code = "import sys, recipes.cli as c; c.parser(); sys.exit('rewards.math.grade' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_many_lines_keep_their_order_over_processes() -> None:
    total = SINGLE + 300
    lines = [json.dumps({"gold": str(n), "prediction": str(n + (n % 3 == 0))}).encode() for n in range(total)]
    verdicts = list(grade_stream(iter(lines), Grading(bare=True), workers=2))
    assert [json.loads(graded.text)["gold"] for graded in verdicts] == [str(n) for n in range(total)]
    assert [graded.verdict for graded in verdicts] == ["wrong" if n % 3 == 0 else "correct" for n in range(total)]
