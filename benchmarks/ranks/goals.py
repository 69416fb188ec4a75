"""What the benchmark is to show, judged from its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LOSS = 1e-8
"""Largest difference of a loss on the same micro-batches."""
GRADIENT = 5e-6
"""Largest difference of a gradient relative to its parameter's largest one."""
STATE = 1.1
"""Most memory of a rank for weights, gradients and moments, in parts of an equal share of one process's."""
WASTE = 0.05

Row = dict[str, Any]


def judged(rows: Sequence[Row]) -> dict[str, Any]:
    """Return every goal's figure and whether it is met; a goal whose part did not run has neither."""
    parts = {part: [row for row in rows if row["part"] == part] for part in {row["part"] for row in rows}}
    goals: dict[str, Any] = {}
    if trained := parts.get("parity"):
        plain = [row for row in trained if row["dtype"] == "float32"]
        goals["losses"] = _most([row["loss"] for row in plain], LOSS)
        goals["gradients"] = _most([row["gradient"] for row in plain], GRADIENT)
        goals["logprobs_bitwise"] = _all([row["logprobs_equal"] for row in plain])
        goals["ranks_agree"] = _all([row["ranks_agree"] for row in trained])
    if muon := parts.get("muon"):
        goals["muon_bitwise"] = _all([row["bitwise"] for row in muon])
        goals["muon_collectives_per_bucket"] = _most([row["collectives_per_bucket"] for row in muon], 2)
        goals["muon_full_tensor_calls"] = _most([row["full_tensor_calls"] for row in muon], 0)
        half = [row for row in muon if row["model"] == "large" and row["dtype"] == "bfloat16"]
        goals["muon_bytes_over_allowed"] = _most([max(row["bytes_sent"]) / row["bytes_allowed"] for row in half], 1)
        state = [sum(row["state_bytes"]) / row["adamw_state_bytes"] for row in muon if row["replicate"] == 1]
        goals["muon_state_over_adamw"] = _most(state, 0.5)
    if memory := parts.get("memory"):
        (alone,) = [row["kept"] for row in memory if row["ranks"] == 1]
        shares = [max(row["kept_by_rank"]) * row["ranks"] / alone for row in memory if row["ranks"] > 1]
        goals["state_over_equal_share"] = _most(shares, STATE)
    if balance := parts.get("balance"):
        goals["balance_waste"] = _most([row["waste"] for row in balance], WASTE)
    for part, name in (("checkpoint", "checkpoint_bitwise"), ("publish", "publish_identical")):
        if found := parts.get(part):
            goals[name] = _all([row["equal"] for row in found])
    return {"goals": goals, "met": bool(goals) and all(goal["met"] for goal in goals.values())}


def _most(figures: Sequence[float], limit: float) -> dict[str, Any]:
    return {"figure": max(figures), "goal": limit, "met": max(figures) <= limit}


def _all(held: Sequence[bool]) -> dict[str, Any]:
    return {"figure": f"{sum(held)} of {len(held)}", "goal": "all", "met": all(held)}
