"""``k15 grade --quotes``: lines in, the same lines with what they misquote out, and the faithful ones apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.commands.cli import main

FAITHFUL = {"id": 1, "question": "Tom has 48 eggs and sells 5.", "prediction": "48 - 5 = 43", "extra": [None, 0.1]}
WRONG = {"question": "Tom has 48 eggs and sells 5.", "prediction": "48 eggs.\n84 - 5 = 80 for Maila"}


def write(path: Path, *rows: dict[str, Any] | str) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_same_lines_with_what_they_misquote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, kept = write(tmp_path / "f.jsonl", FAITHFUL, "", WRONG), tmp_path / "kept.jsonl"
    assert main(["grade", file, "--quotes", "--kept", str(kept)]) == 0
    out, err = capsys.readouterr()
    assert rows(out) == [
        {**FAITHFUL, "quotes": 3, "unsupported": [], "miscalculations": []},
        {**WRONG, "quotes": 5, "miscalculations": ["84 - 5 = 80"], "unsupported": [
            {"kind": "number", "text": "84", "line": 2}, {"kind": "number", "text": "80", "line": 2},
            {"kind": "name", "text": "Maila", "line": 2},
        ]},
    ]  # fmt: skip
    assert rows(kept.read_text()) == [FAITHFUL]
    assert err.startswith(
        "2 responses: 1 (50.0%) state something as given that their questions do not have; of 8 quotes are "
        "unsupported: 1 names, 2 numbers ("
    )


def test_other_fields_and_a_prefix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"problem": "no", "ask": "It has 48 eggs.", "said": "It has 84 eggs.", "quotes": "its own"}
    file = write(tmp_path / "f.jsonl", row)
    options = ["--question-field", "ask", "--prediction-field", "said"]
    assert main(["grade", file, "--quotes", *options]) == 2
    assert "has a field 'quotes' of its own" in capsys.readouterr().err
    assert main(["grade", file, "--quotes", *options, "--prefix", "k15_"]) == 0
    (found,) = rows(capsys.readouterr().out)
    assert found["quotes"] == "its own"
    assert found["k15_unsupported"] == [{"kind": "number", "text": "84", "line": 1}]


def test_malformed_lines_are_told_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "f.jsonl", FAITHFUL, "{bad", {"prediction": "7"}, {"question": "7", "prediction": [7]})
    out = tmp_path / "o.jsonl"
    assert main(["grade", file, "--quotes", "--out", str(out)]) == 1
    assert len(rows(out.read_text())) == 1
    err = capsys.readouterr().err
    for told in (":2: not valid JSON", ":3: no field 'question'", ":4: field 'prediction' is list"):
        assert told in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kept", "k.jsonl"], "--kept goes with --quotes"),
        (["--quotes", "--bare"], "--quotes judges no answer"),
        (["--quotes", "--rule", "gsm8k"], "--quotes judges no answer"),
        (["--quotes", "--kept", "f.jsonl"], "is the input itself"),
        (["--quotes", "--kept", "same.jsonl", "--out", "same.jsonl"], "name two files"),
        (["--quotes", "--kept", "no/such/folder.jsonl"], "cannot write no/such/folder.jsonl"),
    ],
)
def test_wrong_arguments_are_one_line(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "f.jsonl", FAITHFUL)
    assert main(["grade", "f.jsonl", *options]) == 2
    assert message in capsys.readouterr().err
    assert rows((tmp_path / "f.jsonl").read_text()) == [FAITHFUL]


def test_a_run_is_no_file_of_responses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grade", str(tmp_path), "--quotes"]) == 2
    assert "with reward.quotes" in capsys.readouterr().err
