"""One broadcast of weights from a learner to the engines that are alive, in a group made for it. Every wait ends.

    learner                                engine (each of its ranks)
    waits for the first engine             says who belongs to the group, and that it is here
    all here: says how to connect          waits for that
    sends the copy, part by part           takes part by part
    waits until all have said so           says that it has everything
    gives the group up                     gives the group up

Who belongs to it the pool knows, so it comes with the engines. When one of them is missing, or goes away later, all
others raise ``BroadcastLost`` after the time they are given, and take the weights from the copy instead.
CUDA devices talk over NCCL, CPUs over gloo.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from rollout.transfer.weights import LOST, TensorSpec, part_views

T = TypeVar("T")

PATIENCE_S = 30.0
"""Longest wait for a peer: until it has come, or for a part of the weights."""
PART_BYTES = 2**28
"""Weights that are sent at a time; two parts exist on a receiver at once."""
POLL_S = 0.01


class BroadcastLost(RuntimeError):
    """The group of a broadcast was not complete in time, or broke. The weights can be had another way."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason if reason.startswith(LOST) else LOST + reason)


@dataclass(frozen=True)
class Meeting:
    """Where the ranks of one broadcast meet."""

    address: str
    port: int
    """Of the learner's store."""
    name: str
    """Of this broadcast in it."""
    ranks: int
    """GPUs of each engine."""
    patience_s: float
    """Longest wait of an engine for a peer."""
    part_bytes: int
    """Weights that are sent at a time."""

    def place(self, roster: Sequence[int], engine: int, rank: int) -> tuple[int, int]:
        """Return (rank, world size) in the group of rank ``rank`` of ``engine``, when the engines of ``roster`` take
        part. Raises ``BroadcastLost`` for an engine that does not.
        """
        if engine not in roster:
            raise BroadcastLost(f"engine {engine} is not one of those alive at the publish, {list(roster)}")
        return 1 + list(roster).index(engine) * self.ranks + rank, 1 + len(roster) * self.ranks


class Group(Protocol):
    """Connected ranks; rank 0 is the learner."""

    def broadcast(self, tensor: torch.Tensor) -> Callable[[], None]:
        """Begin to send or receive ``tensor``, and return what waits for it; that raises ``BroadcastLost``."""

    def close(self) -> None:
        """Give connections and memory back, whatever state they are in."""


class Host:
    """The learner's end: a store that lives as long as the learner, and a group for each broadcast."""

    def __init__(self, address: str, device: torch.device, ranks: int, patience_s: float = PATIENCE_S) -> None:
        self.address = address
        self.device = device
        self.ranks = ranks
        self.patience_s = patience_s
        self._store = TCPStore(address, 0, is_master=True, wait_for_workers=False)

    def meeting(self, name: str) -> Meeting:
        """Return where engines find the broadcast ``name``."""
        return Meeting(self.address, self._store.port, name, self.ranks, self.patience_s, PART_BYTES)

    def send(self, meeting: Meeting, memory: Any, specs: Sequence[TensorSpec], stopped: Callable[[], bool]) -> bool:
        """Send ``memory`` (a buffer) to the engines that come; False when ``stopped`` says so before the first has.

        Raises ``BroadcastLost``; the engines then do, too.
        """
        store: Any = PrefixStore(meeting.name, self._store)
        try:
            while not store.check(["roster"]):
                if stopped():
                    store.set("off", "the learner went on")
                    return False
                time.sleep(POLL_S)
            world = int(store.get("roster"))
            _wait_for(store, [f"here/{rank}" for rank in range(1, world)], self.patience_s)
            store.set("go", _ticket(self.device))
            group = _connect(store, 0, world, self.device, self.patience_s)
            try:
                whole = torch.frombuffer(memory, dtype=torch.uint8)
                sent: list[tuple[Callable[[], None], torch.Tensor]] = []
                for start, end, _ in cut(specs, len(whole), meeting.part_bytes):
                    part = whole[start:end].to(self.device)
                    sent.append((group.broadcast(part), part))
                    if len(sent) > 1:
                        sent.pop(0)[0]()
                for wait, _ in sent:
                    wait()
                _wait_for(store, [f"done/{rank}" for rank in range(1, world)], self.patience_s)
            finally:
                group.close()
        except BroadcastLost as error:
            store.set("off", str(error))
            raise
        return True


class Guest:
    """An engine rank's end of one broadcast. Joins at once; raises ``BroadcastLost`` when the others do not come."""

    def __init__(self, meeting: Meeting, rank: int, world: int, device: torch.device) -> None:
        limit = timedelta(seconds=meeting.patience_s)
        try:
            self._server = TCPStore(meeting.address, meeting.port, wait_for_workers=False, timeout=limit)
        except RuntimeError as error:  # torch's only type for it
            raise BroadcastLost(f"the learner's store does not answer: {error}") from error
        self._store = PrefixStore(meeting.name, self._server)
        self.meeting = meeting
        self.rank = rank
        self.device = device
        self._store.set(f"here/{rank}", "")
        self._store.set("roster", str(world))
        # Others may come as late as the patience allows after the first; the learner then says whether all did.
        _wait_for(self._store, ["go"], 2 * meeting.patience_s)
        self._group = _connect(self._store, rank, world, device, meeting.patience_s)

    def receive(self, specs: Sequence[TensorSpec], size: int) -> Iterator[list[tuple[str, torch.Tensor]]]:
        """Yield the tensors of each part of the weights, on this rank's device; the next part comes in meanwhile."""
        coming = [(start, held, end - start) for start, end, held in cut(specs, size, self.meeting.part_bytes)]
        begun: list[tuple[Callable[[], None], torch.Tensor]] = []

        def begin(bytes_: int) -> None:
            part = torch.empty(bytes_, dtype=torch.uint8, device=self.device)
            begun.append((self._group.broadcast(part), part))

        for index, (start, held, length) in enumerate(coming):
            if not index:
                begin(length)
            if index + 1 < len(coming):
                begin(coming[index + 1][2])
            wait, part = begun.pop(0)
            wait()
            yield list(part_views(held, part, start))
        self._store.set(f"done/{self.rank}", "")

    def close(self) -> None:
        """Leave the group, also one that broke. Idempotent."""
        self._group.close()


