"""A learner of two ranks on Ray: whole runs in which ranks are killed, and one over two nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_kit import Run
from paths import ROOT
from run_kit import assert_same_run, timeless

from rl.record.log import read_metrics
from rl.state.run_dir import RunDir
from tests.processes import until_gone

pytestmark = pytest.mark.slow

RANKS = ("--learner.ranks", "2")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run whose learner has two ranks, on two nodes of this machine, and to which nothing happens.

    The second node has room for one process.
    """
    run = Run(tmp_path_factory.mktemp("ranks") / "whole", "hf", every=1)
    command = [sys.executable, "-m", "tests.two_nodes", str(run.folder / "config.yaml"), str(run.directory.root)]
    done = subprocess.run([*command, *RANKS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return run.directory


def test_each_rank_has_a_node_of_its_own(undisturbed: RunDir) -> None:
    assert len(set(json.loads((undisturbed.root / "nodes.json").read_text()))) == 2


def test_a_run_outlives_the_ranks_of_its_learner_and_ends_as_if_nothing_had_been(
    undisturbed: RunDir, tmp_path: Path
) -> None:
    """SIGKILL for a rank while all train, publish, and save; the engine is the same process to the end.

    All of it on one node: a third run, on one and undisturbed, would have to be like these two.
    """
    run = Run(tmp_path, "hf", every=1)
    assert run.end(run.start(*RANKS, doom="train/3/1,publish/7/0,save/5/1,saved/5/0")) == 0, run.output
    assert run.output.count("; starting it again here") == 4
    assert "engine 0 failed" not in run.output
    for name in ("train-1", "publish-0", "save-1", "saved-0"):
        until_gone(json.loads((run.folder / f"{name}.json").read_text()))
    assert_same_run(undisturbed.root, run.directory.root)
    rows = [[timeless(row) for row in read_metrics(folder.root)] for folder in (undisturbed, run.directory)]
    assert rows[0] == rows[1]
    totals = [json.loads(folder.summary.read_text()) for folder in (undisturbed, run.directory)]
    for key in ("rollouts", "partial_rollouts_resumed", "tokens_generated", "iterations", "accuracy_after"):
        assert totals[0][key] == totals[1][key], key
