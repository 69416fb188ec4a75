"""A run that is rewarded by a model: both verdicts on record, the alarm, what a resumed run may change."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from eval_kit import write_model
from reward_model_kit import rewarded, save_coin
from run_kit import tiny

from recipes.commands.cli import main
from recipes.commands.eval_tasks import _as_in
from recipes.run.session import run
from recipes.run.setup import prepare
from rl.config import CheckpointConfig, OverlapConfig
from rl.record.log import read_evaluations, read_metrics
from rl.reward_models import HERE
from rollout.engine import AllEnginesDead
from rollout.environments.config import Retry
from rollout.environments.retry import RetryEnvironment
from rollout.grading import Answered
from rollout.reward_models.asking import judge_card
from rollout.reward_models.card import Card, write_card
from rollout.reward_models.head import HeadModel
from rollout.reward_models.opinion import Opinion
from tests.mortal import mortal


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that nobody trained: its opinions are no better than a coin's."""
    return save_coin(tmp_path_factory.mktemp("head") / "model")


def test_both_verdicts_are_on_record_and_evaluations_go_by_the_rule(head: Path, tmp_path: Path) -> None:
    config = rewarded(head, alarm=None)
    assert run(config, tmp_path / "run") == 0
    rows = [
        row
        for file in sorted((tmp_path / "run" / "rollouts").glob("*.parquet"))
        for row in pq.read_table(file).to_pylist()
    ]
    ended = [row for row in rows if row["stop"] == "eos"]
    judged = [row for row in ended if row["correct"] is not None]
    assert judged, "some responses were judged"
    assert all("has no opinion" in row["reason"] for row in ended if row["correct"] is None)
    for row in judged:
        parts = {part["name"]: part["value"] for part in row["score_parts"]}
        assert row["correct"] == (parts["model"] >= 0.5)
        assert parts["agrees"] == float(row["correct"] == bool(parts["rule"]))
    for row in rows:
        if row["stop"] != "eos":
            assert "model" not in {part["name"] for part in row["score_parts"]}, "what was cut off is not asked of"
    metrics = read_metrics(tmp_path / "run")
    assert sum(row.get("reward/compared", 0) for row in metrics) == len(judged)
    assert sum(row["grader/model/asked"] for row in metrics) == len(ended)
    samples = pq.read_table(tmp_path / "run" / "eval" / "after.parquet").to_pylist()
    assert {row["verdict"] for row in samples} <= {"correct", "wrong"}
    assert all(row["rule"] in (row["verdict"], None) for row in samples)
    assert any(row["model"] is not None for row in samples if row["stop"] == "eos"), "compared, too"
    after = next(one for one in read_evaluations(tmp_path / "run") if one.name == "after")
    assert after.accuracy.mean == sum(row["verdict"] == "correct" for row in samples) / len(samples)
    page = (tmp_path / "run" / "agreement.html").read_text()
    assert f'"responses_total":{len(rows)}' in page
    assert rows[0]["prompt"].split("\n")[0] in page
    out = tmp_path / "eval"
    assert main(["eval", "heldout", "--model", str(tmp_path / "run"), "--out", str(out)]) == 0
    again = pq.read_table(out / "samples.parquet").to_pylist()
    kept = ("problem", "sample", "response", "verdict", "rule")
    assert [[row[name] for name in kept] for row in again] == [[row[name] for name in kept] for row in samples]
    assert [row["model"] for row in again] == pytest.approx([row["model"] for row in samples], abs=1e-4)


@pytest.mark.parametrize("overlap", [None, {"max_staleness": 1}])
def test_the_alarm_ends_the_run_which_goes_on_when_told_to(
    overlap: dict[str, int] | None, head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alarm = {"then": "stop", "least": 0.5, "window": 2, "verdicts": 1}
    spoiled = {"threshold": 1e-9}  # right is whatever it reads
    ahead = {"overlap": OverlapConfig.model_validate(overlap) if overlap else None}
    config = rewarded(head, 4, alarm=alarm, **spoiled).model_copy(update=ahead)
    folder = tmp_path / "run"
    assert run(config, folder) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"k15: {folder}: stopped after iteration 2 of 4 by reward.model.alarm: iterations 1 to 2:")
    assert (folder / "checkpoints" / "000002").is_dir()
    assert run(config, folder) == 1
    assert capsys.readouterr().err.strip() == said, "the same command says the same, before it starts anything"
    going_on = rewarded(head, 4, alarm={**alarm, "then": "warn"}, **spoiled).model_copy(update=ahead)
    assert run(going_on, folder) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert [one["code"] for one in summary["findings"] if one["code"] == "reward-hacked"] == ["reward-hacked"]


