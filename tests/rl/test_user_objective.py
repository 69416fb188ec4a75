"""An objective from a user's file: the one of docs/objectives.md in a run, and what is told of one that is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from learner_kit import learner_spec, make_batch, save_tiny_model
from paths import ROOT
from run_kit import assert_same_run, tiny

from recipes.run.session import run
from rl.config import RunConfig
from rl.learner.learner import Learner
from rl.learner.spec import LearnerSpec
from rl.objectives.build import build
from rl.objectives.config import PythonObjectiveConfig
from rl.objectives.own import ObjectiveError
from rl.record.log import read_metrics
from rollout.user_code import UserCodeError

HEAD = """
from rl.objectives.protocol import Loss, Objective
class Mine(Objective):
    def loss(self, outputs, batch):
"""


def example() -> str:
    page = (ROOT / "docs" / "objectives.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    return str(code)


def objective_of(file: Path, code: str, name: str = "Mine", **options: Any) -> Any:
    file.write_text(code)
    return build(PythonObjectiveConfig(path=f"{file}:{name}", options=options), 64)


def test_the_one_of_the_docs_trains_and_resumes(tmp_path: Path) -> None:
    assert len(example().splitlines()) <= 20
    file = tmp_path / "my_objective.py"
    file.write_text(example())
    chosen = {"kind": "python", "path": f"{file}:Hinged", "options": {"margin": 0.01}}

    def config(iterations: int) -> RunConfig:
        return tiny(iterations=iterations, learner={"updates": 2, "objective": chosen}, eval={"every": 0, "samples": 1})

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(config(4), whole) == 0
    shares = [row["objective/done"] for row in read_metrics(whole) if "objective/done" in row]
    assert shares
    assert all(0 <= share <= 1 for share in shares)
    assert run(config(3), cut) == 0
    assert run(config(4), cut) == 0
    assert_same_run(whole, cut)


def test_its_loss_is_what_the_learner_minimises(tmp_path: Path) -> None:
    file = tmp_path / "hinge.py"
    file.write_text(example())
    spec = learner_spec(objective={"kind": "python", "path": f"{file}:Hinged", "options": {"margin": 2.0}})
    learner = Learner(spec, save_tiny_model(tmp_path / "model"))
    batch = make_batch("all")
    step = learner.step(learner.reference(batch))
    assert step.loss == pytest.approx((batch.advantages.abs() * 2.0).mean().item(), rel=1e-5)  # nothing has moved yet
    assert step.tallies["objective/done"].value == 0


def test_a_learner_elsewhere_finds_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(example())
    monkeypatch.chdir(tmp_path)
    spec = LearnerSpec.of(tiny(learner={"objective": {"kind": "python", "path": "mine.py:Hinged"}}))
    monkeypatch.chdir("/")
    assert build(spec.learner.objective, 64).per == "sequence"


@pytest.mark.parametrize(
    ("code", "options", "told"),
    [
        ("Mine = 3", {}, "a int, neither an Objective nor what returns one"),
        ("Mine = object()", {}, "a object, neither an Objective nor what returns one"),
        ("class Mine:\n    def loss(self, outputs, batch): ...", {}, "a Mine without needs, per, unit"),
        (f"{HEAD}        ...", {"margin": 1}, r"mine\.py: TypeError: Mine\.__init__"),
        (f"{HEAD}        ...\nMine = Mine()", {"margin": 1}, "an objective already"),
        (f"{HEAD}        ...\n    unit = 2", {}, "unit is 2; RL shuffles rollouts one by one"),
        ("def Mine():\n    return 1 / 0", {}, r"mine\.py:2: ZeroDivisionError: division by zero"),
    ],
)
def test_what_is_no_objective_is_refused_in_one_line(
    tmp_path: Path, code: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ObjectiveError, match=told) as error:
        objective_of(tmp_path / "mine.py", code, **options)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_refused_before_anything_is_spent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserCodeError, match="no such file"):
        build(PythonObjectiveConfig(path=f"{tmp_path}/none.py:Mine"), 64)
    chosen = {"kind": "python", "path": f"{tmp_path}/none.py:Mine"}
    assert run(tiny(learner={"objective": chosen}), tmp_path / "run") == 1
    assert "none.py: no such file" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            "        return Loss(outputs.logprobs.nope())",
            r"mine\.py:5: AttributeError: 'Tensor' object has",
        ),
        ("        return outputs.logprobs.sum()", "a Loss whose value is a scalar with gradient, not"),
        ("        return Loss(outputs.logprobs)", "a Loss whose value is a scalar with gradient, not"),
        ("        return Loss(outputs.logprobs.detach().sum())", "a Loss whose value is a scalar with gradient, not"),
        (
            "        return Loss(outputs.logprobs.sum(), {'entropy': None})",
            "metrics of an objective's own begin with objective/; found entropy",
        ),
        (
            "        return Loss(outputs.logprobs.sum(), {'objective/mine': 0.5})",
            "the metric objective/mine is a float; wrap it so that it adds up",
        ),
        (
            "        return Loss(outputs.logprobs.sum(), {'objective/mine': outputs.logprobs.mean()})",
            "the metric objective/mine is a Tensor; wrap it so that it adds up",
        ),
    ],
)
def test_a_loss_that_fails_is_refused_before_anything_is_spent_and_names_file_and_line(
    tmp_path: Path, body: str, told: str
) -> None:
    with pytest.raises(ObjectiveError, match=told) as error:
        objective_of(tmp_path / "mine.py", HEAD + body)
    assert "\n" not in str(error.value)


def test_a_loss_that_fails_later_names_file_and_line_too(tmp_path: Path) -> None:
    body = "        return Loss(outputs.logprobs.sum() / (batch.total - 24 or (1 / 0)))"
    objective_of(tmp_path / "mine.py", HEAD + body)
    spec = learner_spec(objective={"kind": "python", "path": f"{tmp_path}/mine.py:Mine"})
    learner = Learner(spec, save_tiny_model(tmp_path / "model"))
    with pytest.raises(ObjectiveError, match=r"mine\.py:5: ZeroDivisionError"):
        learner.step(learner.reference(make_batch()))


@pytest.mark.parametrize("found", ["[1.0]", "[float('nan'), 1.0]"])
def test_advantages_are_as_many_finite_numbers_as_rollouts(tmp_path: Path, found: str) -> None:
    loss = f"{HEAD}        return Loss(outputs.logprobs.sum())"
    code = f"{loss}\n    def advantages(self, rewards, correct):\n        return {found}"
    with pytest.raises(ObjectiveError, match="advantages of 2 rollouts have to be as many finite numbers or None"):
        objective_of(tmp_path / "mine.py", code)
