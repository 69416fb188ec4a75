"""When a policy has ceased to explore, by the rows of its metrics alone: a resumed run remembers what it needs."""

from __future__ import annotations

from collections.abc import Sequence

from rl.diversity_config import CollapseConfig
from rl.record.finding import Finding, percent, span
from rl.record.metrics import Row

WATCHED = {
    "diversity/wrong_spread": ("wrong responses to the same problem", "diversity/wrong_groups"),
    "diversity/across": ("responses to different problems", ""),
}
"""Spreads that the alarm goes by: in words, and what counts the groups behind each value, if anything does.

Not those of all responses, or of right ones: that these become alike is what learning to solve a problem looks like.
"""


def collapsed(rows: Sequence[Row], alarm: CollapseConfig | None) -> Finding | None:
    """Return a finding on the first window of iterations in which responses were too much alike."""
    if alarm is None:
        return None
    found = [(window[-1]["iteration"], key, window, why) for key in WATCHED for window, why in _first(rows, key, alarm)]
    if not found:
        return None
    _, key, window, why = min(found, key=lambda one: one[0])
    return Finding(
        "exploration-collapsed",
        f"{span(window)}: the {WATCHED[key][0]} are nearly the same: their spread is {percent(_mean(window, key))}, "
        f"{why}",
        "the policy tries nothing new: read rollouts in the report; a lower learner.optimizer.lr or a larger "
        "learner.objective.tau keeps more of it, or go back to an earlier checkpoint",
    )


def _first(rows: Sequence[Row], key: str, alarm: CollapseConfig) -> Sequence[tuple[Sequence[Row], str]]:
    """Return the first window that is too low, and why it is; nothing while there is none."""
    measured = [row for row in rows if key in row]
    start = measured[: alarm.first]
    level = _mean(start, key) if len(start) == alarm.first and _enough(start, key, alarm) else None
    least = alarm.least if WATCHED[key][1] else 0.0
    for end in range(alarm.window, len(measured) + 1):
        window = measured[end - alarm.window : end]
        if not _enough(window, key, alarm):
            continue
        if (now := _mean(window, key)) < least:
            return [(window, f"less than {percent(least)}")]
        if level is not None and end > alarm.first and now < (1 - alarm.fall) * level:
            return [(window, f"after {percent(level)} in {span(start)}")]
    return []


def _weights(rows: Sequence[Row], key: str) -> list[float]:
    counted = WATCHED[key][1]
    return [row[counted] if counted else 1.0 for row in rows]


def _enough(rows: Sequence[Row], key: str, alarm: CollapseConfig) -> bool:
    return not WATCHED[key][1] or sum(_weights(rows, key)) >= alarm.groups


def _mean(rows: Sequence[Row], key: str) -> float:
    weights = _weights(rows, key)
    return sum(weight * row[key] for weight, row in zip(weights, rows, strict=True)) / sum(weights)
