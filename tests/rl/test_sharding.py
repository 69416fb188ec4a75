"""Which parts of which models are cut over ranks, and that each computes what it does whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from learner_kit import learner_spec, make_batch, tiny_llama
from rank_kit import run_ranks
from test_ranks import GRADIENTS, furthest, gradients
from torch import nn

from benchmarks.zoo_models import MODELS, save
from rl.learner.config import RanksConfig
from rl.learner.learner import Learner
from rl.learner.policy import PolicyError
from rl.learner.ranks import Ranks
from rl.learner.sharding import check, layers

TRAINED = [model for model in MODELS if not model.refused]
MESH = RanksConfig(shard=2)
SPEC = learner_spec(optimizer={"kind": "adamw"}, ranks=MESH.model_dump(), micro_batch_tokens=150)


def stepped(learner: Learner) -> tuple[float, dict[str, torch.Tensor]]:
    step = learner.step(learner.reference(make_batch()))
    return step.loss, gradients(learner)


def sharded(rank: int, folders: list[Path]) -> list[tuple[float, dict[str, torch.Tensor]]]:
    ranks = Ranks(MESH, "cpu")
    return [stepped(Learner(SPEC, folder, ranks)) for folder in folders]


def test_every_model_that_trains_is_trained_by_two_ranks_as_by_one(tmp_path: Path) -> None:
    """Experts, fused projections, learned positions, windows, a frozen tower: losses and gradients are those of one."""
    folders = [save(model, tmp_path / str(index)) for index, model in enumerate(TRAINED)]
    found = run_ranks(2, sharded, folders)
    spec = learner_spec(optimizer={"kind": "adamw"}, micro_batch_tokens=150)
    for index, model in enumerate(TRAINED):
        learner = Learner(spec, folders[index])
        assert len(layers(learner.model)) >= 2, model.name
        loss, alone = stepped(learner)
        for rank in range(2):
            theirs, shards = found[rank][index]
            assert theirs == pytest.approx(loss, abs=1e-7, rel=1e-6), model.name
            assert furthest(alone, shards) < GRADIENTS, model.name


def test_a_model_with_layers_is_cut_by_them() -> None:
    model = tiny_llama()
    assert layers(model) == [*model.model.layers]


def test_what_no_rule_cuts_is_refused() -> None:
    model = tiny_llama()
    model.model.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(PolicyError, match=r"^model\.scale is a single number"):
        check(model)
    del model.model.scale
    check(model)
    model.model.layers[1].mlp = model.model.layers[0].mlp
    with pytest.raises(PolicyError, match=r"layers\.0\.mlp\.gate_proj\.weight belongs to several layers"):
        check(model)
