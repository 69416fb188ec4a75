"""What comes after pretraining, by the same command line: fine-tuning, RL, evaluation; and a learner of two ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from paths import ROOT
from pretrain_kit import keys, save_text, small, trained
from run_kit import tiny

from recipes.commands.cli import main
from rl.record.log import read_evaluations, read_metrics
from rl.state.run_dir import RunDir

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    model = keys(folder)["model"]
    model["base"]["context"] = 96
    schedule = {"kind": "cosine", "steps": 6, "batch": 2, "length": 64, "lr": 3e-3}
    trained(small(save_text(folder / "prose.txt"), model=model, schedule=schedule), folder / "run")
    return folder / "run"


def test_rl_goes_on_from_its_model(pretrained: Path, tmp_path: Path) -> None:
    """A warm-up, two iterations, held-out evaluations: the recipe's keys in a file, the model on the line."""
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(tiny(iterations=2).model_dump(mode="json") | {"recipe": "warmup"}))
    base = f"{{kind: pretrained, path: {pretrained / 'model'}}}"
    run = tmp_path / "run"
    assert main(["train", "warmup", "--config", str(file), "--model.base", base, "--run-dir", str(run)]) in (0, 3)
    assert len(read_metrics(run)) == 2
    assert {one.name for one in read_evaluations(run)} >= {"before", "after"}
    assert RunDir(run).summary.exists()
    config = json.loads((run / "model" / "config.json").read_bytes())
    assert config["num_hidden_layers"] == 2


def test_its_model_is_evaluated(pretrained: Path, tmp_path: Path) -> None:
    row = {"problem": "1 + 1 = ?", "answer": "2", "unique_id": "a", "level": 1, "subject": "Algebra", "solution": ""}
    (tmp_path / "math500.jsonl").write_text(json.dumps(row) + "\n")
    out = tmp_path / "eval"
    given = ["eval", "math500", "--model", str(pretrained), "--data", str(tmp_path), "--engine", "hf", "--n", "2"]
    assert main([*given, "--max-tokens", "8", "--out", str(out)]) == 0
    assert (out / "samples.parquet").exists()


def test_two_ranks_learn_what_one_does(tmp_path: Path, ray_cluster: str) -> None:
    text = save_text(tmp_path / "prose.txt")
    schedule = {"kind": "cosine", "steps": 4, "batch": 4, "length": 64, "lr": 1e-3}
    one, two = (tmp_path / name for name in ("one", "two"))
    file = tmp_path / "some.yaml"
    file.write_text(yaml.safe_dump(keys(text, schedule=schedule) | {"recipe": "moonlight"}))
    assert main(["train", "--config", str(file), "--run-dir", str(one)]) == 0
    program = "import sys; from recipes.commands.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "train", "--config", str(file), "--run-dir", str(two)]
    command += ["--learner.ranks", "2"]
    environment = os.environ | {"RAY_ADDRESS": ray_cluster}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    losses = [[row["loss"] for row in read_metrics(folder)] for folder in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    held = [json.loads((folder / "results.json").read_bytes())["heldout"]["prose"]["loss"] for folder in (one, two)]
    assert held[0] == pytest.approx(held[1], rel=1e-5)
