"""A small run of `k15 train` on a Ray cluster of its own, as a process that can be killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from paths import ROOT

from rl.state.run_dir import RunDir
from rollout.serial import read_groups
from tests.processes import PATIENCE_S, until

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
