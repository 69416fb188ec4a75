"""A recipe from a user's file or an installed package."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import yaml
from run_kit import tiny

from recipes.commands.choose import resolve, short_name
from recipes.commands.cli import main
from recipes.commands.usage import UsageError
from recipes.run.session import run as run_config
from recipes.run.setup import user_code

RECIPE = """
from recipes.quickstart import config as quickstart

DESCRIPTION = "the quickstart, shorter"

def config():
    return quickstart().model_copy(update={"iterations": 3})
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_recipe.py").write_text(RECIPE)
    return tmp_path


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["train", *arguments, "--dry-run"]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_file_is_a_recipe_and_is_recorded_absolute(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = yaml.safe_load(dry_run(capsys, "./my_recipe.py", "--seed", "7"))
    assert (shown["iterations"], shown["seed"], shown["recipe"]) == (3, 7, f"{here}/my_recipe.py")
    assert main(["config", "my_recipe.py"]) == 0
    assert "--iterations  int >= 0  = 3" in capsys.readouterr().out
    assert main(["train", "my_recipe.py", "--help"]) == 0
    assert "--iterations  int >= 0  = 3" in capsys.readouterr().out
    assert short_name(shown["recipe"]) == "my_recipe"


def test_the_file_that_a_run_wrote_starts_it_again_with_and_without_the_recipe(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = dry_run(capsys, "my_recipe.py", "--rollout.k", "16")
    (here / "config.yaml").write_text(written)
    assert dry_run(capsys, "--config", "config.yaml") == written
    assert dry_run(capsys, "./my_recipe.py", "--config", "config.yaml") == written
    (here / "my_recipe.py").unlink()
    assert dry_run(capsys, "--config", "config.yaml") == written


def test_a_file_with_some_keys_takes_the_others_from_the_recipe(here: Path) -> None:
    file = here / "some.yaml"
    file.write_text("recipe: my_recipe.py\nseed: 4\n")
    config = resolve(None, file, [])
    assert (config.iterations, config.seed) == (3, 4)
    (here / "my_recipe.py").unlink()
    with pytest.raises(UsageError, match=r"my_recipe.py: no such file"):
        resolve(None, file, [])
    with pytest.raises(UsageError, match=f"is for recipe '{here}/my_recipe.py', not 'quickstart'"):
        resolve("quickstart", file, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("DESCRIPTION = ''", "my_recipe.py: a recipe has a function config() that returns a RunConfig"),
        ("def config():\n    return 3", "my_recipe.py: config() returned int, not a RunConfig"),
        ("def config():\n    return 1 / 0", "my_recipe.py:2: ZeroDivisionError: division by zero (while it made"),
        ("from rl.config import RunConfig\ndef config():\n    return RunConfig(seed=-1)", "my_recipe.py:3: "),
        (
            "from pathlib import Path\nfrom rl.config import RunConfig\ndef config():\n"
            "    return RunConfig.model_validate({'iterations': Path('x'), 'environment': {'kind': 'retri'}})",
            "my_recipe.py:4: ConfigError: iterations: input should be a valid integer, got \"PosixPath('x')\" "
            "environment.kind: 'retri' is none of 'python_tool', 'retry', 'python' (while it made its configuration)",
        ),
        ("def config(:", "my_recipe.py:1: SyntaxError: "),
    ],
)
def test_mistakes_name_file_and_line(text: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "my_recipe.py").write_text(text)
    assert message in refused(capsys, "train", "my_recipe.py", "--dry-run")


def test_near_misses_of_names(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'my_recipe.py'?" in refused(capsys, "train", "my_recipe")
    assert "no such file; did you mean 'my_recipe.py'?" in refused(capsys, "train", "my_recipes.py")
    assert "did you mean 'quickstart'?" in refused(capsys, "train", "quickstrt")


def test_installed_packages_bring_recipes_by_name(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    info = here / "recipes_of_the_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: recipes-of-the-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[k15.recipes]\nshorter = my_recipe\nbroken = gone_from_the_test\n")
    monkeypatch.syspath_prepend(here)
    importlib.invalidate_caches()
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "shorter     the quickstart, shorter" in lines
    assert any(line.startswith("broken      cannot be loaded: ") for line in lines)
    assert yaml.safe_load(dry_run(capsys, "shorter"))["recipe"] == "shorter"
    assert "did you mean 'shorter'?" in refused(capsys, "train", "shortr")


def test_reward_and_problems_of_ones_own_are_recorded_absolute(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = "{kind: python, path: mine.py:source}"
    shown = yaml.safe_load(dry_run(capsys, "smollm2", "--reward", "mine.py:f", "--problems.train", source))
    assert shown["reward"]["function"] == f"{here}/mine.py:f"
    assert shown["problems"]["train"]["path"] == f"{here}/mine.py:source"
    assert shown["reward"]["length"]["start_iteration"] == 20, "the recipe's other keys stay"


def test_a_run_knows_the_text_of_the_reward_the_environment_and_the_objective(here: Path) -> None:
    (here / "mine.py").write_text("def reward(problem, response): return 0.0\nObjective = Talk = None\n")
    objective, talk = ({"kind": "python", "path": f"mine.py:{name}"} for name in ("Objective", "Talk"))
    config = tiny(
        reward={"function": "mine.py:reward"}, learner={"updates": 2, "objective": objective}, environment=talk
    )
    code = user_code(config)
    assert set(code) == {f"{here}/mine.py:{name}" for name in ("reward", "Objective", "Talk")}
    assert len(set(code.values())) == 1
    (here / "mine.py").write_text("def reward(problem, response): return 1.0\nObjective = Talk = None\n")
    assert user_code(config).keys() == code.keys()
    assert not set(user_code(config).values()) & set(code.values())
    assert user_code(tiny()) == {}


def test_a_reward_that_always_fails_stops_the_run_and_can_be_mended(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "mine.py").write_text("def reward(problem, response):\n    return problem.anwser in response\n")
    config = tiny(iterations=1, warmup=None, reward={"function": "mine.py:reward"})
    assert run_config(config, here / "run") == 1
    shown = capsys.readouterr()
    where = f"{here}/mine.py:2: AttributeError: 'Problem' object has no attribute 'anwser'"
    assert f"the reward was tried on an empty response: {where}" in shown.out
    assert f"none of 4 responses could be graded; 4 of them: {where}; mend the reward" in shown.err
    (here / "mine.py").write_text("def reward(problem, response):\n    return problem.answer in response\n")
    assert run_config(config, here / "run") == 0
