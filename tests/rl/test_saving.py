"""A learner's state in both formats, and from any number of ranks to any other."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_model

from rl.learner.config import LoraConfig, ModelConfig, RanksConfig
from rl.learner.host import LearnerHost
from rl.learner.learner import Learner, NonFiniteGradients, whole
from rl.learner.ranks import Ranks
from rl.learner.saving import INDEX, SHARDS, named_tensors
from rl.learner.spec import Receivers
from rl.learner.storage import LoadError, ShardWriter, read_pt
from rl.learner.whole import Whole
from rl.state.checkpoint import RunState, Sum, Writer, latest
from tests.learner_kit import TINY, learner_spec, make_batch, tiny_llama
from tests.rank_kit import run_ranks

OBJECTIVE = """
from rl.objectives.protocol import Head, Loss, Needs, Objective

class Critic(Objective):
    needs = Needs(reference=False, head=Head(1, "tokens"))

    def loss(self, outputs, batch):
        right = batch.advantages[batch.sequence]
        return Loss((outputs.head[:, 0] - right).square().sum() - (right * outputs.logprobs).sum())
"""


@dataclass(frozen=True)
class Case:
    """A learner to save: its model is tied or not, all of it trained or its adapters only; with a head or without; cut
    over ranks or the same on all.
    """

    name: str
    kind: str = "muon"
    tied: bool = True
    lora: bool = False
    head: bool = False
    replicate: bool = False
    mlp_width: int = 48

    def learner(self, folder: Path, seed: int = 0) -> Learner:
        """One of other weights for another ``seed``; of many ranks in a group of processes. Its model lies in
        ``folder``.
        """
        objective = {"objective": {"kind": "python", "path": f"{folder / 'critic.py'}:Critic"}} if self.head else {}
        world = dist.get_world_size() if dist.is_initialized() else 1
        mesh = RanksConfig(replicate=world) if self.replicate else RanksConfig(shard=world)
        optimizer = {"kind": self.kind, "lr": 1e-2, "reset_each_iteration": False}
        spec = learner_spec(ranks=mesh.model_dump(), optimizer=optimizer, **objective)
        lora = LoraConfig(rank=2) if self.lora else None
        spec = replace(spec, model=ModelConfig(base=TINY, threads=1, lora=lora), seed=seed)
        model = folder / f"{self.tied}-{self.mlp_width}-{seed}"
        return Learner(spec, model, Ranks(mesh, "cpu") if mesh.size > 1 else None)


CASES = (Case("tied"), Case("untied", kind="adamw", tied=False, head=True), Case("lora", lora=True, replicate=True))


def train(learner: Learner, iterations: int) -> None:
    for seed in range(iterations):
        learner.train_iteration(make_batch(groups=2), seed)


def everything(learner: Learner) -> dict[str, torch.Tensor]:
    """Every tensor that is saved, whole; collective."""
    named = named_tensors("model", learner.model) | named_tensors("head", learner.head)
    found = {name: tensor for name, (tensor, _) in named.items()}
    found |= learner.saver._optimizer_state(found)
    return {name: whole(tensor).detach().clone() for name, tensor in found.items()}


def save(learner: Learner, folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    learner.save(folder)
    return learner.saved()


def are_sums_of(sums: dict[str, Any], folder: Path) -> bool:
    """Whether these are the sums of all files in ``folder``."""
    data = {path.name: path.read_bytes() for path in folder.iterdir()}
    wanted = {name: Sum(hashlib.sha256(each).hexdigest(), len(each)) for name, each in data.items()}
    return sums == wanted


def equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "critic.py").write_text(OBJECTIVE)
    for tied, width, seed in [(True, 48, 0), (True, 48, 9), (False, 48, 0), (False, 48, 9), (True, 64, 0)]:
        model = tiny_llama(seed, tie_word_embeddings=tied, intermediate_size=width)
        model.save_pretrained(folder / f"{tied}-{width}-{seed}")
    return folder


def train_and_save(rank: int, cases: tuple[Case, ...], models: Path, folder: Path) -> dict[str, Any]:
    """Save each case after an iteration, train on while it is written; tell what was saved and what came after."""
    told = {}
    for case in cases:
        torch.manual_seed(rank)
        learner = case.learner(models)
        train(learner, 1)
        learner.bad_streak = 2
        before = everything(learner)
        (folder / case.name).mkdir(exist_ok=True)
        with held_up() as go_on:
            learner.save(folder / case.name)
            drawn = torch.rand(3)
            train(learner, 1)
            assert learner.saving()
            go_on.set()
            sums = learner.saved()
        assert not learner.saving()
        told[case.name] = (before, everything(learner), sums, drawn)
    return told


@contextmanager
def held_up() -> Iterator[threading.Event]:
    """Writing begins only when the event is set."""
    go_on = threading.Event()

    def late(write: Callable[..., Any]) -> Callable[..., Any]:
        def waits(*args: Any) -> Any:
            go_on.wait()
            return write(*args)

        return waits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardWriter, "write_data", late(ShardWriter.write_data))
        patch.setattr(Whole, "write", late(Whole.write))
        try:
            yield go_on
        finally:
            go_on.set()


def load_each(
    rank: int, cases: tuple[Case, ...], models: Path, folders: list[Path], iterations: int = 0
) -> list[dict[str, Any]]:
    """Load each case from each folder into a learner of other weights; what is there then, and after training on."""
    told = []
    for folder in folders:
        found = {}
        for case in cases:
            learner = case.learner(models, seed=9)
            learner.load(folder / case.name)
            drawn, loaded = torch.rand(3), everything(learner)
            streak, steps = learner.bad_streak, learner.optimizer.steps
            train(learner, iterations)
            found[case.name] = (loaded, everything(learner), streak, drawn, steps)
        told.append(found)
    return told


Saved = tuple[Path, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def saved(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The cases saved by two ranks."""
    folder = tmp_path_factory.mktemp("saved")
    return folder, run_ranks(2, train_and_save, CASES, models, folder)


