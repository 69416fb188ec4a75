"""A run small enough for tests, and what tells that two runs are the same."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors.torch import load_file

from rl.config import RunConfig

OF_THE_MOMENT = ("time/", "throughput/", "memory/", "publish/seconds", "train/reference_s", "idle/", "probe/")
"""Clocks, and the gap of the parity probe: the first one after a death has no new rollouts to look at."""


def tiny(**changes: Any) -> RunConfig:
    base = {
        "iterations": 4,
        "model": {
            "base": {
                "kind": "scratch",
                "layers": 1,
                "width": 16,
                "heads": 2,
                "kv_heads": 2,
                "mlp_width": 32,
                "context": 96,
            },
            "threads": 1,
        },
        "problems": {
            "train": {"kind": "arithmetic", "steps": [2, 2]},
            "heldout": {"kind": "arithmetic", "steps": [2, 2]},
            "heldout_size": 4,
        },
        "warmup": {"examples": 24, "batch_tokens": 256},
        "engine": {"kind": "hf", "max_model_len": 96, "threads": 1},
        "rollout": {"groups": 3, "k": 2, "segment_tokens": 12, "max_tokens": 30, "loss_on": "all"},
        "reward": {"length": {"weight": 0.5, "start_iteration": 2}},
        "learner": {"updates": 2},
        "eval": {"every": 2, "samples": 1},
        "checkpoint": {"every": 1},
        "log": {"live": False},
        "ray": {"in_process": True},
    }
    return RunConfig.model_validate({**base, **changes})


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model" / "model.safetensors")


def tokens(folder: Path) -> list[tuple[str, list[int], list[float | None]]]:
    """Log-probs are ``None`` where the environment wrote, since NaN is never equal."""
    return [
        (row["rollout"], row["token_ids"], [None if isnan(value) else value for value in row["logprobs"]])
        for path in sorted((folder / "rollouts").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]


def assert_same_run(one: Path, other: Path) -> None:
    assert tokens(one) == tokens(other)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the metrics without what no second run repeats."""
    return {name: value for name, value in row.items() if not name.startswith(OF_THE_MOMENT)}
