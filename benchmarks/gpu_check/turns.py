"""A learner that leaves the GPU to engines and comes back: what of it stays, and how long both ways take."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.gpu_check import model
from benchmarks.gpu_check.case import Options, Row

LENGTH, DRY_LENGTH = 16_384, 64
TURNS = 3
"""The first one makes the host's memory, too, and is told apart."""
MOST_LEFT = 0.01
"""Of its state, what may stay on the device: workspaces of libraries, tables of positions."""


def turns(options: Options) -> Row:
    """Bytes and seconds of both ways, what stays on the device, and whether the weights are the same bits after it."""
    from rl.learner.held import held
    from rollout.offload import Offload, storages

    cuda, length = options.device == "cuda", DRY_LENGTH if options.dry else LENGTH
    learner = model.learner(options, length)
    learner.first_step(model.rollouts(options, length, 2))
    with torch.no_grad():
        for parameter in learner.parameters:
            parameter.data = parameter.data.clone()  # in the dry mode they are mapped files, which stay where they are
    before = [parameter.detach().cpu().clone() for parameter in learner.parameters]
    lodged = Offload(options.device, lambda: held(learner))
    away, back, left, size = [], [], [], 0
    for _ in range(TURNS):
        away.append(_seconds(lodged.away, cuda))
        size = lodged.bytes
        left.append(torch.cuda.memory_allocated() if cuda else sum(s.nbytes() for s in storages(held(learner), "cpu")))
        back.append(_seconds(lodged.back, cuda))
    same = all(torch.equal(p.detach().cpu(), kept) for p, kept in zip(learner.parameters, before, strict=True))
    return {
        "bytes": size,
        "first_away_seconds": away[0],
        "away_seconds": min(away[1:]),
        "back_seconds": min(back[1:]),
        "away_gb_per_s": size / min(away[1:]) / 1e9,
        "back_gb_per_s": size / min(back[1:]) / 1e9,
        "left_bytes": max(left),
        "reserved_bytes": torch.cuda.memory_reserved() - size if cuda else None,
        "same": same,
        "ok": same and max(left) <= MOST_LEFT * size,
    }


def _seconds(work: Callable[[], None], cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
