"""What the benchmark is to show, judged from its summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ONE, TWO = 1.9, 2.5
"""Simulated: how many times as fast as in turn with S = 1, and with S = 2 where lengths have a long tail."""
REAL = 1.3
MARGIN = 0.02
"""Accuracy counts as the same when its 95 % interval rules out that it is lower by more than this."""
TRL_SPEED, TRL_TIME = 2.0, 4.0
STATED = "in turn"
"""The goals are for training that takes as long as sampling does in turn (``benchmarks.overlap.simulated``)."""

Row = dict[str, Any]


def judged(rows: Sequence[Row]) -> Row:
    """Return every goal's figure and whether it is met, and what else was to be shown; a goal whose part did not run
    has neither.
    """
    goals: dict[str, Any] = {}
    shown: dict[str, Any] = {}
    simulated = [row for row in rows if row["part"] == "simulated"]
    if simulated:
        goals["simulated_s1"] = best(simulated, "S = 1", 0.6, ONE)
        goals["simulated_s2_long_tail"] = best(simulated, "S = 2", 1.2, TWO)
    summaries = {row["part"]: row for row in rows if row.get("measure") == "summary"}
    if real := summaries.get("real"):
        overlapped = real["arms"]["S = 1"]
        goals["real_ratio"] = least(overlapped["ratio"], REAL) | {"seeds": overlapped["ratios"]}
        low, high = overlapped["difference_ci95"]
        goals["real_same_accuracy"] = {"figure": [low, high], "goal": -MARGIN, "met": low >= -MARGIN}
        shown["idle"] = {
            name: {part: told[f"idle_{part}"] for part in ("engines", "learner")} for name, told in real["arms"].items()
        }
    if trl := summaries.get("trl"):
        goals["trl_samples_per_s"] = least(trl["samples_per_s"], TRL_SPEED)
        goals["trl_time_to_target"] = least(trl["time_to_target"], TRL_TIME)
    if quality := summaries.get("quality"):
        shown["staleness"] = quality["arms"]
    return {"goals": goals, "shown": shown, "met": bool(goals) and all(goal["met"] for goal in goals.values())}


def best(rows: Sequence[Row], arm: str, sigma: float, goal: float) -> Row:
    """Return a goal of the simulated part: the highest ratio of an arm where learner and engine are balanced as stated,
    what forbids more there, and all that was seen under this and the other reading.
    """
    mine = [row for row in rows if (row["arm"], row["sigma"]) == (arm, sigma)]
    stated = [row for row in mine if row["balanced"] == STATED]
    if not stated:
        return least(None, goal)
    row: Mapping[str, Any] = max(stated, key=lambda row: row["ratio"])
    where = {name: row[name] for name in ("engine", "balanced", "in_flight")}
    bounds = {name: row[name] for name in ("bound_learner", "bound_engine", "bound_engine_here")}
    told = ("engine", "balanced", "in_flight", "ratio", "bound_learner")
    everywhere = [{name: row[name] for name in told} for row in mine]
    out_of_reach = min(row["bound_learner"], row["bound_engine"]) < goal
    return least(row["ratio"], goal) | where | bounds | {"out_of_reach": out_of_reach, "all": everywhere}


def least(figure: float | None, goal: float) -> Row:
    """Return a goal that is met when the figure is at least so large; one that could not be measured is not."""
    shown = None if figure is None else round(figure, 3)
    return {"figure": shown, "goal": goal, "met": figure is not None and figure >= goal}
