"""A learner sharded over a world of one (FSDP2) against the plain one: the same log-probs, and how much slower."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.common import spread
from benchmarks.gpu_check import model
from benchmarks.gpu_check.case import Case, Notes, Options, Row, run_cases
from benchmarks.timing import side_by_side

if TYPE_CHECKING:
    from rl.learner.ranks import Ranks

NEEDS = ("torch", "triton", "numpy", "transformers", "safetensors", "pydantic", "pyarrow", "psutil")
LENGTH, DRY_LENGTH = 16_384, 64
SEQUENCES = 2
SECONDS = 24.0
"""Time for the rounds of steps; 3 % are seen through several of them only."""
MAX_GAP = 0.05
"""Nats, on average: bfloat16 weights of the norms on one side, float32 ones under autocast on the other."""


def alone(options: Options) -> Ranks:
    """Join a world of one."""
    from rl.learner.config import RanksConfig
    from rl.learner.ranks import Seat, join

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    return join(RanksConfig(), options.device, Seat(0, address, timeout_s=60))


def steps(options: Options) -> Row:
    """Whole optimiser steps and forward passes of both, in turn, from the same weights on the same rollouts."""
    import torch.distributed as dist

    length = DRY_LENGTH if options.dry else LENGTH
    plain = model.learner(options, length)
    sharded = model.learner(options, length, alone(options))
    try:
        batch = model.rollouts(options, length, SEQUENCES)
        ways = {"plain": plain, "sharded": sharded}
        gap = (plain.logprobs(batch) - sharded.logprobs(batch)).abs()
        for learner in ways.values():
            learner.begin_iteration()
        limit = 0.0 if options.dry else SECONDS
        works = [partial(learner.first_step, batch) for learner in ways.values()]
        whole = side_by_side(works, options.device, limit, most=12)
        works = [partial(learner.logprobs, batch) for learner in ways.values()]
        forward = side_by_side(works, options.device, limit / 4)
    finally:
        dist.destroy_process_group()
    row: Row = {"length": length, "tokens": length * SEQUENCES}
    for name, step, scored in zip(ways, whole, forward, strict=True):
        row |= {f"{name}_seconds": step.median, f"{name}_spread": spread(step.seconds)}
        row |= {f"{name}_logprobs_seconds": scored.median, f"{name}_peak_mib": round(step.peak_mib, 1)}
    row["slowdown"] = whole[1].median / whole[0].median - 1
    row["logprobs_slowdown"] = forward[1].median / forward[0].median - 1
    row |= {"gap_mean": gap.mean().item(), "gap_max": gap.max().item(), "bound": MAX_GAP}
    return row | {"ok": row["gap_mean"] <= MAX_GAP}


def cases(options: Options) -> Iterator[Case]:
    yield Case("steps", partial(steps, options))


def work(options: Options, notes: Notes) -> None:
    """Measure. Raises ``DeviceLost``."""
    run_cases(cases(options), options, notes)
