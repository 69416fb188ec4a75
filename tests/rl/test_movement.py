"""The watch over the first optimiser step."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor.debug import CommDebugMode

from rl.learner.config import LoraConfig, ModelConfig
from rl.learner.learner import Learner
from rl.learner.movement import Unmoved, Watch
from rl.learner.spec import LearnerSpec
from tests.learner_kit import TINY, make_batch, run_config, save_tiny_model
from tests.rank_kit import run_ranks


class Model(torch.nn.Module):
    """Two experts, of which one is used, beside a matrix."""

    def __init__(self):
        super().__init__()
        self.matrix = torch.nn.Linear(3, 3)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(3, 3, bias=False) for _ in range(2))

    def loss(self):
        return self.experts[0](self.matrix(torch.ones(3))).sum()


def stepped(model, lr=0.1, forget=(), frozen=()):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    watch = Watch(model)
    model.loss().backward()
    watch.before()
    kept = [p for name, p in model.named_parameters() if name not in forget and p.requires_grad]
    torch.optim.SGD(kept, lr=lr).step()
    watch.after(lr)


def test_a_step_that_moves_everything_passes_and_experts_count_as_one():
    stepped(Model())
    stepped(Model(), frozen=("matrix.bias",))


def test_a_parameter_that_the_optimiser_forgot_is_named():
    with pytest.raises(Unmoved, match=r"matrix\.weight did not change in the first step, though there was a gradient"):
        stepped(Model(), forget=("matrix.weight",))
    stepped(Model(), forget=("matrix.weight",), lr=1e-9)  # no step of that size could show


def test_a_parameter_that_no_gradient_reached_is_named():
    model = Model()
    model.unused = torch.nn.Linear(2, 2)
    with pytest.raises(Unmoved, match=r"unused\.weight, unused\.bias got no gradient"):
        stepped(model)


class Rows(Model):
    """A parameter of which the last ranks have no row, and one whose gradient only the first rank can see."""

    def __init__(self):
        super().__init__()
        self.short = torch.nn.Parameter(torch.ones(2, 3))
        self.table = torch.nn.Embedding(6, 3)

    def loss(self):
        return super().loss() + self.short.sum() + self.table(torch.tensor([0, 1])).sum()


def stepped_on_shards(rank, forgetful, unused):
    model = Rows()
    if unused:
        model.unused = torch.nn.Linear(2, 2)
    register_fsdp_forward_method(fully_shard(model), "loss")
    watch = Watch(model)
    try:
        model.loss().backward()
        kept = [p for name, p in model.named_parameters() if rank not in forgetful.get(name, ())]
        with CommDebugMode() as first:
            watch.before()
        torch.optim.SGD(kept, lr=0.1).step()
        with CommDebugMode() as second:
            watch.after(0.1)
    except Unmoved as error:
        return str(error)
    return first.get_total_counts(), second.get_total_counts()


@pytest.mark.parametrize(
    ("forgetful", "unused", "result"),
    [
        ({}, False, (1, 1)),
        ({"matrix.weight": [1], "short": [0]}, False, (1, 1)),
        ({"matrix.weight": [0, 1, 2], "short": [0, 1, 2], "table.weight": [0]}, False, "short, matrix.weight, table"),
        ({}, True, "unused.weight, unused.bias got no gradient"),
    ],
)
def test_ranks_agree_on_what_moved(forgetful, unused, result):
    """A parameter that moved on one rank has moved; all ranks say the same, after one sum before and one after."""
    results = run_ranks(3, stepped_on_shards, forgetful, unused)
    assert len(set(results)) == 1
    assert results[0] == result or results[0].startswith(result)


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)], ids=["full", "lora"])
def test_the_learner_looks_at_its_first_step_with_a_signal(tmp_path, monkeypatch, lora):
    config = run_config()
    config = config.model_copy(update={"model": ModelConfig(base=TINY, threads=1, lora=lora)})
    Learner(LearnerSpec.of(config), save_tiny_model(tmp_path)).train_iteration(make_batch(), seed=0)

    learner = Learner(LearnerSpec.of(config), tmp_path)
    monkeypatch.setattr(learner.optimizer, "step", lambda lr: None)
    learner.optimizer.last_lr = 1e-3
    with pytest.raises(Unmoved, match="did not change"):
        learner.train_iteration(make_batch(), seed=0)
    learner.train_iteration(make_batch(), seed=0)  # looked at once
