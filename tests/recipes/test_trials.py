"""Trials: how they are told apart, when one is done, and which can be begun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evidence_kit import BROKEN, invent
from run_kit import tiny

from recipes.evidence.bench.finding import Bench, Results
from recipes.evidence.bench.trial import DONE, RUN, Trial, claim_folder, read_outcome
from recipes.evidence.bench.work import ready
from rl.config import RunConfig
from rl.learner.config import LearnerConfig, ModelConfig, OptimizerConfig, PretrainedModel, ScratchModel
from rl.objectives.config import ReinforceConfig
from rl.pretraining_config import CosineSchedule, PretrainConfig
from rl.text.config import FactsText


def pretraining(steps: int = 3, **keys: Any) -> Trial:
    return Trial(PretrainConfig(schedule=CosineSchedule(steps=steps, lr=1e-3), text={"facts": FactsText()}, **keys))


def from_(base: Trial, seed: int = 0) -> Trial:
    return Trial(tiny(seed=seed, warmup=None, model={"base": {"kind": "pretrained", "path": "x"}}), base)


def test_what_a_result_depends_on_tells_trials_apart() -> None:
    base, other = pretraining(), pretraining(seed=1)
    objective = {"objective": ReinforceConfig()}
    found = [
        *(base, other, pretraining(4), pretraining(documents="apart"), pretraining(model=ModelConfig(threads=1))),
        pretraining(learner=LearnerConfig(optimizer=OptimizerConfig(kind="adamw"))),
        *(from_(base), from_(other), from_(base, seed=1)),
        *(Trial(tiny()), Trial(tiny(iterations=5)), Trial(tiny(learner={"updates": 2} | objective))),
        Trial(tiny(), base),
    ]
    assert len({one.key for one in found}) == len(found)
    assert all(len(one.key) == 16 for one in found)


def test_what_it_does_not_depend_on_leaves_the_key_as_it_is() -> None:
    base = pretraining()
    assert pretraining().key == base.key
    for free in (
        {"recipe": "another"},
        {"cache": "/somewhere"},
        {"log": {"live": False}},
        {"checkpoint": {"every": 7}},
        {"ray": {"in_process": True}},
    ):
        assert pretraining(**free).key == base.key, free
    assert Trial(tiny(recipe="x", log={"live": True}, ray={"in_process": False})).key == Trial(tiny()).key


def test_a_key_that_a_later_version_adds_leaves_those_of_before() -> None:
    class Later(PretrainConfig):
        added: int = 3

    Later.__name__ = "PretrainConfig"
    config = pretraining().config.model_dump()
    assert Trial(Later(**config)).key == pretraining().key
    assert Trial(Later(**config, added=4)).key != pretraining().key


def test_the_folder_of_what_it_starts_from_takes_the_models_place(tmp_path: Path) -> None:
    base = pretraining()
    placed = from_(base).placed(tmp_path)
    assert isinstance(placed, RunConfig)
    assert placed.model.base == PretrainedModel(path=str(tmp_path / "trials" / base.key / RUN / "model"))
    first = base.placed(tmp_path)
    assert isinstance(first, PretrainConfig)
    assert isinstance(first.model.base, ScratchModel)
    assert first.cache == str(tmp_path / "text")


def test_a_result_of_another_setting_is_none(tmp_path: Path) -> None:
    """Under the same key: a version with another default for what this one left alone."""
    trial = pretraining()
    assert read_outcome(trial, tmp_path) is None
    invent(trial, tmp_path)
    found = read_outcome(trial, tmp_path)
    assert found is not None
    assert found.seconds == 60.0
    assert found.pretraining.heldout.keys() == {"facts"}
    file = trial.folder(tmp_path) / DONE
    told = json.loads(file.read_bytes())
    told["keys"]["gone.since"] = 1
    file.write_text(json.dumps(told))
    assert read_outcome(trial, tmp_path) is not None, "a key that is no more says nothing"
    told["keys"]["measure.bins"] = 99
    file.write_text(json.dumps(told))
    assert read_outcome(trial, tmp_path) is None


def test_what_another_setting_has_left_is_not_gone_on_with(tmp_path: Path) -> None:
    trial = pretraining()
    invent(trial, tmp_path)
    folder = trial.folder(tmp_path)
    claim_folder(trial, tmp_path)
    assert (folder / RUN / "results.json").exists(), "its own"
    for name in (DONE, "begun.json"):
        told = json.loads((folder / name).read_bytes())
        told["keys"]["measure.bins"] = 99
        (folder / name).write_text(json.dumps(told))
        claim_folder(trial, tmp_path)
        assert not (folder / RUN).exists()
        assert not (folder / DONE).exists()
        assert json.loads((folder / "begun.json").read_bytes())["keys"]["measure.bins"] == 8
        (folder / RUN).mkdir()


def test_a_trial_is_not_done_when_what_it_starts_from_is_another_now(tmp_path: Path) -> None:
    base = pretraining()
    later = from_(base)
    for one in (base, later):
        invent(one, tmp_path)
    assert read_outcome(later, tmp_path) is not None
    file = later.folder(tmp_path) / DONE
    told = json.loads(file.read_bytes())
    told["keys"]["base.measure.bins"] = 99
    file.write_text(json.dumps(told))
    assert read_outcome(later, tmp_path) is None


def test_first_things_first(tmp_path: Path) -> None:
    base = pretraining()
    middle = from_(base)
    last = Trial(tiny(), middle)
    assert [one.key for one in last.chain] == [base.key, middle.key, last.key]
    asked = [last, middle, from_(base, seed=1), Trial(tiny())]
    assert ready(asked, tmp_path) == [base, Trial(tiny())], "what all start from, once"
    invent(base, tmp_path)
    assert ready(asked, tmp_path) == [middle, from_(base, seed=1), Trial(tiny())]
    invent(middle, tmp_path)
    assert ready([last], tmp_path) == [last]
    invent(last, tmp_path)
    assert ready([last], tmp_path) == []


def test_what_starts_from_a_failure_has_failed(tmp_path: Path) -> None:
    base = pretraining()
    invent(base, tmp_path, BROKEN)
    last = Trial(tiny(), from_(base))
    assert ready([last], tmp_path) == []
    found = read_outcome(last, tmp_path)
    assert found is not None
    assert found.failed is not None
    assert BROKEN in found.failed
    assert not found.folder.exists()
    bench = Bench(tmp_path, (0,))
    results = Results({"arm": [found]}, bench)
    assert results.failed == ["arm: 1 of 1"]
    assert str(results.values("arm", lambda one: 1.0)) == "[nan]"


def test_the_best_choice(tmp_path: Path) -> None:
    bench = Bench(tmp_path, (0,))
    choices = {0.1 * n: pretraining(seed=n) for n in range(1, 5)}
    assert bench.best(choices, lambda one: 0.0) is None

    def seed(outcome: Any) -> float:
        return float(outcome.trial.config.seed)

    for trial in [*choices.values()][:-1]:
        invent(trial, tmp_path)
    assert bench.best(choices, seed) is None, "one is not done"
    invent(choices[0.4], tmp_path, BROKEN)
    assert bench.best(choices, seed) == pytest.approx(0.3), "what failed is no choice"
    assert bench.best(choices, lambda one: -seed(one)) == pytest.approx(0.1)
    failing = {rate: pretraining(seed=10 + n) for n, rate in enumerate((0.3, 0.2))}
    for trial in failing.values():
        invent(trial, tmp_path, BROKEN)
    assert bench.best(failing, seed) == 0.2
