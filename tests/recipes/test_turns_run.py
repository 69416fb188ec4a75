"""Whole runs whose learner and engines take turns: the same as one in which they do not, through every death.

In one process on the CPU. Whenever one of the two computes, the other one must have left.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from run_kit import assert_same_run, tiny

from recipes.run.launching import Launcher, Machines
from recipes.run.session import run
from recipes.run.setup import Setup
from rl.config import RunConfig
from rl.learner.learner import Learner
from rl.record.log import read_metrics
from rl.state.run_dir import RunDir
from rollout.engine import EngineDead
from rollout.engines.hf import HfEngine
from tests.mortal import mortal

TURNS = {"hybrid/offload_s", "hybrid/onload_s", "hybrid/wake_s", "hybrid/sleep_s", "hybrid/bytes"}


def hybrid(**changes: Any) -> RunConfig:
    return tiny(ray={"in_process": True, "deployment": "hybrid"}, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without turns."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert run(tiny(), folder, mortal((), [])) == 0
    return folder


class Floor:
    """Sees who computes, and that the other one has left by then."""

    def __init__(self) -> None:
        self.made: list[Machines] = []
        self.used: Counter[str] = Counter()

    def launcher(self, deaths: Any = ()) -> Launcher:
        launch = mortal(deaths, self.made)

        def entered(setup: Setup, directory: RunDir, stack: ExitStack, claim: Callable[[], None]) -> Machines:
            self.made.clear()
            return launch(setup, directory, stack, claim)

        return entered

    def learner(self, method: str) -> None:
        self.used[method] += 1
        slots = self.made[0].pool._fleet.slots if self.made else []
        assert all(slot.life is None or slot.asleep for slot in slots), f"{method} while an engine is awake"

    def engine(self, method: str) -> None:
        self.used[method] += 1
        host: Any = self.made[0].policy.host if self.made else None
        assert host is None or host._away, f"{method} of an engine while the learner is there"


@pytest.fixture
def floor(monkeypatch: pytest.MonkeyPatch) -> Floor:
    seen = Floor()
    for name in ("step", "train_iteration", "score", "load", "save", "export_hf"):
        plain = getattr(Learner, name)

        def of_learner(self: Any, *args: Any, name: str = name, plain: Any = plain, **keys: Any) -> Any:
            seen.learner(name)
            return plain(self, *args, **keys)

        monkeypatch.setattr(Learner, name, of_learner)
    for name in ("start", "submit", "update_weights"):
        plain = getattr(HfEngine, name)

        async def of_engine(self: Any, *args: Any, name: str = name, plain: Any = plain) -> Any:
            seen.engine(name)
            return await plain(self, *args)

        monkeypatch.setattr(HfEngine, name, of_engine)
    return seen


def test_a_run_in_turns_is_the_run_without_them(whole: Path, tmp_path: Path, floor: Floor) -> None:
    assert run(hybrid(), tmp_path / "run", floor.launcher()) == 0
    assert_same_run(whole, tmp_path / "run")
    assert min(floor.used.values()) > 0
    for row in read_metrics(tmp_path / "run"):
        assert row.keys() >= TURNS
        assert row["hybrid/bytes"] > 0
    assert not TURNS & read_metrics(whole)[0].keys()


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("method", "number"),
    [
        ("offload", 1),
        ("offload", 3),
        ("onload", 1),
        ("onload", 3),
        ("publish", 2),
        ("train", 2),
        ("save", 2),
        ("export", 3),
    ],
)
def test_a_learner_that_dies_in_any_phase_is_started_again_in_its_turn(
    method: str, number: int, done: bool, whole: Path, tmp_path: Path, floor: Floor
) -> None:
    assert run(hybrid(), tmp_path / "run", floor.launcher([(method, number, done)])) == 0
    assert floor.made[0].policy.calls["replace"] == 1
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["sleep", "wake", "update_weights"])
@pytest.mark.parametrize("number", [1, 3])
def test_an_engine_that_dies_in_any_phase_is_replaced_in_its_turn(
    method: str, number: int, when: str, whole: Path, tmp_path: Path, floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Counter[str]()
    plain = getattr(HfEngine, method)

    async def dying(self: Any, *args: Any) -> None:
        calls[method] += 1
        fatal = calls[method] == number
        if not fatal or when == "after":
            await plain(self, *args)
        if fatal:
            self._dead = "killed"
            if when == "before":
                raise EngineDead("killed")

    monkeypatch.setattr(HfEngine, method, dying)
    assert run(hybrid(), tmp_path / "run", floor.launcher()) == 0
    assert calls[method] > number
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.parametrize(("who", "method"), [(Learner, "train_iteration"), (HfEngine, "sleep"), (HfEngine, "wake")])
def test_a_run_that_is_stopped_in_any_phase_goes_on_where_it_was(
    who: Any, method: str, whole: Path, tmp_path: Path, floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a signal the learner is saved, so it has to come back to its device from wherever it is."""
    plain, calls = getattr(who, method), Counter[str]()

    def stopping(self: Any, *args: Any) -> Any:
        calls[method] += 1
        if calls[method] == 5 or (who is Learner and calls[method] == 2):
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, *args)

    monkeypatch.setattr(who, method, stopping)
    assert run(hybrid(), tmp_path / "run", floor.launcher()) == 128 + signal.SIGTERM
    assert run(hybrid(), tmp_path / "run", floor.launcher()) == 0
    assert_same_run(whole, tmp_path / "run")


def test_turns_may_begin_and_end_where_a_run_is_resumed(whole: Path, tmp_path: Path) -> None:
    """How devices are shared is no part of what a run computes."""
    assert run(tiny(iterations=1), tmp_path / "run", mortal((), [])) == 0
    assert run(hybrid(iterations=3), tmp_path / "run", mortal((), [])) == 0
    assert run(tiny(), tmp_path / "run", mortal((), [])) == 0
    assert_same_run(whole, tmp_path / "run")
