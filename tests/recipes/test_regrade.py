"""``k15 grade RUN`` for a run with a reward of the user's own: by the same function, with its changes said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from factories import group, rollout

from recipes.commands.cli import main
from rl.config import RewardConfig, RunConfig
from rl.config_io import dump
from rl.record.rollout_store import read_rollouts, to_table, write_rollouts
from rl.rewarding import Rewarder, build_grader
from rl.state.run_dir import RunDir
from rollout.grading import Grading
from rollout.problems.build import build_source
from rollout.user_code import digest

SOURCE = """
from rewards.score import Score
def reward(problem, response):
    return Score(problem.extra.get("bonus", 0) - len(response), "7" in response)
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with four rollouts, graded as the loop does."""
    file, folder = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(SOURCE)
    reward = RewardConfig.model_validate({"function": f"{file}:reward", "length": None, "timeout_s": 600.0})
    rows = [{"id": f"p{i}", "problem": f"What is {i}?", "answer": "7", "bonus": 10 * i} for i in range(3)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"kind": "jsonl", "path": str(tmp_path / "p.jsonl"), "verifier": "exact"}
    config = RunConfig.model_validate({"problems": {"train": source, "heldout": source}, "reward": reward})
    code = {str(reward.function): digest(str(reward.function), "k15.rewards")}
    RunDir(folder).open(config, "abc", "", code)

    def graded(prompt: Any, tokens: Any) -> str:
        return " ".join(map(str, tokens))

    problems = build_source(config.problems.train, "train")
    with Grading(build_grader(reward)) as grading:
        rewarder = Rewarder(reward, graded, grading)
        for index in (1, 2):
            made = group(f"g{index}", [rollout(f"g{index}/0", [(0, 2)]), rollout(f"g{index}/1", [(0, 3)])])
            rewarder.submit(type(made)(made.id, problems[index], made.rollouts, made.born))
        scored = rewarder.collect(0)
    assert [item.rewards for item in scored] == [(7.0, 5.0), (17.0, 15.0)]
    write_rollouts(folder, 0, to_table(0, scored, {}, 0.0, graded))
    assert "mine.py" in dump(config)
    return folder


def regraded(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[list[dict[str, Any]], str]:
    assert main(["grade", str(run)]) == 0
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err


def test_the_same_function_gives_the_same_rewards(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, err = regraded(run, capsys)
    assert [(row["verdict"], row["reward"], row["stored_reward"]) for row in rows] == [
        ("wrong", 7.0, 7.0), ("correct", 5.0, 5.0), ("wrong", 17.0, 17.0), ("correct", 15.0, 15.0)
    ]  # fmt: skip
    assert "4 rollouts: 2 correct, 2 wrong, 0 ungradable; all as stored" in err
    assert "changed" not in err


def test_what_an_environment_scored_keeps_its_score(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its conversation cannot be held again: the last turn's text alone does not tell."""
    (file,) = (run / "rollouts").iterdir()
    table = read_rollouts(file)
    judged = pa.array(["environment", *["verifier"] * 3])
    write_rollouts(run, 0, table.set_column(table.column_names.index("judged_by"), "judged_by", judged))
    (run.parent / "mine.py").write_text(SOURCE.replace("- len(response)", "+ 1000"))
    rows, _ = regraded(run, capsys)
    assert [row["reward"] for row in rows] == [7.0, 1010, 1020, 1020]


def test_a_function_that_has_changed_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run.parent / "mine.py"
    file.write_text(SOURCE.replace("- len(response)", "- len(response) / 2"))
    rows, err = regraded(run, capsys)
    assert [row["reward"] for row in rows] == [8.5, 7.5, 18.5, 17.5]
    assert "4 other than stored" in err
    assert f"{file}:reward has changed since the run began" in err


@pytest.mark.parametrize(
    ("text", "said"), [(None, "mine.py: no such file"), ("def other(): ...", "mine.py: has no 'reward'")]
)
def test_a_function_that_is_gone_is_one_line(
    text: str | None, said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run.parent / "mine.py"
    file.unlink()
    if text is not None:
        file.write_text(text)
    assert main(["grade", str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert "the run was graded by" in line
