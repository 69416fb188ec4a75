"""A learner of several ranks against one alone: the same losses, gradients and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from learner_kit import learner_spec, make_batch, save_tiny_model
from rank_kit import run_ranks

from rl.config import RanksConfig
from rl.learner.learner import Learner, whole
from rl.learner.ranks import Ranks
from rl.learner.spec import LearnerSpec

LOSSES = 1e-8
"""Largest difference of a loss."""
GRADIENTS = 5e-6
"""Largest difference of a gradient, relative to its parameter's largest."""


def trained(learner: Learner, steps: int = 2) -> dict[str, Any]:
    """What ``steps`` steps on one minibatch show."""
    batch = make_batch()
    found: dict[str, Any] = {"logprobs": learner.logprobs(batch), "losses": [], "norms": []}
    referenced = learner.reference(batch)
    for _ in range(steps):
        step = learner.step(referenced)
        found["losses"].append(step.loss)
        found["norms"].append(step.grad_norm)
        found.setdefault("gradients", gradients(learner))
        found.setdefault("first", step)
    found["scores"] = learner.score([[5, 6, 7], [8], [9, 10, 11, 12, 13]])
    found["weights"] = {name: whole(p.detach()).clone() for name, p in learner.model.named_parameters()}
    return found


def gradients(learner: Learner) -> dict[str, torch.Tensor]:
    found = learner.model.named_parameters()
    return {name: whole(p.grad).clone() for name, p in found if p.grad is not None}


def ranked(rank: int, spec: LearnerSpec, model: Path, mesh: RanksConfig) -> dict[str, Any]:
    learner = Learner(spec, model, Ranks(mesh, "cpu"))
    return trained(learner)


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference relative to the largest value of its tensor.

    A tensor that is rounding in both counts as equal, such as the gradient of a key's bias without rotation.
    """
    assert one.keys() == other.keys()
    noise = 1e-5 * max(tensor.abs().max().item() for tensor in one.values())
    tops = {name: max(one[name].abs().max().item(), other[name].abs().max().item()) for name in one}
    return max((one[name] - other[name]).abs().max().item() / top for name, top in tops.items() if top > noise)


MESHES = [{"shard": 2}, {"replicate": 2}, {"shard": 3}, {"sequence": 2}, {"shard": 2, "sequence": 2}]


@pytest.mark.parametrize("mesh", [RanksConfig(**mesh) for mesh in MESHES], ids=str)
def test_ranks_compute_what_one_alone_does(tmp_path: Path, mesh: RanksConfig) -> None:
    model = save_tiny_model(tmp_path)
    optimizer = {"kind": "adamw", "lr": 1e-3}
    alone = trained(Learner(learner_spec(optimizer=optimizer), model))
    spec = learner_spec(optimizer=optimizer, ranks=mesh.model_dump())
    for found in run_ranks(mesh.size, ranked, spec, model, mesh):
        assert torch.allclose(found["logprobs"], alone["logprobs"], atol=2e-6)
        assert found["losses"] == pytest.approx(alone["losses"], abs=LOSSES)
        assert furthest(alone["gradients"], found["gradients"]) < GRADIENTS
        assert furthest(alone["weights"], found["weights"]) < 1e-4
        print(
            found["losses"],
            alone["losses"],
            furthest(alone["gradients"], found["gradients"]),
            found["norms"],
            alone["norms"],
            furthest(alone["weights"], found["weights"]),
        )
