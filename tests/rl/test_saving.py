"""A learner's state in both formats, and from any number of ranks to any other."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from rl.config import LoraConfig, ModelConfig, OptimizerConfig
from rl.learner.forward import PolicyModel, causal_lm, new_head
from rl.learner.policy import prepare
from rl.learner.saving import INDEX, SHARDS, Saver, first_not_finite, named_tensors
from rl.learner.storage import LoadError, ShardWriter
from rl.objectives.protocol import Head, Needs
from rl.optim.build import build_optimizer
from tests.learner_kit import TINY, make_batch, tiny_llama
from tests.rank_kit import run_ranks

NEEDS = Needs(logprobs=True, head=Head(outputs=3, at="ends"))


@dataclass(frozen=True)
class Case:
    """A policy to save: its model is tied or not, all of it trained or its adapters only."""

    name: str
    kind: str = "adamw"
    tied: bool = True
    lora: bool = False


CASES = (Case("tied"), Case("untied", tied=False), Case("lora", lora=True))


@dataclass
class Trainee:
    """What a learner consists of, as far as saving goes."""

    policy: nn.Module
    optimizer: Any
    saver: Saver

    @classmethod
    def of(cls, model: nn.Module, kind: str, seed: int = 0) -> Self:
        """A trainee of this process's group, or of this process alone where there is none."""
        head = new_head(model, NEEDS.head, seed)
        policy = PolicyModel(model, torch.float32, head)
        if dist.is_initialized():
            mesh = init_device_mesh("cpu", (dist.get_world_size(),))
            for layer in causal_lm(model).model.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(policy, mesh=mesh)
        optimizer = build_optimizer(model, OptimizerConfig(kind=kind, lr=1e-2), head=head)
        return cls(policy, optimizer, Saver(model, head, optimizer))

    def train(self, steps: int) -> None:
        batch = make_batch(groups=2)
        for _ in range(steps):
            self.optimizer.zero_grad()
            outputs = self.policy(batch, NEEDS)
            (outputs.head.square().mean() - outputs.logprobs.mean()).backward()
            self.optimizer.step()

    def whole(self) -> dict[str, torch.Tensor]:
        """Every tensor that is saved, whole; collective."""
        named = named_tensors("model", self.policy.policy) | named_tensors("head", self.policy.head)
        found = {name: tensor for name, (tensor, _) in named.items()}
        found |= self.saver._optimizer_state(found)
        return {n: (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone() for n, t in found.items()}


def build(case: Case, seed: int = 0) -> Trainee:
    lora = LoraConfig(rank=2) if case.lora else None
    model = prepare(tiny_llama(seed, tie_word_embeddings=case.tied), ModelConfig(base=TINY, threads=1, lora=lora), seed)
    return Trainee.of(model, case.kind, seed)


def save(trainee: Trainee, folder: Path, bad_streak: int = 2) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    trainee.saver.start(folder, bad_streak)
    return trainee.saver.wait()


def ranks(world: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """``run_ranks`` with tensors in the results: by value, since the ranks are gone when they are read."""
    return [pickle.loads(result) for result in run_ranks(world, pickled, function, *args)]


def pickled(rank: int, function: Callable[..., Any], *args: Any) -> bytes:
    return pickle.dumps(function(rank, *args))


def equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def train_and_save(rank: int, cases: tuple[Case, ...], folder: Path) -> dict[str, Any]:
    """Save each case after two steps, train on while it is written, and tell what was saved and what came after."""
    told = {}
    for case in cases:
        torch.manual_seed(rank)
        trainee = build(case)
        trainee.train(2)
        before = trainee.whole()
        (folder / case.name).mkdir(exist_ok=True)
        with held_up() as go_on:
            trainee.saver.start(folder / case.name, bad_streak=2)
            drawn = torch.rand(3)
            trainee.train(1)
            assert trainee.saver.saving()
            go_on.set()
            sums = trainee.saver.wait()
        assert not trainee.saver.saving()
        told[case.name] = (before, trainee.whole(), sums, drawn)
    return told


@contextmanager
def held_up() -> Iterator[threading.Event]:
    """Writing begins only when the event is set."""
    go_on, write = threading.Event(), ShardWriter.write_data

    def late(*args: Any) -> Any:
        go_on.wait()
        return write(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardWriter, "write_data", late)
        try:
            yield go_on
        finally:
            go_on.set()


def load_each(rank: int, cases: tuple[Case, ...], folder: Path, steps: int = 0) -> dict[str, Any]:
    """Load each case into fresh policies of other weights; what is there then, and after ``steps`` more."""
    told = {}
    for case in cases:
        trainee = build(case, seed=9)
        streak = trainee.saver.load(folder / case.name)
        drawn, loaded = torch.rand(3), trainee.whole()
        trainee.train(steps)
        told[case.name] = (loaded, trainee.whole(), streak, drawn, trainee.optimizer.steps)
    return told


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The cases saved by two ranks."""
    folder = tmp_path_factory.mktemp("saved")
    return folder, ranks(2, train_and_save, CASES, folder)


def test_two_ranks_save_while_they_train_on_and_go_on_bitwise(saved: Any) -> None:
    folder, told = saved
    resumed = ranks(2, load_each, CASES, folder, 1)
    for case in CASES:
        before, after, _, drawn = told[0][case.name]
        assert not equal(before, after)
        for rank in (0, 1):
            loaded, trained, streak, draws, steps = resumed[rank][case.name]
            assert equal(loaded, before), case
            assert equal(trained, after), case
            assert (streak, steps) == (2, 3)
            assert torch.equal(draws, drawn), "the random states of rank 0"


def test_from_two_ranks_to_one_and_from_there_to_three(saved: Any, tmp_path: Path) -> None:
    folder, told = saved
    for case in CASES:
        before = told[0][case.name][0]
        loaded, *_ = load_each(0, (case,), folder)[case.name]
        assert equal(loaded, before), case
        alone = build(case, seed=5)
        alone.saver.load(folder / case.name)
        assert save(alone, tmp_path / "alone" / case.name) == {}
        names = {path.name for path in (tmp_path / "alone" / case.name).iterdir()}
        assert names == {"model.safetensors", "head.safetensors", "optimizer.pt", "random.pt"}
    for both in ranks(3, load_each_of, CASES, [folder, tmp_path / "alone"]):
        for found in both:
            assert all(equal(found[case.name][0], told[0][case.name][0]) for case in CASES)


def load_each_of(rank: int, cases: tuple[Case, ...], folders: list[Path]) -> list[dict[str, Any]]:
    return [load_each(rank, cases, folder) for folder in folders]


def test_a_tied_tensor_is_saved_once_and_every_rank_has_a_file(saved: Any) -> None:
    folder, told = saved
    before = told[0]["tied"][0]
    assert "model/lm_head.weight" not in before
    files = {path.name: path.stat().st_size for path in (folder / "tied" / SHARDS).iterdir()}
    assert files.keys() == {".metadata", "__0_0.distcp", "__1_0.distcp"}
    sums = told[0]["tied"][2]
    assert {name: each.bytes for name, each in sums.items()} == {f"{SHARDS}/{n}": size for n, size in files.items()}
    assert told[1]["tied"][2] == {}


def damage(folder: Path, harm: str) -> str:
    """Do what may happen to a state in ``folder``; return what the refusal must say."""
    shard = folder / SHARDS / "__1_0.distcp"
    match harm:
        case "shard missing":
            shard.unlink()
            return r"shards/__1_0\.distcp is missing, the shard of a rank"
        case "shard cut":
            shard.write_bytes(shard.read_bytes()[:-100])
            return r"shards/__1_0\.distcp has \d+ bytes instead of \d+"
        case "shard rotten":
            shard.write_bytes(bytes(shard.stat().st_size))
            return r"shards/__1_0\.distcp cannot be read"
        case "metadata rotten":
            path = folder / SHARDS / ".metadata"
            path.write_bytes(bytes(path.stat().st_size))
            return r"shards/\.metadata cannot be read"
        case "metadata that runs a program":
            path = folder / SHARDS / ".metadata"
            path.write_bytes(pickle.dumps(Runs(), protocol=2).ljust(path.stat().st_size))
            return r"shards/\.metadata cannot be read \(it names (posix|os)\.system\)"
        case "index rotten":
            (folder / INDEX).write_text("{}")
            return r"learner\.json: not what k15 wrote \(KeyError: 'format'\)"
        case "later format":
            index = json.loads((folder / INDEX).read_text())
            (folder / INDEX).write_text(json.dumps(index | {"format": 2}))
            return r"learner\.json: format 2, this version of k15 reads 1"
        case "random states missing":
            (folder / "random.pt").unlink()
            return r"random\.pt is missing"
        case "empty":
            shutil.rmtree(folder)
            folder.mkdir()
            return r"no learner's state in a format of this version"
    raise ValueError(harm)


class Runs:
    def __reduce__(self) -> Any:
        return os.system, ("touch it-ran",)


HARMS = (
    *("shard missing", "shard cut", "shard rotten", "metadata rotten", "metadata that runs a program"),
    *("index rotten", "later format", "random states missing", "empty"),
)
OTHERS = {"model": Case("tied", tied=False), "adapters": Case("tied", lora=True)}


def refusals(rank: int, folders: dict[str, Path]) -> dict[str, str]:
    """What this rank says of each folder, and that a good one is loaded afterwards."""
    said = {}
    trainee = build(CASES[0])
    for harm in HARMS:
        with pytest.raises(LoadError) as caught:
            trainee.saver.load(folders[harm])
        said[harm] = str(caught.value)
    for what, case in OTHERS.items():
        with pytest.raises(LoadError) as caught:
            build(case).saver.load(folders["good"])
        said[what] = str(caught.value)
    trainee.saver.load(folders["good"])
    # One rank cannot write, and all hear of it; then they save again.
    folder = folders["unwritable"]
    (folder / SHARDS / "__1_0.distcp").mkdir(parents=True, exist_ok=True)
    dist.barrier()
    trainee.saver.start(folder, 0)
    with pytest.raises(RuntimeError, match="was not waited for"):
        trainee.saver.start(folder, 0)
    with pytest.raises(IsADirectoryError, match=r"__1_0\.distcp"):
        trainee.saver.wait()
    save(trainee, folders["again"])
    # NaN on one rank is found by all.
    parameter = trainee.policy.policy.model.layers[1].mlp.up_proj.weight
    if rank == 1:
        parameter.detach().to_local()[0, 0] = float("nan")
    said["not finite"] = first_not_finite(trainee.policy.policy)
    return said


def test_what_cannot_be_loaded_is_refused_by_all_ranks_in_one_line(saved: Any, tmp_path: Path) -> None:
    good, words, folders = saved[0] / "tied", {}, {}
    for harm in HARMS:
        folders[harm] = tmp_path / harm.replace(" ", "-")
        shutil.copytree(good, folders[harm])
        words[harm] = damage(folders[harm], harm)
    folders |= {"good": good, "unwritable": tmp_path / "unwritable", "again": tmp_path / "again"}
    words["model"] = r"state of another model, which lacks model/lm_head\.weight \(1 in all\)"
    words["adapters"] = r"state of another model, which lacks model/base_model\."
    words["not finite"] = r"^model\.layers\.1\.mlp\.up_proj\.weight$"
    one, other = ranks(2, refusals, folders)
    assert one == other
    for what, pattern in words.items():
        assert re.search(pattern, one[what]), (what, one[what])
        assert "\n" not in one[what]
    assert not list(Path().glob("it-ran"))
    assert build(CASES[0]).saver.load(tmp_path / "again") == 0


@pytest.mark.parametrize("file", ["model.safetensors", "head.safetensors", "optimizer.pt", "random.pt"])
@pytest.mark.parametrize("how", ["missing", "rotten"])
def test_a_damaged_file_of_a_learner_alone_is_named(file: str, how: str, tmp_path: Path) -> None:
    save(build(CASES[0]), tmp_path)
    if how == "rotten":
        (tmp_path / file).write_bytes(b"rotten")
    else:
        (tmp_path / file).unlink()
    with pytest.raises(LoadError) as caught:
        build(CASES[0]).saver.load(tmp_path)
    assert "\n" not in str(caught.value)
    wanted = "no model.safetensors" if (file, how) == ("model.safetensors", "missing") else f"{file} "
    assert wanted in str(caught.value)


def test_the_state_of_another_learner_is_refused_in_one_line(tmp_path: Path) -> None:
    trained = build(Case("muon", kind="muon"))
    trained.train(1)
    save(trained, tmp_path)
    with pytest.raises(LoadError, match=r"optimiser state of adamw and muon, and this learner's optimiser is adamw$"):
        build(Case("adamw")).saver.load(tmp_path)
    with pytest.raises(LoadError, match=r"state of another model, whose adamw steps 8 parameters, not 9"):
        build(Case("muon", kind="muon", tied=False)).saver.load(tmp_path)
    wider = Trainee.of(tiny_llama(intermediate_size=64), "muon")
    with pytest.raises(LoadError, match=r"mlp\.\w+_proj\.weight is \[48, 32\] there and \[64, 32\] here"):
        wider.saver.load(tmp_path)


def test_a_learner_that_has_not_stepped_comes_back_as_that(tmp_path: Path) -> None:
    save(build(CASES[0]), tmp_path, bad_streak=0)
    stepped = build(CASES[0], seed=3)
    stepped.train(2)
    assert stepped.saver.load(tmp_path) == 0
    assert stepped.optimizer.steps == 0
    assert not stepped.optimizer.adamw.state
    fresh = build(CASES[0])
    fresh.train(1)
    stepped.train(1)
    assert equal(stepped.whole(), fresh.whole())
