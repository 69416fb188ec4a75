"""Muon on shards against Muon in one process, given equal gradients: the same bits, few bytes, few collectives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from benchmarks.ranks.cases import Case, spec_of
from benchmarks.ranks.counting import Collectives, counted_gathers, state_bytes
from rl.learner.config import RanksConfig
from rl.learner.learner import Learner, whole
from rl.learner.ranks import Ranks
from rl.optim.distributed import ShardedMuon

STEPS = 3


@dataclass(frozen=True)
class Stepped:
    """One process after ``STEPS`` steps."""

    weights: dict[str, torch.Tensor]
    """Matrices by name, whole."""
    elements: int
    """Of all matrices together."""
    state: int
    """Bytes of this rank's momenta."""
    sent: int = 0
    """Bytes that left this rank in the last step."""
    collectives: int = 0
    """In the last step."""
    all_to_alls: int = 0
    buckets: int = 0
    gathers: int = 0
    """Calls of ``full_tensor`` in all steps."""


def step(folder: Path, model: str, mesh: RanksConfig | None, dtype: str) -> Stepped:
    """Step a model's matrices on made-up gradients, as a rank of ``mesh`` or alone. ``dtype``: of Newton-Schulz."""
    ranks = None if mesh is None else Ranks(mesh, "cpu")
    learner = Learner(spec_of(Case(model), mesh or RanksConfig(), ns_dtype=dtype), folder, ranks)
    muon = learner.optimizer.muon
    assert muon is not None
    held = set(muon.param_groups[0]["params"])
    matrices = {name: p for name, p in learner.model.named_parameters() if p in held}
    with counted_gathers() as gathers:
        for number in range(STEPS):
            for index, parameter in enumerate(matrices.values()):
                draw = torch.Generator().manual_seed(1000 * number + index)
                parameter.grad = cut(torch.randn(parameter.shape, generator=draw) * 0.01, parameter)
            with Collectives() as collectives:
                muon.step()
        called = len(gathers)
    weights = {name: whole(p.detach()).clone() for name, p in matrices.items()}
    elements = sum(p.numel() for p in matrices.values())
    counts = collectives.counts
    exchanges = sum(count for name, count in counts.items() if "alltoall" in name.replace("_", ""))
    sent, buckets = (muon.traffic.bytes, len(muon._rounds)) if isinstance(muon, ShardedMuon) else (0, 0)
    return Stepped(weights, elements, state_bytes(muon), sent, counts.total(), exchanges, buckets, called)


def cut(gradient: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
    """Return a whole gradient as ``parameter`` has it: its rows on this rank."""
    if not isinstance(parameter, DTensor):
        return gradient
    mesh = parameter.device_mesh
    rows = gradient.chunk(mesh.size(mesh.ndim - 1))
    place = mesh.get_local_rank(mesh.ndim - 1)
    own = rows[place] if place < len(rows) else gradient[:0]
    return DTensor.from_local(
        own.contiguous(), mesh, parameter.placements, shape=gradient.shape, stride=gradient.stride()
    )


def compare(alone: Stepped, ranks: list[Stepped], itemsize: int, mesh: RanksConfig) -> dict[str, Any]:
    """Return whether all ranks have the weights of one process, and what that cost them.

    ``itemsize``: bytes of an element on the wire.
    """
    first, size = ranks[0], mesh.shard * mesh.sequence
    return {
        "bitwise": all(each.weights[name].equal(alone.weights[name]) for each in ranks for name in alone.weights),
        "matrix_elements": alone.elements,
        "bytes_sent": [each.sent for each in ranks],
        "bytes_allowed": 2 * itemsize * alone.elements // size,
        "collectives": first.collectives,
        "buckets": first.buckets,
        "collectives_per_bucket": first.all_to_alls / max(1, first.buckets),
        "full_tensor_calls": sum(each.gathers for each in ranks),
        "state_bytes": [each.state for each in ranks],
        "adamw_state_bytes": 8 * alone.elements,
    }
