"""A learner that leaves its device between two calls: nothing is left there, and it trains on bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from learner_kit import learner_spec, make_batch, make_groups, save_tiny_model, weights
from rank_kit import run_ranks

from rl.learner.config import RanksConfig
from rl.learner.held import held
from rl.learner.host import LearnerHost
from rl.learner.learner import Learner
from rl.learner.ranks import Ranks
from rl.learner.spec import Receivers
from rl.optim.shards import local
from rollout.offload import Offload, storages

ADVANTAGES = [[-0.6, 0.5, -0.4, 0.5]] * 6
KEYS: list[dict[str, Any]] = [
    {"optimizer": {"reset_each_iteration": False}},
    {"optimizer": {"kind": "adamw", "reset_each_iteration": False}},
    {"optimizer": {"momentum_dtype": "bfloat16", "reset_each_iteration": False}},
]


def host(folder: Path, keys: dict[str, Any]) -> LearnerHost:
    made = LearnerHost(learner_spec(**keys), folder, Receivers("local"))
    for parameter in made.learner.policy.parameters():
        parameter.data = parameter.data.clone()  # files may be mapped, and such memory cannot be given back
    return made


def trained(made: LearnerHost, moves: bool) -> tuple[list[Any], dict[str, torch.Tensor]]:
    """Two iterations; with ``moves`` the learner leaves its device before and after everything."""
    found: list[Any] = []
    for version in (3, 4):
        for work in (
            lambda version=version: made.train(make_groups(version=version), ADVANTAGES, version).steps,
            lambda: made.score([[5, 6, 7], [8, 9]]),
            lambda version=version: made.publish(version).version,
        ):
            if moves:
                made.offload()
                made.onload()
            found.append(work())
    return found, {name: p.detach().clone() for name, p in made.learner.policy.named_parameters()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.parametrize("keys", KEYS, ids=["muon", "adamw", "bfloat16"])
def test_a_learner_that_leaves_and_comes_back_trains_on_bit_for_bit(folder: Path, keys: dict[str, Any]) -> None:
    (stayed, ours), (moved, theirs) = (trained(host(folder, keys), moves) for moves in (False, True))
    assert stayed == moved
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_nothing_of_a_learner_stays_on_its_device(folder: Path) -> None:
    """Nor does what the last step was made of, which nobody needs."""
    made = host(folder, KEYS[0])
    made.train(make_groups(), ADVANTAGES, 3)
    learner = made.learner
    state = [*learner.policy.parameters(), *learner.optimizer.tensors()]
    size = sum(storage.nbytes() for storage in storages(state, "cpu"))
    assert size > 2 * sum(p.nbytes for p in learner.parameters) - 100
    assert any(p.grad is not None for p in learner.parameters)
    made.offload()
    assert storages(held(learner), "cpu") == []
    assert all(p.grad is None for p in learner.parameters)
    assert made._offload.bytes >= size
    made.onload()
    assert sum(storage.nbytes() for storage in storages(state, "cpu")) == size


def test_gradients_that_a_step_is_still_to_take_come_back(folder: Path) -> None:
    halves = make_groups()[:3], make_groups()[3:]
    found = []
    for moves in (False, True):
        made = host(folder, {"updates": 1, **KEYS[0]})
        for half in halves:
            made.accumulate(half, ADVANTAGES[:3], 3)
            if moves:
                made.offload()
                assert storages(held(made._present), "cpu") == []
                made.onload()
        stats = made.close_iteration(3)
        found.append((stats.steps, {name: p.detach().clone() for name, p in made.learner.model.named_parameters()}))
    (stayed, ours), (moved, theirs) = found
    assert stayed == moved
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_a_learner_in_host_memory_does_nothing_but_finish_a_save(folder: Path, tmp_path: Path) -> None:
    made = host(folder, KEYS[0])
    made.train(make_groups(), ADVANTAGES, 3)
    before = weights(made.learner.model)
    made.save(tmp_path)
    made.offload()
    made.saved()
    for use in (
        lambda: made.train(make_groups(), ADVANTAGES, 3),
        lambda: made.publish(3),
        lambda: made.score([[5, 6]]),
        lambda: made.save(tmp_path),
        lambda: made.export(tmp_path),
    ):
        with pytest.raises(RuntimeError, match="in host memory; onload"):
            use()
    made.onload()
    made.train(make_groups(version=4), ADVANTAGES, 4)
    made.load(tmp_path)
    assert all(before[name].equal(value) for name, value in weights(made.learner.model).items())


def test_another_learner_starts_on_the_device(folder: Path) -> None:
    made = host(folder, KEYS[0])
    expected = made.score([[5, 6, 7]])
    made.offload()
    made.replace(learner_spec(**KEYS[0]), folder)
    assert made.score([[5, 6, 7]]) == expected


def test_an_iteration_tells_what_its_turn_cost(folder: Path) -> None:
    made = host(folder, KEYS[0])
    names = {"hybrid/offload_s", "hybrid/onload_s", "hybrid/bytes"}
    assert not names & made.train(make_groups(), ADVANTAGES, 3).metrics.keys()
    made.offload()
    made.onload()
    metrics = made.train(make_groups(version=4), ADVANTAGES, 4).metrics
    assert names <= metrics.keys()
    assert metrics["hybrid/bytes"] > 0


def sharded(_rank: int, folder: Path) -> tuple[list[list[Any]], list[dict[str, torch.Tensor]], list[int]]:
    """Steps and this rank's weights of a learner that stays and of one that leaves, and what that leaves there."""
    found: tuple[list[Any], list[Any], list[int]] = ([], [], [])
    for moves in (False, True):
        learner = Learner(learner_spec(**KEYS[0], ranks={"shard": 2}), folder, Ranks(RanksConfig(shard=2), "cpu"))
        lodged = Offload("cpu", lambda learner=learner: held(learner))
        steps = []
        for seed in range(3):
            if moves:
                lodged.away()
                found[2].append(sum(storage.nbytes() for storage in storages(held(learner), "cpu")))
                lodged.back()
            steps.append(learner.train_iteration(make_batch(seed=seed), (0, seed)).steps)
        found[0].append(steps)
        found[1].append({name: local(p).clone() for name, p in learner.model.named_parameters()})
    return found


def test_shards_leave_their_device_and_come_back_as_they_were(folder: Path) -> None:
    for steps, (ours, theirs), left in run_ranks(2, sharded, folder):
        assert steps[0] == steps[1]
        assert all(ours[name].equal(theirs[name]) for name in ours)
        assert left == [0, 0, 0]


@pytest.mark.gpu
def test_a_learner_leaves_a_gpu_and_comes_back(folder: Path) -> None:
    """All of it but what libraries keep, and with the same bits. (Sums on a GPU may come out otherwise every time.)"""
    spec = learner_spec(**KEYS[0])
    spec = replace(spec, model=spec.model.model_copy(update={"device": "cuda"}))
    there = torch.cuda.memory_allocated()
    made = LearnerHost(spec, folder, Receivers("shm"))
    made.train(make_groups(), ADVANTAGES, 3)
    made.learner.drop_spent()
    before = [tensor.detach().cpu() for tensor in held(made.learner)]
    size = sum(storage.nbytes() for storage in storages(held(made.learner), "cuda"))
    made.offload()
    assert storages(held(made._present), "cuda") == []
    assert torch.cuda.memory_allocated() - there < 0.1 * size + 2**24
    made.onload()
    assert all(torch.equal(tensor.cpu(), kept) for tensor, kept in zip(held(made.learner), before, strict=True))
    assert made.train(make_groups(version=4), ADVANTAGES, 4).metrics["steps/done"] == 2
