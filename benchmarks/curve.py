"""A training run as the benchmarks see it: when which work was done, and how well the policy did at what time."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import quantiles, ratio
from rl.record.log import read_evaluations, read_metrics


@dataclass(frozen=True)
class Point:
    """The end of an iteration."""

    seconds: float
    """Training time so far: wall clock since the first iteration began, evaluations left out."""
    samples: int
    """Responses trained on so far."""
    tokens: int
    """Response tokens that carried loss so far."""


@dataclass(frozen=True)
class Checked:
    """A held-out evaluation."""

    iteration: int
    """Iterations done by then; 0: before training."""
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """A run."""

    points: tuple[Point, ...]
    checks: tuple[Checked, ...]

    def seconds_at(self, iteration: int) -> float:
        """Training time after so many iterations."""
        return self.points[iteration - 1].seconds if iteration else 0.0

    def crossing(self, target: float) -> Checked | None:
        """The first evaluation at or above ``target``; ``None`` when there is none."""
        return next((check for check in self.checks if check.accuracy >= target), None)

    def rates(self, iterations: int) -> tuple[float, float]:
        """(samples, trained tokens) per second of training time over the first iterations."""
        point = self.points[min(iterations, len(self.points)) - 1]
        return point.samples / point.seconds, point.tokens / point.seconds


def outcome(curve: Curve, target: float) -> dict[str, Any]:
    """Speed and learning of a run. Rates are taken up to the target (else the whole run): responses grow on the way,
    so that two runs are compared over the same stretch of learning.
    """
    crossed = curve.crossing(target)
    iterations = crossed.iteration if crossed and crossed.iteration else len(curve.points)
    samples, tokens = curve.rates(iterations)
    return {
        "samples_per_s": round(samples, 2),
        "trained_tokens_per_s": round(tokens, 1),
        "target": target,
        "seconds_to_target": round(curve.seconds_at(crossed.iteration), 2) if crossed else None,
        "iterations_to_target": crossed.iteration if crossed else None,
        "iterations": len(curve.points),
        "seconds": round(curve.points[-1].seconds, 2),
        "samples": curve.points[-1].samples,
        "trained_tokens": curve.points[-1].tokens,
        "accuracy": [
            {"iteration": c.iteration, "seconds": round(curve.seconds_at(c.iteration), 1), "mean": round(c.accuracy, 4),
             "ci95": [round(c.low, 4), round(c.high, 4)]}
            for c in curve.checks
        ],
    }  # fmt: skip


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float | None]:
    """Ratios above 1 say that ``ours`` is faster (for memory: smaller)."""
    return {
        "samples_per_s": ratio(ours["samples_per_s"], theirs["samples_per_s"]),
        "trained_tokens_per_s": ratio(ours["trained_tokens_per_s"], theirs["trained_tokens_per_s"]),
        "time_to_target": ratio(theirs["seconds_to_target"], ours["seconds_to_target"]),
        "peak_memory": ratio(theirs.get("peak_pss_mb"), ours.get("peak_pss_mb")),
    }


class RunWatch:
    """Notes when each iteration of a k15 run ends, from outside: by the rows of its ``metrics.jsonl``."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.ended: list[float] = []

    def look(self) -> None:
        """Call often: resolution is the time between calls."""
        path = self.run_dir / "metrics.jsonl"
        now = time.monotonic()
        if path.exists():
            self.ended += [now] * (path.read_bytes().count(b"\n") - len(self.ended))

    def curve(self) -> Curve:
        """The run so far."""
        rows = read_metrics(self.run_dir)
        checks = [
            Checked(item.iteration, item.accuracy.mean, item.accuracy.low, item.accuracy.high)
            for item in read_evaluations(self.run_dir)
        ]
        return Curve(points_of(rows, self.ended), tuple(sorted(checks, key=lambda check: check.iteration)))


def points_of(rows: Sequence[dict[str, Any]], ended: Sequence[float]) -> tuple[Point, ...]:
    """Points of a k15 run from its metrics and the clock times at which their rows appeared.

    Whatever the loop does between two rows counts (checkpoints, journal, logs), except for evaluations.
    """
    points: list[Point] = []
    evaluated, samples, tokens = 0.0, 0, 0
    for row, end in zip(rows, ended, strict=False):
        evaluated += row.get("time/eval", 0.0)
        samples += row["rollouts/finished"]
        tokens += row["tokens/trained"]
        began = ended[0] - rows[0]["time/total"]
        points.append(Point(end - began - evaluated, samples, tokens))
    return tuple(points)


def lengths(run_dir: Path, first: int = 0) -> dict[str, float]:
    """Quantiles of the response lengths of a k15 run from iteration ``first`` on, in tokens."""
    import pyarrow.parquet as pq

    found: list[int] = []
    for file in sorted((run_dir / "rollouts").glob("*.parquet")):
        table = pq.read_table(file, columns=["iteration", "length"])
        found += [row["length"] for row in table.to_pylist() if row["iteration"] >= first]
    return quantiles(found)


def load_curve(path: Path) -> Curve:
    """Inverse of ``save_curve``."""
    data = json.loads(path.read_text())
    return Curve(tuple(Point(**item) for item in data["points"]), tuple(Checked(**item) for item in data["checks"]))


def save_curve(curve: Curve, path: Path) -> None:
    """As JSON."""
    row = {"points": [vars(item) for item in curve.points], "checks": [vars(item) for item in curve.checks]}
    path.write_text(json.dumps(row))
