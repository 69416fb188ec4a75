"""``--judge PATH``: a reward model beside the rule, in ``k15 grade`` and ``k15 eval``."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from eval_kit import write_model
from reward_model_kit import rewarded, save_coin, save_head, save_judge

from evals.results import read_results
from recipes.commands.cli import main
from recipes.commands.judging import judge_of
from recipes.run.session import run
from rollout.reward_models.card import Card, write_card


@pytest.fixture(scope="module")
def coin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A classifier that nobody trained, of responses alone, with opinions that are sure."""
    folder = save_coin(tmp_path_factory.mktemp("head") / "model")
    write_card(folder, Card(kind="head", template="{response}", temperature=0.05))
    return str(folder)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answers(count: int = 40, **more: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"p{i}", "problem": f"{i}+1", "gold": str(i + 1), "prediction": str(i + 1 + i % 2), **more}
        for i in range(count)
    ]


def test_a_model_has_the_keys_that_it_is_given(coin: str) -> None:
    found = judge_of(Namespace(judge=coin, judge_when=None, judge_set=["samples=2", "timeout_s=5"]))
    assert found is not None
    assert (found.timeout_s, found.samples, found.audit) == (5, 2, 1.0)


def test_every_line_comes_out_with_both_verdicts(coin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out, page = write(tmp_path / "f.jsonl", answers()), tmp_path / "out.jsonl", tmp_path / "page.html"
    told = ["grade", file, "--bare", "--judge", coin, "--out", str(out), "--page", str(page)]
    assert main(told) == 0
    found = lines(out)
    assert [row["id"] for row in found] == [f"p{i}" for i in range(40)], "in order"
    assert {row["rule"] for row in found} == {"correct", "wrong"}
    assert all(row["verdict"] == row["rule"] for row in found), "the rule stands wherever there is one"
    assert all(0 <= row["model"] <= 1 for row in found)
    err = capsys.readouterr().err
    agreed = sum((row["model"] >= 0.5) == (row["rule"] == "correct") for row in found)
    assert f"rule and model agree on {100 * agreed / 40:.1f} %" in err
    assert "page" in err
    assert page.read_text().startswith("<!doctype html>")


def test_where_there_is_no_rule_the_model_judges_alone(coin: str, tmp_path: Path) -> None:
    rows = [{"prediction": f"{i}+1"} for i in range(10)]
    out = tmp_path / "out.jsonl"
    assert main(["grade", write(tmp_path / "f.jsonl", rows), "--rule", "none", "--judge", coin, "--out", str(out)]) == 0
    for row in lines(out):
        assert row["rule"] is None
        assert row["verdict"] == ("correct" if row["model"] >= 0.5 else "wrong")


def test_whose_verdict_counts_can_be_chosen(coin: str, tmp_path: Path) -> None:
    file, out = write(tmp_path / "f.jsonl", answers()), tmp_path / "out.jsonl"
    assert main(["grade", file, "--bare", "--judge", coin, "--judge-when", "always", "--out", str(out)]) == 0
    assert all(row["verdict"] == ("correct" if row["model"] >= 0.5 else "wrong") for row in lines(out))
    assert main(["grade", file, "--bare", "--judge", coin, "--judge-set", "audit=0", "--out", str(out)]) == 0
    assert all(row["model"] is None for row in lines(out)), "nobody asked: the rule decides all"


def test_malformed_lines_are_told_and_the_others_judged(
    coin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "f.jsonl"
    write(file, [*answers(2), {"gold": "1"}, {**answers(1)[0], "model": 3}])
    out = tmp_path / "out.jsonl"
    assert main(["grade", str(file), "--bare", "--judge", coin, "--out", str(out)]) == 1
    assert len(lines(out)) == 2
    err = capsys.readouterr().err
    assert "f.jsonl:3: no field 'prediction'" in err
    assert "f.jsonl:4: has a field 'model' of its own" in err


def test_where_no_line_can_be_graded_no_model_is_started(
    coin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("recipes.commands.grade_judged.opened_judges", None)
    file = write(tmp_path / "f.jsonl", [{"answer": "1"}] * 3)
    assert main(["grade", file, "--judge", coin]) == 2
    assert "f.jsonl:1: no field 'gold'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--judge", "./nowhere"], "--judge ./nowhere: no such model directory"),
        (["--judge-when", "always"], "name it with --judge PATH"),
        (["--rule", "none"], "go with a reward model"),
        (["--page", "p.html"], "go with a reward model"),
        (["--judge", "COIN", "--page", "/nowhere/p.html"], "--page /nowhere/p.html: a file in a folder that exists"),
        (["--judge", "COIN", "--judge-set", "samples"], "--judge-set samples: KEY=VALUE is wanted"),
        (["--judge", "COIN", "--judge-set", "sample=4"], "--judge-set unknown key 'sample'; did you mean 'samples'?"),
        (["--judge", "COIN", "--judge-set", "threshold=2"], "--judge-set threshold:"),
    ],
)
def test_mistakes_are_one_line(
    options: list[str], said: str, coin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "f.jsonl", answers(2))
    assert main(["grade", file, *(coin if one == "COIN" else one for one in options)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_the_rollouts_of_a_run_are_judged_by_another_model(
    coin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = rewarded(Path(coin), 1, when="undecided", audit=0.0)
    assert run(config, tmp_path / "run") == 0
    out, page = tmp_path / "out.jsonl", tmp_path / "page.html"
    assert main(["grade", str(tmp_path / "run"), "--judge", coin, "--out", str(out), "--page", str(page)]) == 0
    found = lines(out)
    ended = [row for row in found if "model" in row]
    assert ended
    assert all(row["rule"] == row["verdict"] == row["stored"] for row in ended)
    assert "all as stored" in capsys.readouterr().err
    assert page.is_file()


def test_a_judge_draws_on_engines_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody has trained it: it writes no verdict, and that is no verdict."""
    rows = [{**row, "gold": ""} if i % 2 else row for i, row in enumerate(answers(4))]
    file, out = write(tmp_path / "f.jsonl", rows), tmp_path / "out.jsonl"
    judge = [
        "--judge",
        str(save_judge(tmp_path / "judge")),
        "--judge-set",
        "engine.kind=hf",
        "--judge-set",
        "max_tokens=4",
    ]
    assert main(["grade", file, "--bare", *judge, "--out", str(out)]) == 0
    found = lines(out)
    assert [row["verdict"] for row in found] == ["correct", "ungradable"] * 2
    assert {row["model"] for row in found} == {None}
    assert "the reward model has no opinion: no verdict could be read" in found[1]["reason"]
    said = capsys.readouterr().err
    assert "2 ungradable: the reward model has no opinion" in said
    assert "no response in common; judged by the model alone 0, by the rule alone 2, by neither 2" in said


def test_a_model_without_an_opinion_on_anything_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was asked, so that it has said nothing is a result, in the file and in the terminal."""
    data = write(tmp_path / "math500.jsonl", [{"id": "p", "problem": "1+1", "answer": "2", "level": 1, "subject": "x"}])
    given = write(tmp_path / "answers.jsonl", [{"id": "p", "response": "\\boxed{2}"}])
    silent = save_head(tmp_path / "silent")
    write_card(silent, Card(kind="head", template="{response}", max_tokens=1))
    out = tmp_path / "out"
    command = ["eval", "--predictions", given, "--bench", "math500", "--data", str(data), "--out", str(out)]
    assert main([*command, "--judge", str(silent)]) == 0
    (result,) = read_results(out).benchmarks
    assert result.judge is not None
    assert (result.judge.agreement, result.judge.only_rule) == (None, 1)
    assert (out / "agreement.html").is_file()
    assert "no response in common; judged by the model alone 0, by the rule alone 1" in capsys.readouterr().out


def test_an_evaluation_has_both_verdicts_in_its_files(
    coin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "math500.jsonl"
    rows = [{"id": f"p{i}", "problem": f"{i}+1", "answer": str(i + 1), "level": 1, "subject": "x"} for i in range(12)]
    write(data, rows)
    given = write(tmp_path / "answers.jsonl", [{"id": f"p{i}", "response": f"\\boxed{{{i + 1}}}"} for i in range(12)])
    out = tmp_path / "out"
    command = ["eval", "--predictions", given, "--bench", "math500", "--data", str(data), "--out", str(out)]
    assert main([*command, "--judge", coin]) == 0
    (result,) = read_results(out).benchmarks
    assert result.score is not None
    assert result.score.mean == 1.0, "by the rule"
    assert result.judge is not None
    assert result.settings["judge"]["path"] == coin
    samples = pq.read_table(out / "samples.parquet").to_pylist()
    assert [row["rule"] for row in samples] == ["correct"] * 12
    assert (out / "agreement.html").is_file()
    assert "judge    " in capsys.readouterr().out


def test_a_model_that_cannot_judge_is_told_before_the_engines_of_the_policy_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = list[str]()
    monkeypatch.setattr("rl.alone.open_pool", lambda path, *_: started.append(path))
    odd = save_head(tmp_path / "odd")
    write_card(odd, Card(kind="head", template="{response}", classes=("a", "b")))
    write(tmp_path / "math500.jsonl", [{"id": "p", "problem": "1+1", "answer": "2", "level": 1, "subject": "x"}])
    policy = write_model(tmp_path / "policy")
    command = ["eval", "math500", "--model", str(policy), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*command, "--engine", "hf", "--max-tokens", "8", "--judge", str(odd)]) != 0
    assert f"k15: --judge {odd}: " in capsys.readouterr().err
    assert not started
