"""What a rank keeps and needs at most, and what its processes tell each other, for a model that is not tiny."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.ranks.cases import Case, batch_of, objective_of, spec_of
from benchmarks.ranks.counting import Collectives, local, state_bytes
from rl.learner.config import RanksConfig
from rl.learner.learner import Learner
from rl.learner.ranks import Ranks

SIZES = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6,
         "num_key_value_heads": 2, "vocab_size": 4096, "max_position_embeddings": 256, "tie_word_embeddings": False,
         "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}  # fmt: skip


@dataclass(frozen=True)
class Kept:
    """One rank's memory in bytes, and the collectives of a step."""

    parameters: int
    gradients: int
    optimizer: int
    peak: int
    """More than before the step, at the most, while the second step runs."""
    collectives: dict[str, int]
    largest_layer: int
    """Of one whole layer's parameters."""


def save(folder: Path) -> Path:
    """Write the model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    return folder


def measure(folder: Path, mesh: RanksConfig | None) -> Kept:
    """Take two steps as a rank of ``mesh`` or alone."""
    ranks = None if mesh is None else Ranks(mesh, "cpu")
    case = Case("large", "cross_entropy")
    learner = Learner(spec_of(case, mesh or RanksConfig()), folder, ranks)
    whole_layer = sum(p.numel() * 4 for p in learner.model.model.layers[0].parameters())
    batch, objective = batch_of(case), objective_of(case)
    learner.step(batch, objective)
    before = settled()
    with Collectives() as counted:
        learner.step(batch, objective)
    peak = highest() - before
    parameters = [*learner.model.parameters()]
    optimizers = [part for part in (learner.optimizer.muon, learner.optimizer.adamw) if part is not None]
    return Kept(
        parameters=sum(local(p.detach()).nbytes for p in parameters),
        gradients=sum(local(p.grad).nbytes for p in parameters if p.grad is not None),
        optimizer=sum(map(state_bytes, optimizers)),
        peak=peak,
        collectives=dict(counted.counts),
        largest_layer=whole_layer,
    )


def row(ranks: list[Kept]) -> dict[str, Any]:
    """Return what all ranks have measured."""
    kept = [each.parameters + each.gradients + each.optimizer for each in ranks]
    return {
        "part": "memory",
        "kept": sum(kept),
        "kept_by_rank": kept,
        "parameters": [each.parameters for each in ranks],
        "optimizer": [each.optimizer for each in ranks],
        "peak_beyond": [each.peak for each in ranks],
        "largest_layer": ranks[0].largest_layer,
        "collectives": ranks[0].collectives,
    }


def settled() -> int:
    """Forget the highest memory use so far; return the present one in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def highest() -> int:
    """Return the highest memory use since ``settled``, in bytes."""
    return _status("VmHWM")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found.group(1))
