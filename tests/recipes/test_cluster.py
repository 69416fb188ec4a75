"""Whole runs with real Ray actors and real vLLM, as processes of their own, and what becomes of them when parts die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from cluster_kit import Run

from rl.record.log import read_metrics
from rl.state.journal import read_stream
from tests.processes import until_gone

pytestmark = pytest.mark.slow


def journalled(data: bytes) -> dict[str, list[int]]:
    """Tokens by rollout in a journal."""
    tokens: dict[str, list[int]] = {}
    for delta in read_stream(data)[0]:
        tokens.setdefault(delta.key, []).extend(delta.token_ids.tolist())
    return {name: drawn for name, drawn in tokens.items() if drawn}


def assert_kept(before: dict[str, list[int]], now: dict[str, list[int]]) -> None:
    assert before
    for rollout, drawn in before.items():
        assert now[rollout][: len(drawn)] == drawn


def family(process: subprocess.Popen[bytes]) -> list[int]:
    return [one.pid for one in psutil.Process(process.pid).children(recursive=True)]


def test_a_run_outlives_its_engine_and_its_driver_and_stopped_it_leaves_no_process(tmp_path: Path) -> None:
    """SIGKILL for the engine in iteration 1, for all in iteration 3; the resumed run replays 2 and what there was of 3.

    Then Ctrl-C, which a terminal sends to the whole group. (SIGTERM: ``test_ray_jobs.py``.)
    """
    run = Run(tmp_path, "hf", every=2)
    assert run.end(run.start("--iterations", "5000", doom="1=worker,3=driver")) == -signal.SIGKILL, run.output
    assert "engine 0 failed: engine actor died" in run.output
    seen = json.loads((tmp_path / "driver.json").read_text())
    assert {"ray::LearnerRan", "ray::RolloutWor"} <= {name[:15] for name in seen["family"].values()}
    until_gone(map(int, seen["family"]))
    assert run.newest() == 2
    killed = journalled(bytes.fromhex(json.loads((tmp_path / "worker.json").read_text())["journal"]))
    whole = journalled((run.directory.journal / "000002.arrow").read_bytes())
    cut_off = journalled(bytes.fromhex(seen["journal"]))

    process = run.start("--iterations", "5000")
    run.wait_for_checkpoint(process, beyond=3)
    children = family(process)
    os.killpg(process.pid, signal.SIGINT)
    assert run.end(process) == 128 + signal.SIGINT, run.output
    assert "the same command resumes" in run.output
    until_gone(children)
    done = [row["iteration"] for row in read_metrics(run.directory.root)]
    assert done == list(range(len(done))), "it began anew"
    assert len(done) in (run.newest(), run.newest() + 1), "every second one is saved, and Ctrl-C may come before it is"
    assert_kept(killed, run.segments(1))
    assert_kept(cut_off, run.segments(3))
    assert whole
    assert {name: run.segments(2)[name] for name in whole} == whole, "it was over: none of it is drawn again"


def test_a_whole_run_on_ray_and_vllm(tmp_path: Path) -> None:
    """In iteration 1 the actor is killed, and vLLM's core below it ends with it; another takes its place."""
    run = Run(tmp_path, "vllm", every=2)
    assert run.end(run.start(doom="1=worker")) == 0, run.output
    seen = json.loads((tmp_path / "worker.json").read_text())
    assert any("EngineCor" in name for name in seen["ended"]), "vLLM's core ends with the actor above it"
    until_gone(map(int, seen["family"]))
    assert_kept(journalled(bytes.fromhex(seen["journal"])), run.segments(1))
    summary = json.loads(run.directory.summary.read_text())
    assert summary["iterations"] == 5
    assert summary["partial_rollouts_resumed"] > 0
    assert 0 < summary["max_logprob_gap"] < 1e-4
    stops = {row["stop"] for row in run.stored()}
    assert "length" in stops, "no rollout filled the context, which a probe must survive"
    assert run.directory.report.exists()
