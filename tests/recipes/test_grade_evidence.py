"""``k15 grade --judge MODEL --evidence FILES``: one word by evidence in windows, and which of them decided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eval_kit import write_model

from recipes.commands.cli import main
from rollout.reward_models.asking import judge_card
from rollout.reward_models.card import write_card

ENGINE = ["--judge-set", "engine.kind=hf", "--judge-set", "engine.max_model_len=256"]
LABELS = ["--judge-set", "evidence.labels=[good, bad]"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_model(tmp_path_factory.mktemp("models") / "judge", context=256)
    write_card(folder, judge_card("E: {reference}\nQ: {question}\nR: {response}\n?", max_tokens=200))
    return str(folder)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_bring_evidence_of_their_own_and_files_are_shared(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rubric, out = tmp_path / "rubric.md", tmp_path / "out.jsonl"
    rubric.write_text("All steps must be there.")
    rows = [
        {"question": "1 + 1?", "prediction": "2", "gold": "2", "evidence": {"log": "ok"}},
        {"question": "1 + 2?", "prediction": "4"},
        {"question": "1 + 3?", "prediction": "4", "evidence": {"log": "x" * 400}},
    ]
    command = ["grade", write(tmp_path / "f.jsonl", rows), "--rule", "none", "--judge", model, "--out", str(out)]
    assert main([*command, *ENGINE, *LABELS, "--judge-set", "evidence.each=true", "--evidence", str(rubric)]) == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    opinions = [json.loads(row["opinion"]) for row in found[:2]]
    assert list(opinions[0]["each"]) == ["reference", "log", "rubric.md"]
    assert list(opinions[1]["each"]) == ["rubric.md"]
    for row, opinion in zip(found, opinions, strict=False):
        assert row["model"] == pytest.approx(opinion["right"], abs=1e-6)
        assert row["verdict"] == {"good": "correct", "bad": "wrong"}[opinion["verdict"]]
        assert opinion["evidence"] in opinion["each"]
    assert found[2]["verdict"] == "ungradable"
    assert "cannot be put to the judge: log: the judge's prompt has " in found[2]["reason"]
    err = capsys.readouterr().err
    assert "decided by " in err
    assert "1 ungradable: " in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--judge", "{model}", "--evidence", "/no/such"], "--evidence /no/such: cannot be read: No such file"),
        (["--evidence"], "--evidence is read by a judge"),
        (["--judge", "{model}", "--window", "9"], "--window is of evidence in windows"),
        (["--judge", "{model}", "--evidence", "--pooling", "exact", "--beta", "1"], "beta of exact is the number of"),
        (["--judge", "{model}", "--evidence", *ENGINE, "--judge-set", "evidence.labels=[a]"], "evidence.labels"),
    ],
)
def test_wrong_commands_are_one_line(
    model: str, tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "f.jsonl", [{"question": "1?", "prediction": "2"}])
    assert main(["grade", file, "--rule", "none", *(one.format(model=model) for one in arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_evidence_that_is_no_texts_is_a_malformed_line(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "f.jsonl", [{"question": "1?", "prediction": "2", "evidence": ["x", 3]}])
    assert main(["grade", file, "--rule", "none", "--judge", model, "--evidence", *ENGINE]) == 2
    assert "field 'evidence' is neither a list of texts nor an object" in capsys.readouterr().err
