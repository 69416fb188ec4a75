"""Whole runs through the command that a user types: how fast they train, how long engine and learner idle, what comes
of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import say
from benchmarks.curve import Curve
from benchmarks.overlap.kept import kept, settings_of
from benchmarks.runs import train
from rl.config import RunConfig
from rl.record.log import read_evaluations, read_metrics

SKIPPED = 2
"""Iterations at the beginning that no speed is taken from: the pipe fills, and caches are cold."""
MEANS = ("staleness/mean", "staleness/loss_mean", "importance/mean", "importance/ess", "importance/truncated")
"""Metrics that are told as their mean over the iterations, where there are any."""
IDLE = ("idle/engines", "idle/learner")


def measured(name: str, config: RunConfig) -> dict[str, Any]:
    """Return the figures of a run, kept under ``name``."""
    return kept(name, settings_of(config), lambda folder: figures(config, folder))


def figures(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Run it, and return its figures."""
    say(f"{folder.name}: {config.iterations} iterations")
    load = os.getloadavg()[0]
    done = train(config, folder)
    rows = read_metrics(folder)
    after = read_evaluations(folder)[-1].accuracy
    return {
        **speed(done.curve),
        "idle_engines": idle(rows, "idle/engines"),
        "idle_learner": idle(rows, "idle/learner"),
        "means": {name: mean for name in MEANS if (mean := _mean(rows, name)) is not None},
        "accuracy": after.mean,
        "ci95": [after.low, after.high],
        "curve": [[check.iteration, check.accuracy] for check in done.curve.checks],
        "samples": done.curve.points[-1].samples,
        "peak_pss_mb": round(done.peak_pss / 1e6),
        "load_before": round(load, 1),
    }


def speed(curve: Curve) -> dict[str, float]:
    """Return trained tokens and samples a second, of training time, behind the first iterations."""
    first, last = curve.points[min(SKIPPED, len(curve.points) - 1) - 1], curve.points[-1]
    seconds = last.seconds - first.seconds
    return {
        "trained_tokens_per_s": (last.tokens - first.tokens) / seconds,
        "samples_per_s": (last.samples - first.samples) / seconds,
        "seconds": last.seconds,
    }


def idle(rows: Sequence[Mapping[str, float]], name: str) -> float | None:
    """Return an idle share over the iterations that the speed is taken from; ``None`` where there is no timeline."""
    counted = [row for row in rows[SKIPPED:] if name in row]
    if not counted:
        return None
    return float(np.average([row[name] for row in counted], weights=[row["time/total"] for row in counted]))


def _mean(rows: Sequence[Mapping[str, float]], name: str) -> float | None:
    values = [row[name] for row in rows if name in row]
    return float(np.mean(values)) if values else None
