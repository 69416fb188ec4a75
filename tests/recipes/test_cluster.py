"""Whole runs with real Ray actors and real vLLM, as processes of their own, and what becomes of them when parts die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from paths import ROOT
from run_kit import assert_same_run, timeless

from rl.record.log import read_metrics
from rl.state.journal import read_stream
from rl.state.run_dir import RunDir
from rollout.serial import read_groups
from tests.processes import PATIENCE_S, until, until_gone

pytestmark = pytest.mark.slow

TINY = """
iterations: 5
model: {base: {kind: scratch, layers: 1, width: 64, heads: 2, kv_heads: 2, mlp_width: 64, context: 96}, threads: 1}
problems:
  train: {kind: arithmetic, steps: [2, 2]}
  heldout: {kind: arithmetic, steps: [2, 2]}
  heldout_size: 4
warmup: {examples: 24, batch_tokens: 256}
engine: {kind: ENGINE, max_model_len: 48, max_concurrency: 16, kv_cache_gib: 0.1, threads: 1}
rollout: {groups: 3, k: 2, segment_tokens: 12, max_tokens: 40, loss_on: all}
learner: {updates: 2}
eval: {every: 0, samples: 1, greedy: false}
checkpoint: {every: EVERY}
log: {live: false}
"""


class Run:
    """``k15 train`` into one directory, each time as a process in a session of its own with its output in a file."""

    def __init__(self, folder: Path, engine: str, every: int) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.directory = RunDir(folder / "run")
        self.checkpoints = self.directory.checkpoints
        (folder / "config.yaml").write_text(TINY.replace("ENGINE", engine).replace("EVERY", str(every)))
        self.output = ""

    def start(self, *extra: str, doom: str = "") -> subprocess.Popen[bytes]:
        program = [sys.executable, "-m", "tests.doomed", doom, str(self.folder)] if doom else [str(k15())]
        command = ["train", "--config", str(self.folder / "config.yaml"), "--run-dir", str(self.directory.root)]
        with (self.folder / "output.txt").open("wb") as file:
            return subprocess.Popen(
                [*program, *command, *extra], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )

    def end(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for its end; returns the exit code."""
        code = process.wait(PATIENCE_S)
        self.output = (self.folder / "output.txt").read_text()
        return code

    def newest(self) -> int:
        """Iterations in the newest checkpoint; -1 without one."""
        return max((int(path.name) for path in self.checkpoints.glob("[0-9]*")), default=-1)

    def wait_for_checkpoint(self, process: subprocess.Popen[bytes], beyond: int = -1) -> None:
        def there() -> bool:
            assert process.poll() is None, (self.folder / "output.txt").read_text()
            return self.newest() > beyond

        until(there, f"a checkpoint beyond iteration {beyond}")

    def stored(self) -> list[dict[str, Any]]:
        """Rows of the rollouts on disk."""
        files = sorted(self.directory.root.glob("rollouts/*.parquet"))
        return [row for path in files for row in pq.read_table(path).to_pylist()]

    def segments(self, version: int) -> dict[str, list[int]]:
        """Tokens that each rollout was given under the weights of this version, finished or not."""
        unfinished = {
            rollout.id: [(part.version, part.token_ids.tolist()) for part in rollout.segments]
            for group in read_groups(self.checkpoints / f"{self.newest():06d}" / "unfinished.arrow")
            for rollout in group.rollouts
        }
        finished = {row["rollout"]: list(cut(row)) for row in self.stored()}
        return {
            name: tokens
            for name, parts in (unfinished | finished).items()
            for number, tokens in parts
            if number == version
        }


def k15() -> Path:
    return Path(sys.executable).with_name("k15")


def cut(row: dict[str, Any]) -> Iterable[tuple[int, list[int]]]:
    """The segments of a stored rollout: version and tokens."""
    start = 0
    for version, length in zip(row["segment_versions"], row["segment_lengths"], strict=True):
        yield version, row["token_ids"][start : start + length]
        start += length


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
    assert [row["iteration"] for row in read_metrics(run.directory.root)] == list(range(run.newest())), "it began anew"
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


RANKS = ("--learner.ranks", "2")


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run whose learner has two ranks, and to which nothing happens."""
    run = Run(tmp_path_factory.mktemp("ranks") / "whole", "hf", every=1)
    assert run.end(run.start(*RANKS)) == 0, run.output
    return run.directory


def test_a_run_outlives_the_ranks_of_its_learner_and_ends_as_if_nothing_had_been(
    of_two: RunDir, tmp_path: Path
) -> None:
    """SIGKILL for a rank while all train, publish, and save; the engine is the same process to the end."""
    run = Run(tmp_path, "hf", every=1)
    assert run.end(run.start(*RANKS, doom="train/3/1,publish/7/0,save/5/1,saved/5/0")) == 0, run.output
    assert run.output.count("; starting it again here") == 4
    assert "engine 0 failed" not in run.output
    for name in ("train-1", "publish-0", "save-1", "saved-0"):
        until_gone(json.loads((run.folder / f"{name}.json").read_text()))
    assert_same_run(of_two.root, run.directory.root)
    rows = [[timeless(row) for row in read_metrics(folder.root)] for folder in (of_two, run.directory)]
    assert rows[0] == rows[1]
    totals = [json.loads(folder.summary.read_text()) for folder in (of_two, run.directory)]
    for key in ("rollouts", "partial_rollouts_resumed", "tokens_generated", "iterations", "accuracy_after"):
        assert totals[0][key] == totals[1][key], key


def test_a_rank_that_dies_every_time_ends_the_run_in_one_line(of_two: RunDir, tmp_path: Path) -> None:
    run = Run(tmp_path, "hf", every=1)
    once = ("--learner.ranks", "{shard: 2, max_restarts: 1}")
    assert run.end(run.start(*once, doom="train/3/1,train/4/0")) == 1, run.output
    last = run.output.strip().splitlines()[-1]
    assert last.startswith("k15: rank 0 of the learner's 2 died during train: ")
    assert last.endswith("; the same command resumes the run")
    assert run.newest() <= 2
    assert run.end(run.start(*once)) == 0, run.output
    assert_same_run(of_two.root, run.directory.root)


def test_ranks_on_two_nodes_end_as_on_one(of_two: RunDir, tmp_path: Path) -> None:
    """Two nodes on this machine; the second has room for one process."""
    config, folder = of_two.config, tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-m", "tests.two_nodes", str(config), str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(set(json.loads((folder / "nodes.json").read_text()))) == 2
    assert_same_run(of_two.root, folder)
