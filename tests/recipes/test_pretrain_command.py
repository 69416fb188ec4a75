"""``k15 train`` with recipes that pretrain: keys, files, own recipes, and what breaks."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pretrain_kit import keys, save_text

from recipes.commands.cli import main
from rl.pretraining_config import PretrainConfig


def test_the_recipe_is_listed_with_its_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    assert any(line.startswith("moonlight ") for line in capsys.readouterr().out.splitlines())
    assert main(["config", "moonlight"]) == 0
    shown = capsys.readouterr().out
    for key in ("--schedule.lr", "--measure.tokens", "--text", "--documents", "--model.base.experts.routed", "--seed"):
        assert key in shown, key
    assert "--rollout.k" not in shown


def test_dry_run_shows_what_would_be_trained(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["train", "moonlight", "--schedule.steps", "40", "--model.base.layers", "2"]
    assert main([*arguments, "--run-dir", str(tmp_path / "run"), "--dry-run"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    config = PretrainConfig.model_validate(shown)
    assert (config.recipe, config.steps, config.model.base.layers) == ("moonlight", 40, 2)  # type: ignore[union-attr]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("schedule.stepz", "3", "schedule.stepz"),
        ("rollout.k", "3", "rollout"),
        ("schedule.steps", "many", "schedule.steps"),
        ("schedule.mixture", "{poems: 1}", "mixture names 'poems'; text has: prose, code, sums"),
        ("text", "{}", "text: name at least one"),
        ("schedule.length", "4096", "is above model.base.context"),
    ],
)
def test_a_wrong_key_is_told_in_a_line(key: str, value: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "moonlight", f"--{key}", value, "--dry-run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_an_own_recipe_pretrains_and_its_file_starts_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = save_text(tmp_path / "prose.txt")
    recipe = f"""
from rl.pretraining_config import PretrainConfig

DESCRIPTION = "tiny"

def config():
    return PretrainConfig.model_validate({keys(text)!r})
"""
    (tmp_path / "own.py").write_text(recipe)
    assert main(["train", "./own.py", "--schedule.steps", "4"]) == 0
    out = capsys.readouterr().out
    assert "bits/byte" in out
    assert f"model {tmp_path / 'runs' / 'own' / 'model'}" in out
    run = tmp_path / "runs" / "own"
    assert main(["train", "--config", str(run / "pretraining.yaml"), "--run-dir", str(tmp_path / "again")]) == 0
    first, second = ((folder / "metrics.jsonl").read_text().splitlines() for folder in (run, tmp_path / "again"))
    assert len(first) == len(second) == 4
    assert (run / "model/model.safetensors").read_bytes() == (tmp_path / "again/model/model.safetensors").read_bytes()
    assert main(["train", "./own.py", "--schedule.steps", "4"]) == 0
    assert capsys.readouterr().out.count(f"model {run / 'model'}") == 1
    (tmp_path / "own.py").write_text(recipe.replace("'steps': 8", "'steps': 0"))
    assert main(["config", "./own.py"]) == 2
    assert "schedule.steps" in capsys.readouterr().err or "steps" in capsys.readouterr().err


def test_a_learning_rate_that_breaks_it_ends_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "some.yaml"
    schedule = {"kind": "cosine", "steps": 12, "batch": 2, "lr": 1e30}
    file.write_text(yaml.safe_dump(keys(save_text(tmp_path / "prose.txt"), schedule=schedule)))
    assert main(["train", "moonlight", "--config", str(file), "--run-dir", str(tmp_path / "run")]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("k15: ")]
    assert len(said) == 1
    assert "gradients of norm nan" in said[0]
    assert not (tmp_path / "run" / "model").exists()
