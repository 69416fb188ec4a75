"""Whole runs with real Ray actors and real vLLM, as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

TINY = """
iterations: 3
model: {base: {kind: scratch, layers: 1, width: 64, heads: 2, kv_heads: 2, mlp_width: 64, context: 96}, threads: 1}
problems:
  train: {kind: arithmetic, steps: [2, 2]}
  heldout: {kind: arithmetic, steps: [2, 2]}
  heldout_size: 4
warmup: {examples: 24, batch_tokens: 256}
engine: {kind: ENGINE, max_model_len: 48, max_concurrency: 16, kv_cache_gib: 0.1}
rollout: {groups: 3, k: 2, segment_tokens: 12, max_tokens: 40, loss_on: all}
learner: {updates: 2}
eval: {every: 0, samples: 1, greedy: false}
checkpoint: {every: 1}
log: {live: false}
"""


def start(folder: Path, engine: str, *extra: str) -> subprocess.Popen[str]:
    config = folder / "config.yaml"
    config.write_text(TINY.replace("ENGINE", engine))
    k15 = Path(sys.executable).parent / "k15"
    command = [str(k15), "train", "--config", str(config), "--run-dir", str(folder / "run"), *extra]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def test_the_whole_loop_on_ray_and_vllm(tmp_path: Path) -> None:
    process = start(tmp_path, "vllm")
    seen: dict[int, psutil.Process] = {}
    while process.poll() is None:
        seen |= {child.pid: child for child in family(process)}
        time.sleep(0.5)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["iterations"] == 3
    assert summary["partial_rollouts_resumed"] > 0
    assert 0 < summary["max_logprob_gap"] < 1e-4
    rows = [
        row for path in (tmp_path / "run" / "rollouts").glob("*.parquet") for row in pq.read_table(path).to_pylist()
    ]
    assert any(row["stop"] == "length" for row in rows), "no rollout filled the context, which a probe must survive"
    assert_gone(list(seen.values()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_saves_a_checkpoint_and_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM goes to the driver; Ctrl-C in a terminal goes to every process of its group."""
    process = start(tmp_path, "hf", "--iterations", "500")
    checkpoints = tmp_path / "run" / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("[0-9]*")):  # any: only the newest two are kept, and iterations are short
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no checkpoint within two minutes"
        time.sleep(0.2)
    children = family(process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number, output
    assert "the same command resumes" in output
    assert_gone(children)
    newest = int(sorted(checkpoints.iterdir())[-1].name)
    again = start(tmp_path, "hf", "--iterations", str(newest + 1))
    output = again.communicate(timeout=120)[0]
    assert again.returncode == 0, output
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["iterations"] == newest + 1
