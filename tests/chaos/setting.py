"""The configuration of the runs that are struck: a tiny one, with every part at work and short limits."""

from __future__ import annotations

from typing import Any

from rl.config import RunConfig
from tests.chaos.cases import REWARD, Case
from tests.chaos.strikes import LIMIT_S, RAY_LIMIT_S
from tests.processes import PATIENCE_S
from tests.run_kit import tiny

MOST = 50
"""Failures in a row that a run lives through."""
WIDE = {"kind": "scratch", "layers": 1, "width": 64, "heads": 2, "kv_heads": 2, "mlp_width": 64, "context": 96}
"""Large enough for vLLM."""
VLLM: dict[str, Any] = {"model.base": WIDE, "engine.kind": "vllm", "engine.kv_cache_gib": 0.1}
AHEAD: dict[str, Any] = {"overlap": {"mode": "window", "max_staleness": 1}}
LOOPS: dict[str, dict[str, Any]] = {
    "turns": {},
    "bound": {"overlap": {"mode": "window", "max_staleness": 0}},
    "ahead": AHEAD,
    "streamed": {"overlap": {"mode": "on_policy"}, "learner.updates": 1},
    "ranks": {"learner.ranks.shard": 2},
    "vllm": VLLM,
    "recomputed": VLLM | AHEAD | {"engine.in_flight": "recompute"},
    "kept": VLLM | AHEAD | {"engine.in_flight": "keep"},
}
"""What the configuration of each loop has."""


def config_of(case: Case) -> RunConfig:
    """Return the configuration of a case."""
    limit_s = (RAY_LIMIT_S if case.nodes else LIMIT_S) if case.freezes else PATIENCE_S
    base = tiny(
        iterations=6,
        engine={"kind": "hf", "max_model_len": 96, "threads": 1},
        rollout={"groups": 4, "k": 2, "segment_tokens": 12, "max_tokens": 30, "loss_on": "all"},
        reward={"function": f"{REWARD}:reward", "length": {"weight": 0.5, "start_iteration": 2}},
        checkpoint={"every": 2},
        ray={"in_process": not case.nodes},
    )
    limits = dict.fromkeys(("engine.call_timeout_s", "engine.stall_timeout_s", "learner.timeout_s"), limit_s)
    # Where calls that are only late on a busy machine count as failed, no number of them ends the run.
    most = dict.fromkeys(("engine.max_restarts", "learner.ranks.max_restarts", "rollout.max_failures"), MOST)
    tree = base.model_dump(mode="json")
    for key, value in (limits | most | LOOPS[case.loop] | dict(case.changes)).items():
        *way, last = key.split(".")
        section = tree
        for name in way:
            section = section[name]
        section[last] = value
    return RunConfig.model_validate(tree)