def test_two_ranks_save_while_they_train_on_and_go_on_bitwise(models: Path, saved: Saved) -> None:
    folder, told = saved
    resumed = run_ranks(2, load_each, CASES, models, [folder], 1)
    for case in CASES:
        before, after, _, drawn = told[0][case.name]
        assert not equal(before, after)
        for (found,) in resumed:
            loaded, trained, streak, draws, steps = found[case.name]
            assert equal(loaded, before), case
            assert equal(trained, after), case
            assert (streak, steps) == (2, 2)
            assert torch.equal(draws, drawn), "the random states of rank 0"


def test_from_two_ranks_to_one_and_from_there_to_three(models: Path, saved: Saved, tmp_path: Path) -> None:
    folder, told = saved
    (alone,) = load_each(0, CASES, models, [folder])
    for case in CASES:
        assert equal(alone[case.name][0], told[0][case.name][0]), case
        learner = case.learner(models, seed=9)
        learner.load(folder / case.name)
        assert are_sums_of(save(learner, tmp_path / case.name), tmp_path / case.name)
        names = {path.name for path in (tmp_path / case.name).iterdir()}
        assert names - {"head.safetensors"} == {"model.safetensors", "optimizer.pt", "random.pt"}
        assert ("head.safetensors" in names) == case.head
    for both in run_ranks(3, load_each, CASES, models, [folder, tmp_path]):
        for found in both:
            assert all(equal(found[case.name][0], told[0][case.name][0]) for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_alone_saves_while_it_trains_on_and_goes_on_bitwise(case: Case, models: Path, tmp_path: Path) -> None:
    """Before, training waited for the disk."""
    ((before, after, sums, drawn),) = train_and_save(0, (case,), models, tmp_path).values()
    assert not equal(before, after)
    assert are_sums_of(sums, tmp_path / case.name)
    (found,) = load_each(0, (case,), models, [tmp_path], 1)
    loaded, trained, streak, draws, steps = found[case.name]
    assert equal(loaded, before)
    assert equal(trained, after)
    assert (streak, steps) == (2, 2)
    assert torch.equal(draws, drawn)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_files_of_one_alone_are_those_that_safetensors_and_torch_write(
    case: Case, models: Path, tmp_path: Path
) -> None:
    learner = case.learner(models)
    train(learner, 1)
    save(learner, tmp_path / "saved")
    save_model(learner.model, str(tmp_path / "model.safetensors"))
    assert (tmp_path / "saved/model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    found, wanted = read_pt(tmp_path / "saved/optimizer.pt")["optimizer"], learner.optimizer.state_dict()
    assert found.keys() == wanted.keys()
    learner.optimizer.reset()
    learner.optimizer.load_state_dict(found)
    assert str(learner.optimizer.state_dict()) == str(wanted)


@contextmanager
def no_room(folder: Path, file: str) -> Iterator[None]:
    """``file`` cannot be written. safetensors puts a new file in the place of what there was: none may grow then."""
    if file != "model.safetensors":
        (folder / file).symlink_to("/dev/full")
        yield
        return
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "random.pt"])
def test_a_full_disk_is_told_when_the_save_is_waited_for(file: str, models: Path, tmp_path: Path) -> None:
    host, folders = host_of(models), [tmp_path / "full", tmp_path / "free"]
    for folder in folders:
        folder.mkdir()
    with no_room(folders[0], file):
        host.save(folders[0])
        with pytest.raises(RuntimeError, match="was not waited for"):
            host.save(folders[1])
        train(host.learner, 1)
        with pytest.raises(OSError, match=r"No space left on device|File too large"):
            host.saved()
    assert not host.saving()
    host.save(folders[1])
    assert are_sums_of(host.saved(), folders[1])
    host.load(folders[1])


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_a_file_that_does_not_read_as_it_was_written_is_no_checkpoint(
    file: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has changed a byte before it is read back."""

    def failing(handle: int, *_: object) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if path.name == file:
            data = bytearray(path.read_bytes())
            data[-40] ^= 1
            path.write_bytes(data)

    host = host_of(models)
    monkeypatch.setattr("os.posix_fadvise", failing)
    host.save(tmp_path)
    with pytest.raises(OSError, match=rf"{file} does not read as it was written; is the disk failing\?"):
        host.saved()


def test_a_checkpoint_of_a_run_lists_the_sums_that_the_learner_made(models: Path, tmp_path: Path) -> None:
    host, since = host_of(models), list[int]()
    with held_up() as go_on, Writer(tmp_path, host, 2, pytest.fail, since.append) as writer:
        writer.begin(RunState(1))
        train(host.learner, 1)
        assert writer.pending is not None
        go_on.set()
    assert since == [1]
    found = latest(tmp_path, pytest.fail)
    assert found is not None
    host.load(found[1])
    assert equal(everything(host.learner), everything(host_of(models).learner))


def host_of(models: Path) -> LearnerHost:
    return LearnerHost(learner_spec(), models / "True-48-0", Receivers("local"))


def test_a_tied_tensor_is_saved_once_and_every_rank_has_a_file(saved: Saved) -> None:
    folder, told = saved
    names = told[0]["tied"][0]
    assert "model/lm_head.weight" not in names
    assert "muon/momentum_buffer/model/model.layers.0.mlp.up_proj.weight" in names
    assert "adamw/exp_avg_sq/model/model.embed_tokens.weight" in names
    files = {path.name: path.stat().st_size for path in (folder / "tied" / SHARDS).iterdir()}
    assert files.keys() == {".metadata", "__0_0.distcp", "__1_0.distcp"}
    sums = told[0]["tied"][2]
    assert {name: each.bytes for name, each in sums.items()} == {f"{SHARDS}/{n}": size for n, size in files.items()}
    for name, each in sums.items():
        assert hashlib.sha256((folder / "tied" / name).read_bytes()).hexdigest() == each.sha256
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
            path.write_bytes(calls_a_program().ljust(path.stat().st_size))
            return (
                r"shards/\.metadata cannot be read \(it names torch\.distributed\.checkpoint\.filesystem\.os\.system\)"
            )
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


def calls_a_program() -> bytes:
    """A pickle that reaches ``os.system`` through a module that metadata may refer to."""
    module, name, argument = (
        b"\x8c" + bytes([len(text)]) + text
        for text in (b"torch.distributed.checkpoint.filesystem", b"os.system", b"touch it-ran")
    )
    return b"\x80\x04" + module + name + b"\x93" + argument + b"\x85R."


HARMS = (
    *("shard missing", "shard cut", "shard rotten", "metadata rotten", "metadata that runs a program"),
    *("index rotten", "later format", "random states missing", "empty"),
)
OTHERS = {
    "another model": Case("tied", tied=False),
    "adapters": Case("tied", lora=True),
    "another width": Case("tied", mlp_width=64),
    "another kind": Case("tied", kind="adamw"),
}


def refusals(rank: int, models: Path, folders: dict[str, Path]) -> dict[str, str]:
    """What this rank says of each folder, and that a good one is loaded afterwards."""
    said = {}
    learner = CASES[0].learner(models)
    for harm in HARMS:
        with pytest.raises(LoadError) as caught:
            learner.load(folders[harm])
        said[harm] = str(caught.value)
    for what, case in OTHERS.items():
        with pytest.raises(LoadError) as caught:
            case.learner(models).load(folders["good"])
        said[what] = str(caught.value)
    learner.load(folders["good"])
    # One rank cannot write, and all hear of it; then they save again.
    folder = folders["unwritable"]
    (folder / SHARDS / "__1_0.distcp").mkdir(parents=True, exist_ok=True)
    dist.barrier()
    learner.save(folder)
    with pytest.raises(RuntimeError, match="was not waited for"):
        learner.save(folder)
    with pytest.raises(IsADirectoryError, match=r"__1_0\.distcp"):
        learner.saved()
    save(learner, folders["again"])
    # NaN on one rank is found by all.
    if rank == 1:
        learner.model.model.layers[1].mlp.up_proj.weight.detach().to_local()[0, 0] = float("nan")
    with pytest.raises(NonFiniteGradients) as found:
        learner.save(folder)
    return said | {"not finite": str(found.value)}


def told_by_a_failing_disk(rank: int, models: Path, folder: Path) -> str:
    """What this rank says when rank 1 cannot read back what it has written, and that both can save afterwards."""

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    learner = CASES[0].learner(models)
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            patch.setattr("os.posix_fadvise", fails)
        learner.save(folder)
        with pytest.raises(OSError, match="Input/output error") as caught:
            learner.saved()
    save(learner, folder)
    return str(caught.value)


def test_a_shard_that_cannot_be_read_back_ends_the_save_of_all_ranks(models: Path, tmp_path: Path) -> None:
    """Before, rank 0 waited for the sums of the other."""
    assert len(set(run_ranks(2, told_by_a_failing_disk, models, tmp_path, limit=60.0))) == 1


def test_what_cannot_be_loaded_is_refused_by_all_ranks_in_one_line(models: Path, saved: Saved, tmp_path: Path) -> None:
    good, words, folders = saved[0] / "tied", {}, {}
    for harm in HARMS:
        folders[harm] = tmp_path / harm.replace(" ", "-")
        shutil.copytree(good, folders[harm])
        words[harm] = damage(folders[harm], harm)
    folders |= {"good": good, "unwritable": tmp_path / "unwritable", "again": tmp_path / "again"}
    words |= {
        "another model": r"state of another model, which lacks model/lm_head\.weight \(1 in all\)",
        "adapters": r"optimiser state of adamw and muon, and this learner's optimiser is adamw$",
        "another width": r"mlp\.\w+_proj\.weight is \[48, 32\] there and \[64, 32\] here$",
        "another kind": r"optimiser state of adamw and muon, and this learner's optimiser is adamw$",
        "not finite": r"^model\.layers\.1\.mlp\.up_proj\.weight has NaN or infinite values",
    }
    one, other = run_ranks(2, refusals, models, folders)
    assert one == other
    for what, pattern in words.items():
        assert re.search(pattern, one[what]), (what, one[what])
        assert "\n" not in one[what]
    assert not list(Path().glob("it-ran"))
    again = CASES[0].learner(models)
    again.load(tmp_path / "again")
    assert again.bad_streak == 2


@pytest.mark.parametrize("file", ["model.safetensors", "head.safetensors", "optimizer.pt", "random.pt"])
@pytest.mark.parametrize("how", ["missing", "rotten"])
def test_a_damaged_file_of_a_learner_alone_is_named(file: str, how: str, models: Path, tmp_path: Path) -> None:
    case = CASES[1]
    save(case.learner(models), tmp_path)
    if how == "rotten":
        (tmp_path / file).write_bytes(b"rotten")
    else:
        (tmp_path / file).unlink()
    with pytest.raises(LoadError) as caught:
        case.learner(models).load(tmp_path)
    assert "\n" not in str(caught.value)
    wanted = "no model.safetensors" if (file, how) == ("model.safetensors", "missing") else f"{file} "
    assert wanted in str(caught.value)


def test_the_state_of_another_learner_alone_is_refused_in_one_line(models: Path, tmp_path: Path) -> None:
    learner = CASES[0].learner(models)
    train(learner, 1)
    save(learner, tmp_path)
    with pytest.raises(LoadError, match=r"optimiser state of adamw and muon, and this learner's optimiser is adamw$"):
        OTHERS["another kind"].learner(models).load(tmp_path)
    with pytest.raises(LoadError, match=r"state of another model, whose adamw steps 6 parameters, not 7"):
        OTHERS["another model"].learner(models).load(tmp_path)
    with pytest.raises(LoadError, match=r"mlp\.\w+_proj\.weight is \[48, 32\] there and \[64, 32\] here"):
        OTHERS["another width"].learner(models).load(tmp_path)


def test_a_learner_that_has_not_stepped_comes_back_as_that(models: Path, tmp_path: Path) -> None:
    save(CASES[0].learner(models), tmp_path)
    stepped, fresh = CASES[0].learner(models, seed=9), CASES[0].learner(models)
    train(stepped, 1)
    stepped.load(tmp_path)
    assert stepped.optimizer.steps == 0
    assert equal(everything(stepped), everything(fresh))
    for learner in (fresh, stepped):
        learner.step(learner.reference(make_batch(groups=2)))
    assert equal(everything(stepped), everything(fresh))


def test_a_file_for_which_there_is_no_memory_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier checkpoint would need as much."""

    def load(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        read_pt(tmp_path / "random.pt")
