"""Overlapped runs: with S = 0 they are those in turn, and with more nothing is lost, stale or trained twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_kit import assert_same_run, timeless, tiny

from recipes.run.session import run
from rl.record.log import read_metrics


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "in_turn"
    assert run(tiny(), folder) == 0
    return folder


def test_without_staleness_the_run_is_the_one_in_turn(in_turn: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run(tiny(overlap={"max_staleness": 0}), folder) == 0
    assert_same_run(in_turn, folder)
    ours, theirs = ([timeless(row) for row in read_metrics(one)] for one in (folder, in_turn))
    assert ours == theirs


def test_stale(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run(tiny(overlap={"max_staleness": 1}, iterations=8), folder) == 0


def test_on_policy(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run(tiny(overlap={"mode": "on_policy"}, learner={"updates": 1}, iterations=8), folder) == 0
