"""``k15 eval --nbce``: evidence spread over windows, what stands beside it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from browser_kit import body_of, drawn, needs_browser
from eval_kit import write_model

from evals.benchmarks import get
from evals.results import read_results
from recipes.commands.cli import main

NEWS = [
    {"id": f"n{i}", "problem": f"news {i}", "answer": label}
    for i, label in enumerate(["World", "Sports", "Business", "Sci/Tech", "World", "Sports"])
]
SHOTS = [
    {"problem": f"shot {i} of {label}", "answer": label}
    for i in range(4)
    for label in ("World", "Sports", "Business", "Sci/Tech")
]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "agnews_test.jsonl", NEWS)
    write_rows(folder / "agnews_dev.jsonl", SHOTS)
    write_rows(folder / "math500.jsonl", [{"problem": f"{i}+1?", "answer": str(i + 1)} for i in range(2)])
    write_rows(folder / "math_train.jsonl", [{"problem": f"{i}?", "solution": str(i)} for i in range(6)])
    return folder


def command(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    given = ["eval", more[0], "--model", str(model), "--engine", "hf", "--out", str(out), *more[1:]]
    return given if "needle" in more else [*given, "--data", str(data)]


def test_all_ways_on_the_same_problems_and_seeds(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("agnews", "--shots", "16", "--nbce", "3", "--beside", "truncated,parallel,vote", "--n", "2")
    more = (*more, "--temperature", "1")
    assert main(command(model, data, tmp_path, *more)) == 0
    shown = capsys.readouterr().out
    assert "[window 3]" in shown
    assert "3 responses drawn for each answer" in shown
    assert "agnews against it: " in shown
    results = read_results(tmp_path).benchmarks
    assert [one.name for one in results] == ["agnews", "agnews truncated", "agnews parallel", "agnews vote"]
    assert len({one.fingerprint for one in results}) == 1
    nbce, *rest = results
    assert nbce.beside is None
    assert nbce.settings["merging"] == {"pooling": "entropy", "beta": 0.25, "eta": 0.1, "top_p": 0.95}
    assert sum(nbce.windows.tokens) == pytest.approx(1)
    for one in rest:
        assert one.beside.name == "agnews"
        assert one.score.mean + one.beside.difference == pytest.approx(nbce.score.mean)
        assert one.settings["windows"] == 3
        assert [row.id for row in one.problems] == [row.id for row in nbce.problems]
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert len(rows) == 4 * 6 * 2
    assert {row["response"] for row in rows} <= set(get("agnews").labels)  # a random model says nothing else
    assert {row["stop"] for row in rows} == {"eos"}
    for row in rows:
        if row["benchmark"] in ("agnews", "agnews vote"):
            assert row["window"] in (1, 2, 3)
            assert sum(row["windows"]) == pytest.approx(1)
        else:
            assert row["window"] is None
    assert "spoke first" in (tmp_path / "report.html").read_text()

    capsys.readouterr()
    assert main(command(model, data, tmp_path, *more)) == 0  # everything is on record
    assert pq.read_table(tmp_path / "samples.parquet").to_pylist() == rows
    assert all(one.speed is None for one in read_results(tmp_path).benchmarks)
    vote = tmp_path / "agnews" / "vote" / "responses.jsonl"
    lines = vote.read_text().splitlines(keepends=True)
    vote.write_text("".join(lines[:5]) + lines[5][:20])  # killed in the middle of the last arm
    assert main(command(model, data, tmp_path, *more)) == 0
    assert pq.read_table(tmp_path / "samples.parquet").to_pylist() == rows
    speeds = [one.speed for one in read_results(tmp_path).benchmarks]
    assert speeds[:3] == [None] * 3
    assert speeds[3].responses == 7
    for changed in (("--nbce", "4"), ("--nbce", "3", "--pooling", "mean"), ("--nbce", "3", "--shots-seed", "1")):
        given = [*command(model, data, tmp_path, *more[:3]), *changed, *more[5:]]
        assert main(given) == 1
        assert "holds answers under other settings" in capsys.readouterr().err


def test_labels_hold_without_windows_and_one_that_begins_another_can_be_said(
    model: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(
        "from evals.benchmark import Benchmark\nfrom evals.labels import verify_label\n"
        "BENCHMARK = Benchmark('own', 'Own', 'Ours alone.', file='own.jsonl', verifier='exact', verify=verify_label,\n"
        "    labels=('no', 'none'), samples=40, temperature=1.0)\n"
    )
    write_rows(tmp_path / "own.jsonl", [{"problem": "any?", "answer": "none"}])
    assert main(command(model, tmp_path, tmp_path / "out", str(tmp_path / "own.py"))) == 0
    said = pq.read_table(tmp_path / "out" / "samples.parquet").to_pylist()
    assert {(row["response"], row["stop"]) for row in said} == {("no", "eos"), ("none", "eos")}
    (result,) = read_results(tmp_path / "out").benchmarks
    assert result.settings["labels"] == ["no", "none"]
    assert result.settings["max_tokens"] == 5


def test_a_haystack_longer_than_the_context(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    model = write_model(tmp_path_factory.mktemp("models") / "wide", context=2048)
    more = ("needle", "--nbce", "4", "--lengths", "4000", "--depths", "0,100", "--trials", "1", "--max-tokens", "4")
    assert main(command(model, tmp_path, tmp_path, *more)) == 0
    (result,) = read_results(tmp_path).benchmarks
    assert {(cell.length, cell.depth) for cell in result.cells} == {(4000, 0), (4000, 100)}
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert [row["holder"] for row in rows] == [1, 4]
    assert result.windows.found is not None


def test_a_benchmark_of_ones_own_says_what_is_evidence(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "from evals.benchmark import Benchmark, Divided\n"
        "def divide(problem):\n    *facts, question = problem.prompt.split('. ')\n"
        "    return Divided(tuple(facts), question)\n"
        "BENCHMARK = Benchmark('own', 'Own', 'Ours alone.', file='own.jsonl', verifier='exact', evidence=divide,\n"
        "    max_tokens=4)\n"
    )
    (tmp_path / "own.py").write_text(text)
    write_rows(tmp_path / "own.jsonl", [{"problem": "Ann is 7. Bob is 9. How old is Bob?", "answer": "9"}])
    given = command(model, tmp_path, tmp_path / "out", str(tmp_path / "own.py"), "--nbce", "2")
    assert main(given) == 0
    assert "[window 2]\n<user>Bob is 9\n\nHow old is Bob?<assistant>" in capsys.readouterr().out
    write_rows(tmp_path / "own.jsonl", [{"problem": "How old is Bob?", "answer": "9"}])
    assert main(given) == 2
    assert "own.py" in (error := capsys.readouterr().err)
    assert "at least one piece of evidence" in error


@pytest.mark.parametrize(
    ("arguments", "words_"),
    [
        (["agnews", "--nbce", "3"], "--nbce spreads solved examples over windows; add --shots N, at least 3"),
        (
            ["agnews", "--shots", "2", "--nbce", "3"],
            "2 solved examples leave some of 3 windows empty; --nbce 2 or fewer",
        ),
        (["aime2024", "--nbce", "3", "--data", "{aime}"], "has neither solved examples nor evidence of its own"),
        (["agnews", "--pooling", "mean"], "--pooling belongs to --nbce N"),
        (["agnews", "--beside", "vote"], "--beside belongs to --nbce N"),
        (["agnews", "--shots", "4", "--nbce", "2", "--beside", "all"], "'all' is none of truncated, parallel, vote"),
        (["agnews", "--shots", "4", "--nbce", "2", "--pooling", "exact", "--beta", "1"], "beta of exact is the number"),
        (["agnews", "--shots", "4", "--nbce", "2", "--pooling", "mean", "--eta", "1"], "--eta is of --pooling entropy"),
        (["agnews", "--shots", "4", "--nbce", "5000"], "at most 4096 windows"),
        (["agnews", "--shots", "4", "--nbce", "0"], "not a whole number of at least 1"),
        (["agnews", "--shots", "4", "--nbce", "2", "--max-tokens", "3"], "its longest label has 9 tokens"),
        (["agnews", "--model", "http://localhost:1/v1", "--shots", "4", "--nbce", "2"], "does not give; name a model"),
        (["heldout", "--nbce", "2"], "heldout is asked as its run asked it"),
        (
            ["agnews", "--shots", "16", "--nbce", "1"],
            "no room for an answer after the longest prompt, window 1 with",
        ),
        (
            ["math500", "--shots", "6", "--nbce", "2", "--max-tokens", "500"],
            "has no room for --max-tokens 500 after the",
        ),
        (
            ["agnews", "--shots", "8", "--nbce", "2", "--engine", "vllm", "--beside", "parallel"],
            "only the transformers engine reads windows in parallel; add --engine hf",
        ),
    ],
)
def test_what_cannot_work_is_one_line_before_anything_is_drawn(
    model: Path, data: Path, tmp_path: Path, arguments: list[str], words_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "aime2024.jsonl", [{"problem": "a", "answer": "1"}])
    given = ["eval", *(argument.format(aime=tmp_path) for argument in arguments), "--out", str(tmp_path / "out")]
    given += [] if "--model" in given else ["--model", str(model)]
    given += [] if "--data" in given else ["--data", str(data)]
    given += [] if "--engine" in given else ["--engine", "hf"]
    try:
        code = main(given)
    except SystemExit as stop:  # argparse's own
        code = int(stop.code or 0)
    error = capsys.readouterr().err
    assert code == 2, error
    assert words_ in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_number_of_windows_that_would_do_does(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = command(model, data, tmp_path, "agnews", "--shots", "16", "--limit", "1")
    assert main([*given, "--nbce", "1"]) == 2
    count = int(capsys.readouterr().err.rpartition("--nbce ")[2])
    assert count > 1
    assert main([*given, "--nbce", str(count)]) == 0


def test_one_window_without_contrast_is_plain_decoding(model: Path, data: Path, tmp_path: Path) -> None:
    given = ("agnews", "--shots", "4", "--nbce", "1", "--beta", "0")
    assert main(command(model, data, tmp_path / "one", *given)) == 0
    assert main(command(model, data, tmp_path / "plain", *given[:3])) == 0
    one, plain = (pq.read_table(tmp_path / name / "samples.parquet").to_pylist() for name in ("one", "plain"))
    assert [row["token_ids"] for row in one] == [row["token_ids"] for row in plain]
    assert {row["window"] for row in one} == {None}


def test_windows_that_the_engine_cannot_keep_are_said(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = command(model, data, tmp_path, "agnews", "--shots", "8", "--nbce", "4", "--limit", "1")
    assert main([*given, "--kv-cache-gib", "0.0001"]) == 0
    assert "so it reads windows again for every question; --kv-cache-gib 1 holds them" in capsys.readouterr().err
    assert main([*given, "--kv-cache-gib", "1"]) == 0
    assert "reads windows again" not in capsys.readouterr().err


@needs_browser
def test_the_report_says_which_windows_spoke(model: Path, data: Path, tmp_path: Path) -> None:
    more = ("agnews", "--shots", "8", "--nbce", "2", "--beside", "truncated")
    assert main(command(model, data, tmp_path / "out", *more)) == 0
    body = body_of(drawn(tmp_path / "out" / "report.html", tmp_path / "profile"))
    for shown in (
        "spoke for tokens: window ",
        "AG News, the first of 2 windows",
        "agnews against it +",
        "p 1",
    ):
        assert shown in body.replace("it −", "it +"), shown


def test_free_text_answers_are_from_all_windows_too(model: Path, data: Path, tmp_path: Path) -> None:
    more = ("math500", "--shots", "6", "--nbce", "2", "--max-tokens", "8", "--beside", "vote,truncated", "--n", "1")
    assert main(command(model, data, tmp_path, *more)) == 0
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert [row["benchmark"] for row in rows[::2]] == ["math500", "math500 vote", "math500 truncated"]
    for row in rows[:2]:
        assert row["tokens"] == 8
        assert [8 * share for share in row["windows"]] == [round(8 * share) for share in row["windows"]]
