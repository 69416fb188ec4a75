"""How a run that was struck differs from the same run undisturbed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from tests.chaos.ledger import read_record
from tests.run_kit import timeless, weights

Sameness = Literal["bits", "rounding", "no"]
"""``bits``: every bit. ``rounding``: every token, and numbers up to rounding, since an engine that goes on with a
stretch reads in one pass what another one drew token by token. ``no``: another run, which its audit alone judges."""

OF_FAULTS = ("engines/", "grader/")
"""Metrics that count what a process has done and suffered, which another one knows nothing of."""
OF_THE_RUN = ("wall_seconds", "max_logprob_gap", "model_path", "report_path")
"""Parts of a summary that no two runs share."""
TOLERANCE = {"bits": 0.0, "rounding": 2e-3}


def differences(whole: Path, run: Path, sameness: Sameness) -> Iterator[str]:
    """Yield what differs, a line for each kind of thing: rollouts, weights, metrics, summary."""
    slack = TOLERANCE[sameness]
    ours, theirs = read_record(whole), read_record(run)
    if len(ours.rollouts) != len(theirs.rollouts):
        yield f"{len(theirs.rollouts)} rollouts instead of {len(ours.rollouts)}"
    for one, other in zip(ours.rollouts, theirs.rollouts, strict=False):
        yield from within(f"rollout {one['rollout']}", one, other, slack)
    for one, other in zip(ours.rows, theirs.rows, strict=False):
        yield from within(f"iteration {one['iteration']}", counted(one), counted(other), slack)
    lasting = [{key: value for key, value in each.summary.items() if key not in OF_THE_RUN} for each in (ours, theirs)]
    yield from within("summary", lasting[0], lasting[1], slack)
    left, right = weights(whole), weights(run)
    for name in left:
        gap = float((left[name] - right[name]).abs().max())
        if not gap <= slack:
            yield f"weights {name} differ by up to {gap:g}"


def counted(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the metrics without clocks, and without what counts faults."""
    return {name: value for name, value in timeless(dict(row)).items() if not name.startswith(OF_FAULTS)}


def within(what: str, one: Mapping[str, Any], other: Mapping[str, Any], slack: float) -> Iterator[str]:
    """Yield the first key in which two rows differ."""
    for key in [*one, *(key for key in other if key not in one)]:
        if key not in one or key not in other or not alike(one[key], other[key], slack):
            yield f"{what}: {key} is {str(other.get(key))[:80]} instead of {str(one.get(key))[:80]}"
            return


def alike(one: Any, other: Any, slack: float) -> bool:
    """Return whether two values are the same, numbers up to ``slack``, NaN being itself."""
    if isinstance(one, float) and isinstance(other, float):
        return (
            one == other
            or (math.isnan(one) and math.isnan(other))
            or math.isclose(one, other, rel_tol=slack, abs_tol=slack)
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(alike(a, b, slack) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key], slack) for key in one)
    return one == other
