"""recipes.run.promise: whose promise is judged, and what the end of a run says and returns."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recipes import RECIPES
from recipes.run import promise
from recipes.run.finish import judgement
from recipes.run.promise import BROKEN, entry, exit_code, is_judged, voids
from recipes.shorten.config import ShortenConfig
from recipes.shorten.second_phase import second_phase
from rl.config import PromiseConfig, RunConfig
from rl.config_io import load
from rl.state.run_dir import difference

PROMISE = PromiseConfig(gain=0.25, final=0.6)
SHIPPED = RunConfig(recipe="toy", iterations=36, promise=PROMISE)


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that promises something."""
    monkeypatch.setitem(RECIPES, "toy", "recipes.toy")
    real = importlib.import_module
    module: Any = SimpleNamespace(config=lambda: SHIPPED)
    monkeypatch.setattr(
        promise.importlib, "import_module", lambda name: module if name == "recipes.toy" else real(name)
    )


def changed(**pairs: str) -> RunConfig:
    return load(SHIPPED, {}, [(key.replace("__", "."), value) for key, value in pairs.items()])


@pytest.mark.parametrize(
    ("pairs", "void"),
    [
        ({}, []),
        ({"seed": "7", "log__live": "false", "checkpoint__every": "2", "engine__threads": "2"}, []),
        ({"iterations": "4"}, ["iterations: 36 -> 4"]),
        ({"rollout__k": "16", "seed": "7"}, ["rollout.k: 8 -> 16"]),
        ({"iterations": "4", "promise__gain": "0.01"}, []),  # the user's own promise
        ({"iterations": "4", "promise": "null"}, []),
    ],
)
def test_a_recipe_s_promise_holds_for_the_recipe_as_shipped(pairs: dict[str, str], void: list[str]) -> None:
    assert voids(changed(**pairs)) == void


def test_a_promise_without_a_recipe_is_judged() -> None:
    assert voids(RunConfig(recipe="custom", iterations=3, promise=PROMISE)) == []


def test_keys_that_a_resumed_run_may_change_include_the_promise() -> None:
    old = SHIPPED.model_dump(mode="json")
    assert difference(old, changed(promise="null", iterations="60").model_dump(mode="json")) == []


@pytest.mark.parametrize(
    ("config", "void", "broken", "code", "line"),
    [
        (SHIPPED, [], False, 0, "the recipe's promise is kept: at least 25 points gained held out"),
        (SHIPPED, [], True, BROKEN, "attention: less than that; do this"),
        (SHIPPED, ["iterations: 36 -> 4"], False, 0, "is not judged: iterations: 36 -> 4"),
        (RunConfig(), [], False, 0, ""),
    ],
)
def test_the_end_of_a_run_in_words_and_as_an_exit_code(
    config: RunConfig, void: list[str], broken: bool, code: int, line: str
) -> None:
    found = [{"code": "promise-broken", "message": "less than that", "advice": "do this"}] if broken else []
    summary = {"promise": entry(config, void, broken), "findings": found}
    assert exit_code(summary) == code
    lines = judgement(summary)
    assert len(lines) == bool(line)
    assert line in "".join(lines)


def test_a_summary_of_an_older_version_has_no_promise() -> None:
    assert exit_code({"iterations": 3}) == 0
    assert judgement({"iterations": 3}) == []


def test_a_run_is_finished_under_the_promise_that_its_summary_was_written_under() -> None:
    summary = {"promise": entry(SHIPPED, [], broken=False)}
    assert is_judged(summary, PROMISE)
    assert is_judged({}, None)
    assert not is_judged(summary, PromiseConfig(gain=0.1))
    assert not is_judged(summary, None)
    assert not is_judged({}, PROMISE)


def test_what_comes_of_a_recipe_does_not_inherit_its_promise() -> None:
    assert second_phase(ShortenConfig(run=SHIPPED), Path("model")).promise is None
    assert importlib.import_module(RECIPES["warmup"]).config().promise is None
