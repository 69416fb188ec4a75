"""The configuration of the runs that are struck: a tiny one, with every part at work and short limits."""

from __future__ import annotations

from typing import Any

from rl.config import RunConfig
from tests.chaos.cases import REWARD, Case
from tests.chaos.strikes import LIMIT_S
from tests.run_kit import tiny

LOOPS: dict[str, dict[str, Any]] = {"turns": {}}
"""What the configuration of each loop has."""


def config_of(case: Case) -> RunConfig:
    """Return the configuration of a case."""
    base = tiny(
        iterations=6,
        engine={
            "kind": "hf",
            "max_model_len": 96,
            "threads": 1,
            "call_timeout_s": LIMIT_S,
            "stall_timeout_s": LIMIT_S,
            "start_timeout_s": 60.0,
        },
        rollout={"groups": 4, "k": 2, "segment_tokens": 12, "max_tokens": 30, "loss_on": "all"},
        reward={"function": f"{REWARD}:reward", "length": {"weight": 0.5, "start_iteration": 2}},
        checkpoint={"every": 2},
        **LOOPS[case.loop],
    )
    tree = base.model_dump(mode="json")
    for key, value in case.changes.items():
        *way, last = key.split(".")
        section = tree
        for name in way:
            section = section[name]
        section[last] = value
    return RunConfig.model_validate(tree)