def cut(specs: Sequence[TensorSpec], size: int, most: int) -> Iterator[tuple[int, int, list[TensorSpec]]]:
    """Yield (start, end, tensors) of each part of a buffer of ``size`` bytes: whole tensors, at most ``most`` bytes
    unless one is larger.
    """
    starts = sorted({spec.offset for spec in specs})
    begin = 0
    for start, end in zip(starts, [*starts[1:], size], strict=True):
        if end - begin > most and start > begin:
            yield begin, start, [spec for spec in specs if begin <= spec.offset < start]
            begin = start
    yield begin, size, [spec for spec in specs if spec.offset >= begin]


def _wait_for(store: Any, keys: Sequence[str], patience_s: float) -> None:
    """Wait for ``keys``; raises ``BroadcastLost`` when one does not come, or somebody called the broadcast off."""
    end = time.monotonic() + patience_s
    try:
        while not store.check(list(keys)):
            if store.check(["off"]):
                raise BroadcastLost(store.get("off").decode())
            if time.monotonic() > end:
                missing = [key for key in keys if not store.check([key])]
                raise BroadcastLost(f"{', '.join(missing)} did not come within {patience_s:.0f} s")
            time.sleep(POLL_S)
    except RuntimeError as error:  # torch's only type: the connection to the store broke
        if isinstance(error, BroadcastLost):
            raise
        raise BroadcastLost(f"the learner's store is gone: {error}") from error


def _ticket(device: torch.device) -> bytes:
    """Return what every rank connects by."""
    if device.type != "cuda":
        return b""
    from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary

    return bytes(NCCLLibrary().ncclGetUniqueId().internal)


def _connect(store: Any, rank: int, world: int, device: torch.device, patience_s: float) -> Group:
    """Return the connected group; raises ``BroadcastLost`` when it does not come about in time."""
    kind = NcclGroup if device.type == "cuda" else GlooGroup
    return bounded(lambda: kind(store, rank, world, device, patience_s), patience_s, "connecting")


def bounded(work: Callable[[], T], seconds: float, what: str) -> T:
    """Return what ``work`` returns; raises ``BroadcastLost`` when it fails, or takes longer than ``seconds``.

    In a thread, which is then left behind: NCCL connects with no limit of its own.
    """
    done: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:  # noqa: BLE001  a thread's boundary: raised below
            failed.append(error)

    thread = threading.Thread(target=run, name="broadcast", daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise BroadcastLost(f"{what} failed: {failed[0]}") from failed[0]
    if not done:
        raise BroadcastLost(f"{what} did not end within {seconds:.0f} s")
    return done[0]


class GlooGroup:
    """Between CPUs."""

    def __init__(self, store: Any, rank: int, world: int, device: torch.device, patience_s: float) -> None:
        del device
        limit = timedelta(seconds=patience_s)
        self._group: Any = dist.ProcessGroupGloo(PrefixStore("gloo", store), rank, world, limit)

    def broadcast(self, tensor: torch.Tensor) -> Callable[[], None]:
        """See ``Group``."""
        options = dist.BroadcastOptions()
        options.rootRank = 0
        work = self._group.broadcast([tensor], options)

        def wait() -> None:
            try:
                work.wait()
            except RuntimeError as error:  # torch's only type for a peer that is gone, or a limit
                raise BroadcastLost(f"a part did not arrive: {error}") from error

        return wait

    def close(self) -> None:
        """See ``Group``."""
        self._group = None


class NcclGroup:
    """Between GPUs, on a stream of its own: a peer that went away stops that stream, not the engine's."""

    def __init__(self, store: Any, rank: int, world: int, device: torch.device, patience_s: float) -> None:
        from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator

        self.device = device
        self.patience_s = patience_s
        with torch.cuda.device(device):
            self._stream = torch.cuda.Stream(device)
            self._nccl = PyNcclCommunicator.from_unique_id_bytes(store.get("go"), rank, world, device)
        if self._nccl.disabled:  # it would send nothing, and say nothing
            raise BroadcastLost("VLLM_DISABLE_PYNCCL switches nccl off")

    def broadcast(self, tensor: torch.Tensor) -> Callable[[], None]:
        """See ``Group``."""
        with torch.cuda.device(self.device):
            self._stream.wait_stream(torch.cuda.current_stream(self.device))  # what fills, or last used, the memory
            self._nccl.broadcast(tensor, src=0, stream=self._stream)
            tensor.record_stream(self._stream)
            arrived = torch.cuda.Event()
            arrived.record(self._stream)

        def wait() -> None:
            end = time.monotonic() + self.patience_s
            while not arrived.query():
                if time.monotonic() > end:
                    raise BroadcastLost(f"a part did not arrive within {self.patience_s:.0f} s")
                time.sleep(POLL_S / 10)

        return wait

    def close(self) -> None:
        """See ``Group``: ncclCommAbort, which needs no peer."""
        self._nccl.destroy()
