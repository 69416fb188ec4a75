"""Threads that wait for one another leave the cores to whom they wait for, in every process of the command line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rollout.spinning import waiting


def test_threads_do_not_keep_the_cores_from_whom_they_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """libgomp's default is 300,000 rounds awake, some milliseconds; the user's own setting wins."""
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert 0 < int(waiting()["GOMP_SPINCOUNT"]) < 100_000
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert waiting()["GOMP_SPINCOUNT"] == "7"


def test_a_command_says_so_before_torch_is_loaded() -> None:
    """What torch's libgomp has read, it tells itself; heads and learners in a command's own process go by it."""
    code = "from recipes.commands.cli import main; main(['recipes']); import torch; torch.get_num_threads()"
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "GOMP_SPINCOUNT = '10000'" in done.stderr
