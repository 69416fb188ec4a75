"""``k15 grade``: lines in, the same lines with verdicts out, in order."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recipes.commands.cli import main
from recipes.commands.grade import SINGLE, Grading, grade_stream


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
    assert main(["grade", file, "--bare", "--tolerance-field", "error"]) == 2
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
        (["f.jsonl", "--out", "no/such/o.jsonl"], "cannot write no/such/o.jsonl: No such file"),
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


def test_a_wrong_field_name_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o.jsonl"
    out.write_text("of before\n")
    file = write(tmp_path / "f.jsonl", "", *({"question": "q", "answer": str(n)} for n in range(300)))
    assert main(["grade", file, "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"k15: {file}:2: no field 'gold'; there are: question, answer; --gold-field NAME names another"
    )
    assert line.endswith("(and 299 more lines up to 301)")
    assert out.read_text() == "of before\n"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_lines_is_an_error(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text(text)
    assert main(["grade", str(file), "--out", str(tmp_path / "o.jsonl")]) == 2
    assert capsys.readouterr().err == f"k15: {file}: holds no lines to grade\n"
    assert not (tmp_path / "o.jsonl").exists()


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_what_comes_out_is_json_whatever_numbers_go_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits = "3.14159265358979323846"
    lines = [
        '{"gold": NaN, "prediction": "\\\\boxed{1}"}',
        '{"gold": "1", "prediction": 1e400}',
        '{"gold": "1", "prediction": "\\\\boxed{1}", "logprobs": [-Infinity, {"x": 1e999}]}',
        f'{{"gold": {digits}, "prediction": "\\\\boxed{{{digits}}}"}}',
    ]
    assert main(["grade", write(tmp_path / "f.jsonl", *lines)]) == 1
    out, err = capsys.readouterr()
    first, second = map(strict, out.splitlines())
    assert (first["logprobs"], first["verdict"]) == ([None, {"x": None}], "correct")
    assert second["verdict"] == "correct"  # as written, not as rounded
    assert "f.jsonl:1: field 'gold' is no finite number; nan" in err
    assert "f.jsonl:2: field 'prediction' is no finite number; 1e400" in err
    assert "NaN or infinities in 1 lines came out as null" in err


def test_fields_of_the_rows_own_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"gold": "1", "prediction": r"\boxed{1}", "verdict": "mine", "reason": "theirs"}
    file = write(tmp_path / "f.jsonl", row, row)
    assert main(["grade", file]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "f.jsonl:1: has a field 'verdict' of its own" in err
    assert "--prefix" in err
    assert main(["grade", file, "--prefix", "k15_"]) == 0
    graded = json.loads(capsys.readouterr().out.splitlines()[0])
    assert graded == {**row, "k15_verdict": "correct", "k15_extracted": "1", "k15_reason": ""}


@pytest.mark.parametrize("out", ["/dev/full", "."])
def test_an_output_that_cannot_be_written_is_one_line(
    out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "f.jsonl", {"gold": "1", "prediction": "1"})
    assert main(["grade", file, "--bare", "--out", out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"k15: cannot write {out}: ")


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
    code = "import sys, recipes.commands.cli as c; c.parser(); sys.exit('rewards.math.grade' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_many_lines_keep_their_order_over_processes() -> None:
    total = SINGLE + 300
    lines = [json.dumps({"gold": str(n), "prediction": str(n + (n % 3 == 0))}).encode() for n in range(total)]
    verdicts = list(grade_stream(iter(lines), Grading(bare=True), workers=2))
    assert [json.loads(graded.text)["gold"] for graded in verdicts] == [str(n) for n in range(total)]
    assert [graded.verdict for graded in verdicts] == ["wrong" if n % 3 == 0 else "correct" for n in range(total)]
