"""k15 runs as processes of their own, through the command that a user types."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import CACHE, ROOT, MemoryWatch, say
from benchmarks.curve import Curve, RunWatch
from recipes import quickstart
from recipes.run.promise import BROKEN
from rl.config import RunConfig
from rl.config_io import dump
from rl.learner.config import ModelConfig, PretrainedModel

LOOK_S = 0.05
"""Time between two looks at a run's metrics."""


@dataclass(frozen=True)
class Trained:
    """A run that has ended."""

    curve: Curve
    run_dir: Path
    wall_seconds: float
    """The whole command: imports, engine start, evaluations, export and report included."""
    peak_pss: int
    """Highest proportional set size of all its processes together, in bytes."""


class RunFailed(RuntimeError):
    """A run under measurement ended with an error; the message holds the last lines it printed."""


def train(config: RunConfig, run_dir: Path, target: float | None = None) -> Trained:
    """``k15 train --config``; stopped (as by Ctrl-C) once an evaluation reaches ``target``. Raises ``RunFailed``."""
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    file = run_dir.with_suffix(".yaml")
    file.write_text(dump(config))
    k15 = Path(sys.executable).parent / "k15"
    command = [str(k15), "train", "--config", str(file), "--run-dir", str(run_dir)]
    watch = RunWatch(run_dir)
    began = time.monotonic()
    log = run_dir.with_suffix(".log")
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env={**os.environ})
        with MemoryWatch(process.pid) as memory:
            stopped = _follow(process, watch, target)
    if process.returncode not in (0, BROKEN) and not stopped:
        raise RunFailed(f"{' '.join(command)} ended with {process.returncode}:\n" + tail(log))
    return Trained(watch.curve(), run_dir, time.monotonic() - began, memory.peak)


def _follow(process: subprocess.Popen[bytes], watch: RunWatch, target: float | None) -> bool:
    """Look at the run until it ends; True when it was stopped for having reached its target."""
    stopped = False
    seen = 0
    while process.poll() is None:
        time.sleep(LOOK_S)
        watch.look()
        if target is not None and not stopped and len(watch.ended) > seen:
            seen = len(watch.ended)
            if watch.curve().crossing(target):
                process.send_signal(signal.SIGINT)
                stopped = True
    watch.look()
    return stopped


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a file."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def warmed_up(name: str, config: RunConfig) -> Path:
    """The warm-up checkpoint of ``config``, trained once and kept under the cache."""
    run_dir = CACHE / name
    if not (run_dir / "warmup" / "warmup.json").exists() or not (run_dir / "summary.json").exists():
        say(f"warming a model up, once: {run_dir}")
        train(config.model_copy(update={"iterations": 0}), run_dir)
    return run_dir / "warmup"


def quickstart_model(smoke: bool) -> Path:
    """The model that the quickstart's RL starts from; for a smoke test one of a few warm-up steps."""
    config = quickstart.config()
    if not smoke:
        return warmed_up("quickstart", config)
    assert config.warmup is not None
    short = config.warmup.model_copy(update={"examples": 300, "then": ()})
    problems = config.problems.model_copy(update={"heldout_size": 8})
    evaluation = config.eval.model_copy(update={"samples": 1, "greedy": False})
    return warmed_up(
        "quickstart-smoke", config.model_copy(update={"warmup": short, "problems": problems, "eval": evaluation})
    )


def from_checkpoint(config: RunConfig, model: Path) -> RunConfig:
    """``config`` starting from a warmed-up model instead of from scratch."""
    base = ModelConfig(base=PretrainedModel(path=str(model)), threads=config.model.threads)
    return config.model_copy(update={"recipe": "custom", "model": base, "warmup": None})
