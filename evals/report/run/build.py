"""Builds ``report.html`` of a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from evals.report.page import render, script_of
from evals.report.page.choice import evenly
from evals.report.run.agreement import write_agreement
from evals.report.run.data import ReportError, RunData, read_run
from evals.report.run.figures import sections
from evals.report.run.lanes import lanes
from evals.report.run.samples import Samples, load_samples
from rl.record.health import Course, findings
from rl.record.log import Evaluation, LogError
from rl.record.metrics import METRICS, Metric, about
from rollout.files import replace_file

FILE = "report.html"
POINTS = 60
"""Most values of the small line of a metric."""


def build_report(run_dir: Path) -> Path:
    """Write ``<run>/report.html`` and return its path; a run still going gets the report of what there is so far.

    Raises ``ReportError`` when the directory is no run or cannot be written, also for records that cannot be read.
    """
    try:
        run = read_run(run_dir)
    except LogError as error:
        raise ReportError(str(error)) from error
    script = script_of("evals.report.run", "page.js")
    path = run_dir / FILE
    try:
        data = payload(run, load_samples(run_dir)) | {
            "agreement": write_agreement(run_dir, run.name, run.facts | run.judge)
        }
        replace_file(path, render(f"{run.name} \N{MIDDLE DOT} k15", data, script, "rollouts").encode())
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def payload(run: RunData, samples: Samples) -> dict[str, Any]:
    """Return everything that the page shows, as plain JSON data."""
    return {
        "name": run.name,
        "recipe": run.facts.get("recipe"),
        "model": run.model,
        "facts": run.facts,
        "config": run.config_text,
        "state": _state(run),
        "verdict": verdict(run),
        "promise": promise(run),
        "findings": told(run),
        "evaluations": [asdict(item) for item in run.evaluations],
        "before": _shown_evaluation(run.evaluation("before")),
        "after": _shown_evaluation(_latest(run)),
        "totals": _totals(run),
        "sections": [asdict(section) for section in sections(run)],
        "timeline": lanes(run.timeline),
        "metrics": metrics(run),
        "rollouts": samples.rows,
        "rollouts_total": samples.total,
        "notes": [*run.notes, *samples.problems],
    }


def metrics(run: RunData) -> list[dict[str, Any]]:
    """Return every number of the run's rows with its course, in the order of the table; names of other versions come
    last.
    """
    written = {name: None for row in run.rows for name in row if name != "iteration"}
    known = [name for name in METRICS if name in written]
    return [_course(run, name) for name in [*known, *(name for name in written if name not in METRICS)]]


def _course(run: RunData, name: str) -> dict[str, Any]:
    metric = about(name) or Metric("", "Not written by this version of k15.")
    column = run.column(name)
    values = [value for value in column if value is not None]
    return {
        "name": name,
        **asdict(metric),
        "last": values[-1],
        "low": min(values),
        "high": max(values),
        "course": evenly(column, POINTS) if len(set(values)) > 1 else values[:1],
    }


def verdict(run: RunData) -> str:
    """Return one sentence on held-out accuracy: what changed, and whether the intervals allow to say so."""
    before, after = run.evaluation("before"), _latest(run)
    if before is None and after is None:
        return "No held-out evaluation yet."
    if before is None or after is None:
        there = next(item for item in (before, after) if item)
        rate = _percent(there.accuracy.mean)
        return f"Held-out accuracy {rate} after {there.iteration} iterations; nothing to compare it with yet."
    change = 100 * (after.accuracy.mean - before.accuracy.mean)
    apart = before.accuracy.high < after.accuracy.low or after.accuracy.high < before.accuracy.low
    word = "rose" if change > 0 else "fell" if change < 0 else "stayed"
    moved = f"by {abs(change):.1f} points to" if change else "at"
    paired = (run.summary or {}).get("accuracy_change") if after.name == "after" else None
    overlap = "do not overlap" if apart else "overlap" if paired else "overlap, so this may be chance"
    return (
        f"Held-out accuracy {word} {moved} {_percent(after.accuracy.mean)} over {after.iteration - before.iteration} "
        f"iterations; the 95\u00a0% intervals {overlap}." + (f" {_paired(paired)}" if paired else "")
    )


def told(run: RunData) -> list[dict[str, str]]:
    """Return the findings that the summary of the run lists, or those that show so far."""
    if run.summary is not None:
        return list(run.summary.get("findings", ()))
    if run.planned is None or run.k is None:
        return []
    course = Course(run.planned, run.k, run.rows, run.evaluation("before"), alarm=run.alarm, collapse=run.collapse)
    return [asdict(finding) for finding in findings(course)]


def promise(run: RunData) -> str:
    """Return one sentence on what the recipe promised of a finished run; empty when it promised nothing or is still
    due.
    """
    given = (run.summary or {}).get("promise")
    if not given:
        return ""
    if given["void"]:
        return f"Its recipe's promise ({given['words']}) is not judged: {', '.join(given['void'])}."
    return f"Its recipe's promise {'is kept' if given['kept'] else 'is broken'}: {given['words']}."


def _paired(change: dict[str, Any]) -> str:
    """Return the change problem by problem: the same problems before and after give a narrower interval."""
    low, high = (100 * limit for limit in change["ci95"])
    chance = ": this may be chance" if low <= 0 <= high or change["p"] > 0.05 else ""
    return (
        f"Problem by problem it changed by {100 * change['mean']:+.1f} points [{low:+.1f}, {high:+.1f}], "
        f"p\u00a0=\u00a0{change['p']:.2g}{chance}."
    )


def _latest(run: RunData) -> Evaluation | None:
    """Return the evaluation ``after``, or the newest one before it."""
    between = [item for item in run.evaluations if item.name != "before"]
    return run.evaluation("after") or (between[-1] if between else None)


def _shown_evaluation(evaluation: Evaluation | None) -> dict[str, Any] | None:
    return asdict(evaluation) if evaluation else None


def _state(run: RunData) -> str:
    done = run.rows[-1]["iteration"] + 1 if run.rows else 0
    planned = f" of {run.planned}" if run.planned is not None and run.planned != done else ""
    return f"{done}{planned} iterations, {'finished' if run.complete else 'not finished'}"


def _totals(run: RunData) -> dict[str, float | None]:
    return {
        "rollouts": run.total("rollouts/finished"),
        "resumed": run.total("rollouts/resumed"),
        "ungradable": run.total("rollouts/ungradable"),
        "tokens": run.total("tokens/sampled"),
        "saved": run.total("tokens/saved_by_repetition"),
        "seconds": run.total("time/total"),
        "gap": run.largest("probe/max_gap", "gap/max"),
        "versions": run.largest("rollouts/versions_max"),
        "skipped": run.total("steps/skipped"),
        "failures": run.largest("engines/failures"),
    }


def _percent(value: float) -> str:
    return f"{100 * value:.1f}\u00a0%"
