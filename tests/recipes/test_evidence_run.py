"""A run whose reward is one word by evidence in windows."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from reward_model_kit import rewarded, save_judge

from recipes.commands.cli import main
from recipes.run.session import run
from rl.record.log import read_metrics


def test_a_run_is_rewarded_by_a_judge_with_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Verdict and pointer are on record; with another rubric it is another run."""
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("Sums are worked out.")
    evidence = {"files": [str(rubric)], "template": "{reference}\n{question}\n{response}"}
    engine = {"kind": "hf", "max_model_len": 256, "threads": 1}
    config = rewarded(save_judge(tmp_path / "judge"), alarm=None, evidence=evidence, engine=engine)
    folder = tmp_path / "run"
    assert run(config, folder) == 0, capsys.readouterr().err
    rows = [row for file in sorted((folder / "rollouts").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    asked = [row for row in rows if row["stop"] == "eos"]
    judged = [row for row in asked if row["correct"] is not None]
    assert judged
    for row in judged:
        parts = {part["name"]: part["value"] for part in row["score_parts"]}
        said = json.loads(row["opinion"])
        assert parts["model/windows"] == 2
        assert said["evidence"] == ("reference", "rubric.txt")[int(parts["model/pointer"]) - 1]
        assert said["right"] == pytest.approx(parts["model"], abs=1e-6)
        assert row["correct"] == (parts["model"] >= 0.5)
    assert sum(row["grader/model/verdicts"] for row in read_metrics(folder)) >= len(judged), "evaluations ask, too"
    capsys.readouterr()
    rubric.write_text("Another rubric.")
    command = ["train", "--config", str(folder / "config.yaml"), "--run-dir", str(folder), "--iterations", "3"]
    assert main(command) == 1
    assert "reward.model.evidence" in capsys.readouterr().err
