"""`--device`: one key for learner and engines, and the recipe for GPUs, as they are resolved for 1, 2 and 8 of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recipes import RECIPES
from recipes.commands.choose import recipe_config
from recipes.commands.cli import main
from recipes.shorten.config import ShortenConfig
from rl.config import RunConfig
from rl.config_help import describe
from rl.config_io import ConfigError, load
from rl.learner.spec import Receivers
from rl.placement import engine_gpus, learner_gpus, resolve, shares_gpu

TRAINABLE = [name for name in RECIPES if isinstance(recipe_config(name), RunConfig)]


@pytest.fixture(autouse=True)
def no_local_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("K15_DATA", raising=False)


def recipe(name: str) -> RunConfig:
    found = recipe_config(name)
    assert isinstance(found, RunConfig)
    return found


@pytest.mark.parametrize("name", TRAINABLE)
@pytest.mark.parametrize(
    ("gpus", "engines", "transfer", "share"), [(1, 1, "ipc", 0.5), (2, 1, "nccl", 1.0), (8, 7, "nccl", 1.0)]
)
def test_every_recipe_resolves_on_any_number_of_gpus(
    name: str, gpus: int, engines: int, transfer: str, share: float
) -> None:
    asked = load(recipe(name), overrides=[("device", "cuda")])
    assert (asked.model.device, asked.model.compute_dtype) == ("cuda", "bfloat16")
    assert (asked.engine.device, asked.engine.dtype) == ("cuda", "bfloat16")
    run = resolve(asked, [gpus])
    assert Receivers.of(run, run.engine.weight_transfer).backend == transfer
    assert run.engine.count == engines
    assert (learner_gpus(run), engine_gpus(run.engine, run.ray)) == (share, share)
    assert shares_gpu(run) == (gpus == 1)
    assert learner_gpus(run) + engines * engine_gpus(run.engine, run.ray) == gpus


def test_the_gpu_recipe_is_what_the_key_sets() -> None:
    shipped = recipe("qwen3_math")
    assert load(shipped, overrides=[("device", "cuda")]) == shipped
    cpu = load(shipped, overrides=[("device", "cpu")])
    assert (cpu.model.device, cpu.engine.device, cpu.engine.dtype) == ("cpu", "cpu", "float32")
    assert resolve(cpu, []).engine.count == 1


def test_the_cpu_is_what_the_quickstart_is_made_for() -> None:
    """Naming it changes nothing, so the recipe's promise holds."""
    assert load(recipe("quickstart"), overrides=[("device", "cpu")]) == recipe("quickstart")


def test_the_gpu_recipe_takes_local_problems_where_both_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K15_DATA", str(tmp_path))
    (tmp_path / "math_train.jsonl").touch()
    assert recipe("qwen3_math").problems.train.kind == "hub"
    (tmp_path / "math500.jsonl").touch()
    problems = recipe("qwen3_math").problems
    assert (problems.train.kind, problems.heldout.kind) == ("jsonl", "jsonl")


def test_keys_given_themselves_win_over_the_preset_and_the_command_line_over_the_file() -> None:
    base = recipe("quickstart")
    one = load(base, {"engine": {"dtype": "float16"}, "device": "cuda"})
    assert (one.engine.dtype, one.model.compute_dtype) == ("float16", "bfloat16")
    given = [("engine.count", "2"), ("device", "cuda"), ("model.device", "cpu")]
    two = load(base, {"device": "cpu", "engine": {"dtype": "float16"}}, given)
    assert (two.model.device, two.engine.device, two.engine.dtype, two.engine.count) == ("cpu", "cuda", "bfloat16", 2)
    assert load(load(base, {"device": "cuda"}), {"device": "cpu"}).engine.dtype == "float32", "no state but the keys"


def test_the_model_of_a_run_is_shortened_on_the_device_named() -> None:
    run = load(ShortenConfig(), overrides=[("device", "cuda")]).run
    assert (run.model.device, run.engine.device, run.engine.dtype) == ("cuda", "cuda", "bfloat16")


@pytest.mark.parametrize("value", ["gpu", "3", "{a: 1}"])
def test_another_device_is_refused_in_one_line(value: str) -> None:
    with pytest.raises(ConfigError, match="device: one of 'cpu', 'cuda' is wanted, got") as refused:
        load(recipe("quickstart"), overrides=[("device", value)])
    assert len(refused.value.lines) == 1
    with pytest.raises(ConfigError, match="--device is given twice"):
        load(recipe("quickstart"), overrides=[("device", "cpu"), ("device", "cuda")])


def test_the_key_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "--device cuda puts learner and engines on GPUs" in capsys.readouterr().out
    text = describe(recipe("quickstart"))
    assert "--device  cpu | cuda  (sets several keys" in text
    assert main(["train", "quickstart", "--device", "cuda", "--dry-run"]) == 0
    assert "device: cuda" in capsys.readouterr().out


def test_gpus_are_planned_for_without_torch_vllm_or_ray() -> None:
    code = (
        "import sys\nfrom rl.config_io import load\nfrom recipes.commands.choose import recipe_config\n"
        "from rl.placement import resolve\n"
        "resolve(load(recipe_config('qwen3_math'), overrides=[('device', 'cuda')]), [8])\n"
        "loaded = {'torch', 'vllm', 'ray', 'transformers'} & set(sys.modules)\nassert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
