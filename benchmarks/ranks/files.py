"""Checkpoints that other numbers of ranks load, and weights as engines get them, as sums of all bytes by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.ranks.cases import Case, batch_of, spec_of
from rl.learner.config import RanksConfig
from rl.learner.learner import Learner, whole
from rl.learner.ranks import Ranks
from rollout.transfer.sender import sender
from rollout.transfer.weights import ShmReader

CASE = Case("mixtral")


def _learner(folder: Path, mesh: RanksConfig | None, case: Case = CASE) -> Learner:
    return Learner(spec_of(case, mesh or RanksConfig()), folder, None if mesh is None else Ranks(mesh, "cpu"))


def train_and_save(folder: Path, mesh: RanksConfig, target: Path) -> dict[str, str]:
    """Take two steps, write a checkpoint, and return the sums of the state."""
    learner = _learner(folder, mesh)
    batch = learner.reference(batch_of(CASE))
    for _ in range(2):
        learner.step(batch)
    learner.save(target)
    learner.saved()
    return sums_of(learner)


def load_and_save(folder: Path, mesh: RanksConfig | None, source: Path, target: Path) -> dict[str, str]:
    """Load a checkpoint into a learner of other ranks, write another one, and return the sums of the state."""
    learner = _learner(folder, mesh)
    learner.load(source)
    learner.save(target)
    learner.saved()
    return sums_of(learner)


def sums_of(learner: Learner) -> dict[str, str]:
    """Return a sum for each weight and each moment of the optimiser."""
    found = {name: p.detach() for name, p in learner.model.named_parameters()}
    for part in (learner.optimizer.muon, learner.optimizer.adamw):
        for name, parameter in learner.model.named_parameters():
            state = part.state.get(parameter, {}) if part is not None else {}
            found |= {f"{name}/{key}": value for key, value in state.items() if torch.is_tensor(value)}
    return {name: _sum(whole(tensor)) for name, tensor in sorted(found.items())}


def published(folder: Path, model: str, mesh: RanksConfig | None) -> dict[str, str]:
    """Publish into shared memory, and return the sums of what an engine reads there; empty but on rank 0."""
    learner = _learner(folder, mesh, Case(model))
    first = learner.ranks is None or learner.ranks.first
    update = sender("shm", 1, "checkpoint", first).send(learner.model, 1)
    if not first:
        return {}
    return {name: _sum(tensor) for name, tensor in _read(update.payload)}


def _read(payload: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    yield from ShmReader().read(payload)


def _sum(tensor: torch.Tensor) -> str:
    data = tensor.detach().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(data).hexdigest()