def test_a_run_that_ends_itself_says_why_even_if_its_learner_dies_of_it(
    head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No signal has stopped it, and no other learner is begun."""
    alarm = {"then": "stop", "least": 0.5, "window": 2, "verdicts": 1}
    config = rewarded(head, 4, alarm=alarm, threshold=1e-9)
    config = config.model_copy(update={"checkpoint": CheckpointConfig(every=9), "warmup": None})
    assert run(config, tmp_path / "run", mortal([("save", 1, False)], [])) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"k15: {tmp_path / 'run'}: stopped after iteration 2 of 4 by reward.model.alarm")


def test_a_resumed_run_is_refused_with_other_files_of_the_model(
    head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = save_coin(tmp_path / "mine")
    folder = tmp_path / "run"
    assert run(rewarded(mine, 1), folder) == 0
    write_card(mine, Card(kind="head", template="{response}", temperature=3.0))
    assert run(rewarded(mine), folder) == 1
    assert f"model:{mine} has changed since {folder} began" in capsys.readouterr().err
    assert main(["grade", str(folder), "--out", str(tmp_path / "graded.jsonl")]) == 0
    assert f"model:{mine} has changed since the run began: these are its verdicts of today" in capsys.readouterr().err
    assert run(rewarded(head, alarm=None), folder) == 1
    assert "holds a run with another configuration: reward.model.path:" in capsys.readouterr().err


def test_what_evaluates_a_run_whose_reward_model_is_gone_says_so(
    head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, folder = save_coin(tmp_path / "mine"), tmp_path / "run"
    assert run(rewarded(mine, 1), folder) == 0
    mine.rename(tmp_path / "elsewhere")
    capsys.readouterr()
    told = ["eval", "heldout", "--model", str(folder), "--out", str(tmp_path / "eval")]
    assert main(told) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"k15: heldout: the run's reward model: {mine}: no such model directory")
    assert main([*told, "--judge", str(head)]) == 0, "another in its place"


def test_an_environment_asks_the_same_in_the_run_and_in_its_evaluation(head: Path) -> None:
    """The grader of the run, whose model decides; what an evaluation reports goes by the rule all the same."""
    config = rewarded(head, threshold=1e-9).model_copy(update={"environment": Retry()})
    setup = prepare(config)
    problem = setup.heldout[0]
    answers = [Answered(problem, f"1{problem.answer}")]
    with ExitStack() as stack:
        grader, episodes = _as_in(config, setup.transcript, HERE, stack)
        assert episodes is not None
        assert isinstance(episodes.environment, RetryEnvironment)
        asked = [asyncio.run(one.grade(answers))[0] for one in (episodes.environment.grader, grader)]
    assert [score.parts["rule"] for score in asked] == [0.0, 0.0]
    assert [score.verdict for score in asked] == ["correct", "wrong"]


def test_held_out_labels_are_judged_in_each_iteration(head: Path, tmp_path: Path) -> None:
    file = tmp_path / "labelled.jsonl"
    lines = [{"problem": "1+1", "response": f"it is {i}", "label": "right" if i == 2 else "wrong"} for i in range(12)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = {"when": "undecided", "audit": 0.0, "labelled": str(file), "labelled_size": 8}
    assert run(rewarded(head, **model), tmp_path / "run") == 0
    for row in read_metrics(tmp_path / "run"):
        assert row["reward/labelled_compared"] + row["reward/labelled_silent"] == 8
        assert "reward/compared" not in row
        assert "reward/part/rule" in row


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ({"path": "./nowhere"}, "./nowhere: no such model directory"),
        ({"labelled": "nowhere.jsonl"}, "nowhere.jsonl: no such file or directory"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_spent(
    reward: dict[str, Any], said: str, head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(rewarded(head, **reward), tmp_path / "run") == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_model_that_cannot_be_used_is_refused_before_the_run_directory_exists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No learner and no engine is started for it, be it a head or a judge."""
    coin = save_coin(tmp_path / "coin")
    write_card(coin, Card(kind="head", template="{response}", classes=("a", "b")))
    judge = write_model(tmp_path / "judge")
    write_card(judge, judge_card("\u00ab{response}\u00bb"))
    for path, said in (
        (coin, "2 outputs called a, b"),
        (judge, "no tokens for some characters of the judge's template"),
    ):
        assert run(rewarded(path, max_tokens=24), tmp_path / "run") == 1
        assert said in capsys.readouterr().err
        assert not (tmp_path / "run" / "config.yaml").exists()


def test_problems_that_nothing_judges_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "free.jsonl"
    file.write_text('{"problem": "Why?"}\n')
    source = {"kind": "jsonl", "path": str(file), "verifier": "none"}
    config = tiny(problems={"train": source, "heldout": {"kind": "arithmetic"}, "heldout_size": 1})
    assert run(config, tmp_path / "run") == 1
    assert "problems.train: problem 'free-1' names no verifier" in capsys.readouterr().err


def test_a_model_that_can_judge_no_more_ends_the_run_which_then_goes_on(
    head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def judge(*_: object) -> list[Opinion]:
        raise AllEnginesDead("the judge m: all 1 rollout engines are dead")

    config = rewarded(head, alarm=None)
    with monkeypatch.context() as patched:
        patched.setattr(HeadModel, "judge", judge)
        assert run(config, tmp_path / "run") == 1
    assert "k15: the judge m: all 1 rollout engines are dead" in capsys.readouterr().err
    assert run(config, tmp_path / "run") == 0
