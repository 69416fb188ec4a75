"""A learner of several ranks against one alone: the same losses, gradients and weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from learner_kit import learner_spec, make_batch, save_tiny_model
from rank_kit import run_ranks

from benchmarks.ranks import parity
from benchmarks.ranks.cases import CASES, Case, save_models, spec_of
from rl.learner.config import RanksConfig
from rl.learner.learner import Learner, NonFiniteGradients, whole
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


def compared(rank: int, models: dict[str, Path], cases: list[Case], mesh: RanksConfig) -> list[parity.Trained]:
    return [parity.on_ranks(case, models[case.model], mesh) for case in cases]


def test_every_objective_trains_on_copies_of_shards_as_in_one_process(tmp_path: Path) -> None:
    """On the same micro-batches the log-probs are the same bits. Four ranks: two copies of two shards."""
    mesh = RanksConfig(replicate=2, shard=2)
    cases = [case for case in CASES if case.model == "tied" or case.lora or case.checkpointing]
    models = save_models(tmp_path, {case.model for case in cases})
    found = run_ranks(mesh.size, compared, models, cases, mesh)
    for index, case in enumerate(cases):
        theirs = [each[index] for each in found]
        assert all(one.losses == theirs[0].losses and one.logprobs.equal(theirs[0].logprobs) for one in theirs)
        result = parity.compare(case, models[case.model], theirs[0])
        assert result["logprobs_equal"], case.name
        assert result["loss"] < LOSSES, case.name
        assert result["gradient"] < GRADIENTS, case.name


def test_layers_are_computed_in_bfloat16_from_weights_in_float32(tmp_path: Path) -> None:
    case, mesh = Case("untied", "cross_entropy", dtype="bfloat16"), RanksConfig(shard=2)
    models = save_models(tmp_path, {"untied"})
    ((theirs,), _) = run_ranks(2, compared, models, [case], mesh)
    alone = parity.trained(Learner(spec_of(case, RanksConfig()), models["untied"]), case)
    exact = parity.trained(Learner(spec_of(replace(case, dtype="float32"), RanksConfig()), models["untied"]), case)
    assert {g.dtype for g in theirs.gradients.values()} == {torch.float32}
    of_ranks, of_one = ((each.logprobs - exact.logprobs).abs().mean() for each in (theirs, alone))
    assert 0 < of_ranks < 1.5 * of_one, "no worse than one process in bfloat16"
    assert parity.gradient_error(alone.gradients, theirs.gradients) < 0.1


def poisoned(rank: int, spec: LearnerSpec, model: Path, mesh: RanksConfig) -> dict[str, Any]:
    """One sequence, which one rank works on, has a loss that is not a number."""
    learner = Learner(spec, model, Ranks(mesh, "cpu"))
    batch = learner.reference(make_batch())
    before = {name: whole(p.detach()).clone() for name, p in learner.model.named_parameters()}
    bad = replace(batch, advantages=batch.advantages.clone())
    bad.advantages[0] = torch.nan
    shares = [
        sorted(index for cut in share for index in cut) for share in learner.passes.shares(bad, learner.objective)
    ]
    skipped = learner.step(bad)
    same = all(whole(p.detach()).equal(before[name]) for name, p in learner.model.named_parameters())
    good = learner.step(batch)
    try:
        for _ in range(3):
            learner.step(bad)
    except NonFiniteGradients as error:
        said = str(error)
    return {"alone": sum(0 in share for share in shares), "skipped": skipped, "same": same, "good": good, "said": said}


def test_one_rank_with_nan_lets_all_skip_the_step_and_too_many_end_the_training(tmp_path: Path) -> None:
    spec = learner_spec(ranks={"shard": 2}, optimizer={"max_bad_steps": 3})
    for found in run_ranks(2, poisoned, spec, save_tiny_model(tmp_path), RanksConfig(shard=2)):
        assert found["alone"] == 1
        assert found["skipped"].skipped
        assert math.isnan(found["skipped"].grad_norm)
        assert found["same"]
        assert not found["good"].skipped
        assert found["said"].startswith("3 optimiser steps in a row had gradients of norm nan")
