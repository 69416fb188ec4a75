"""Losses, gradients and log-probs of many ranks and of one process. Bitwise where both take the same micro-batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.ranks.cases import Case, batch_of, objective_of, spec_of
from rl.learner.batch import Batch
from rl.learner.config import RanksConfig
from rl.learner.learner import Learner, whole
from rl.learner.passes import Passes
from rl.learner.ranks import Ranks
from rl.objectives.protocol import Objective

ALONE = RanksConfig()
NOISE = 1e-5
"""Share of the largest gradient below which a whole parameter's is rounding: a key's bias has none, for example."""


class GivenCuts(Passes):
    """Passes of a learner without ranks over the micro-batches of many, one share after the other."""

    micro_batches: list[list[int]]

    def shares(self, minibatch: Batch, objective: Objective) -> list[list[list[int]]]:  # noqa: ARG002
        """Return what was given."""
        return [self.micro_batches]


@dataclass(frozen=True)
class Trained:
    """What two steps on one minibatch show."""

    logprobs: torch.Tensor
    """[L] before the first."""
    losses: tuple[float, ...]
    gradients: dict[str, torch.Tensor]
    """Of the first, by parameter."""
    micro_batches: list[list[int]]
    """Sequences of each micro-batch, of all shares."""


def trained(learner: Learner, case: Case) -> Trained:
    """Take two steps."""
    objective = objective_of(case)
    batch = batch_of(case)
    logprobs = learner.logprobs(batch, objective)
    referenced = replace(batch, reference_logprobs=logprobs)
    shares = learner.passes.shares(batch, objective or learner.objective)
    losses, gradients = [], {}
    for _ in range(2):
        losses.append(learner.step(referenced, objective).loss)
        gradients = gradients or {
            name: whole(p.grad).clone() for name, p in learner.model.named_parameters() if p.grad is not None
        }
    return Trained(logprobs, tuple(losses), gradients, [cut for share in shares for cut in share if cut])


def on_ranks(case: Case, folder: Path, mesh: RanksConfig) -> Trained:
    """Train as one of the ranks of ``mesh``."""
    return trained(Learner(spec_of(case, mesh), folder, Ranks(mesh, "cpu")), case)


def compare(case: Case, folder: Path, theirs: Trained) -> dict[str, Any]:
    """Return how far ranks are from one process: on the same micro-batches, and with those that it would cut."""
    same = Learner(spec_of(case, ALONE), folder)
    same.passes = passes = GivenCuts(same.policy, same.spec, None)
    passes.micro_batches = theirs.micro_batches
    ours, own = trained(same, case), trained(Learner(spec_of(case, ALONE), folder), case)
    return {
        "loss": furthest(ours.losses[:1], theirs.losses[:1]),
        "second_loss": furthest(ours.losses, theirs.losses),
        "gradient": gradient_error(ours.gradients, theirs.gradients),
        "logprobs_equal": ours.logprobs.equal(theirs.logprobs),
        "logprobs": (ours.logprobs - theirs.logprobs).abs().max().item(),
        "own_cut": {
            "loss": furthest(own.losses[:1], theirs.losses[:1]),
            "gradient": gradient_error(own.gradients, theirs.gradients),
            "logprobs": (own.logprobs - theirs.logprobs).abs().max().item(),
        },
        "losses": theirs.losses,
    }


def furthest(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the largest difference."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def gradient_error(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """Return the largest difference relative to the largest gradient of its parameter; rounding is left out."""
    if one.keys() != other.keys():
        raise ValueError(f"gradients of different parameters: {sorted(one.keys() ^ other.keys())}")
    tops = {name: max(one[name].abs().max().item(), other[name].abs().max().item()) for name in one}
    noise = NOISE * max(tops.values())
    return max((one[name] - other[name]).abs().max().item() / top for name, top in tops.items() if top > noise)
