"""A broadcast of weights to the engines that are alive, over gloo: who is missing costs a wait, never a hang."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rank_kit import run_ranks
from tiny_models import named_weights, tiny_llama
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

from rollout.engine import WeightUpdate
from rollout.transfer import broadcast
from rollout.transfer.broadcast import LOST, BroadcastLost, Guest, Meeting, bounded, cut
from rollout.transfer.gpu import NcclSender, device_of
from rollout.transfer.weights import ShmReader, TensorSpec, layout, specs_of

CPU = torch.device("cpu")
SHORT_S = 0.5
"""Patience with a peer that does not come."""


def taken(update: WeightUpdate, engine: int, roster: list[int], tp_rank: int = 0) -> dict[str, torch.Tensor]:
    """What one rank of an engine receives."""
    meeting = Meeting(**update.payload["direct"]["nccl"])
    guest = Guest(meeting, *meeting.place(roster, engine, tp_rank), CPU)
    try:
        parts = guest.receive(specs_of(update.payload["tensors"]), update.payload["size"])
        return {name: tensor.clone() for part in parts for name, tensor in part}
    finally:
        guest.close()


class Engines:
    """Engines in threads."""

    def __init__(self, update: WeightUpdate, members: list[tuple[int, int]], roster: list[int]) -> None:
        self.got: dict[tuple[int, int], dict[str, torch.Tensor]] = {}
        self.lost: dict[tuple[int, int], str] = {}
        self._threads = [threading.Thread(target=self._take, args=(update, each, roster)) for each in members]
        for thread in self._threads:
            thread.start()

    def _take(self, update: WeightUpdate, member: tuple[int, int], roster: list[int]) -> None:
        try:
            self.got[member] = taken(update, member[0], roster, member[1])
        except BroadcastLost as error:
            self.lost[member] = str(error)

    def join(self) -> Engines:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        return self


def copied(update: WeightUpdate) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in ShmReader().read(update.payload)}


def equal(found: dict[str, torch.Tensor], model: torch.nn.Module) -> bool:
    truth = dict(named_weights(model))
    return found.keys() == truth.keys() and all(torch.equal(tensor, truth[name]) for name, tensor in found.items())


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setattr("rollout.transfer.gpu.own_address", lambda: "127.0.0.1")
    monkeypatch.setattr(broadcast, "PART_BYTES", 30_000)  # several parts, and one tensor above the limit


@pytest.fixture
def source() -> Any:
    made: list[NcclSender] = []

    def make(ranks: int = 1, patience_s: float = 30.0) -> NcclSender:
        made.append(NcclSender(ranks, patience_s=patience_s))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_every_rank_of_the_engines_alive_gets_every_byte_and_no_group_stays(source: Callable[..., NcclSender]) -> None:
    sender = source(ranks=2)
    for version, roster in ((1, [0, 2]), (2, [2])):  # the second without the engine that died
        model = tiny_llama(seed=version, tied=version == 1)
        update = sender.send(model, version)
        members = [(engine, rank) for engine in roster for rank in range(2)]
        engines = Engines(update, members, roster).join()
        assert not engines.lost
        assert all(equal(engines.got[member], model) for member in members)
        assert equal(copied(update), model)
    assert update.payload["direct"]["nccl"]["name"] == "publish-2"
    sender.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "nccl-publish"]


def test_a_missing_engine_costs_a_wait_and_the_others_take_the_copy(source: Callable[..., NcclSender]) -> None:
    sender, model = source(patience_s=SHORT_S), tiny_llama()
    update = sender.send(model, 1)
    engines = Engines(update, [(0, 0), (2, 0)], [0, 1, 2]).join()
    assert not engines.got
    assert engines.lost.keys() == {(0, 0), (2, 0)}
    assert all(reason.startswith(LOST) and "here/2 did not come" in reason for reason in engines.lost.values())
    assert equal(copied(update), model)
    again = sender.send(model, 2)  # the run goes on
    assert "here/2" in sender.lost
    assert equal(Engines(again, [(0, 0)], [0]).join().got[0, 0], model)


def test_offloaded_shards_are_sent_from_the_device_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engines, which are on GPUs, would meet a learner that talks over gloo."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    module, value = torch.nn.Module(), torch.zeros(2, 2)
    assert device_of(tiny_llama()) == CPU
    for kind, wanted in (("cuda", torch.device("cuda:0")), ("cpu", CPU)):
        mesh = DeviceMesh(kind, [0], _init_backend=False, _rank=0)
        spec = DTensorSpec(mesh, (Shard(0),), tensor_meta=TensorMeta(value.shape, value.stride(), value.dtype))
        module.weight = torch.nn.Parameter(DTensor(value, spec, requires_grad=False), requires_grad=False)
        assert device_of(module) == wanted


def test_nobody_needs_to_come(source: Callable[..., NcclSender]) -> None:
    sender = source()
    first = sender.send(tiny_llama(), 1)
    second = sender.send(tiny_llama(seed=1), 2)
    with pytest.raises(BroadcastLost, match="the learner went on"):
        taken(first, 0, [0])
    assert equal(Engines(second, [(0, 0)], [0]).join().got[0, 0], tiny_llama(seed=1))


def test_the_learner_waits_for_those_who_receive_before_it_leaves(source: Callable[..., NcclSender]) -> None:
    sender, model = source(), tiny_llama()
    update = sender.send(model, 1)
    guest = Guest(Meeting(**update.payload["direct"]["nccl"]), 1, 2, CPU)
    closing = threading.Thread(target=sender.close)
    closing.start()  # while the engine has yet to take the first part
    parts = list(guest.receive(specs_of(update.payload["tensors"]), update.payload["size"]))
    closing.join(30)
    assert not closing.is_alive()
    assert sender.lost == ""
    assert equal({name: tensor for part in parts for name, tensor in part}, model)
    guest.close()


def _one_dies(rank: int, update: WeightUpdate) -> str:
    """Rank 0 is engine 0; rank 1 is engine 1 and is killed between the first part and the last."""
    guest = Guest(Meeting(**update.payload["direct"]["nccl"]), 1 + rank, 3, CPU)
    parts = guest.receive(specs_of(update.payload["tensors"]), update.payload["size"])
    if rank == 1:
        next(parts)
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        return str(len(list(parts)))
    except BroadcastLost as error:
        return str(error)
    finally:
        guest.close()


def test_an_engine_that_is_killed_half_way_does_not_hang_the_learner(source: Callable[..., NcclSender]) -> None:
    sender = source(patience_s=5.0)
    update = sender.send(tiny_llama(hidden_size=256, num_attention_heads=8), 1)
    with pytest.raises(AssertionError, match="died or hung"):
        run_ranks(2, _one_dies, update, limit=60)
    sender.close()
    assert sender.lost.startswith(LOST)


def test_a_learner_that_is_gone_is_a_lost_broadcast() -> None:
    with pytest.raises(BroadcastLost, match="does not answer"):
        Guest(Meeting("127.0.0.1", 1, "publish-1", 1, SHORT_S, 2**20), 1, 2, CPU)


def test_what_has_no_limit_of_its_own_gets_one() -> None:
    never = threading.Event()
    with pytest.raises(BroadcastLost, match="connecting did not end"):
        bounded(never.wait, SHORT_S, "connecting")
    never.set()
    with pytest.raises(BroadcastLost, match="connecting failed: no route"):
        bounded(lambda: (_ for _ in ()).throw(OSError("no route")), 5, "connecting")
    assert bounded(lambda: 3, 5, "counting") == 3


def test_parts_are_whole_tensors_within_the_limit() -> None:
    specs, size = layout([(str(index), torch.zeros(count)) for index, count in enumerate((16, 32, 1000, 8, 8, 8))])
    tied = [*specs, TensorSpec("tied", "float32", (16,), 0)]
    parts = list(cut(tied, size, 256))
    assert [(start, end) for start, end, _ in parts] == [(0, 192), (192, 4224), (4224, size)]
    assert [[spec.name for spec in held] for *_, held in parts] == [["0", "1", "tied"], ["2"], ["3", "4", "5"]]
    assert list(cut(specs, size, size)) == [(0, size, specs)]


def test_ranks_are_counted_over_the_engines_that_are_alive() -> None:
    meeting = Meeting("127.0.0.1", 1, "publish-1", 2, SHORT_S, 2**20)
    assert meeting.place([0, 2, 3], 2, 1) == (4, 7)
    with pytest.raises(BroadcastLost, match="engine 1 is not one of those alive"):
        meeting.place([0, 2], 1, 0)
