"""A learner's state on disk, written from a copy in host memory while it trains on: whole, or in shards of its ranks.

alone         model.safetensors, head.safetensors, optimizer.pt, random.pt
many ranks    shards/ (a file of each rank), random.pt of rank 0, learner.json, which comes last

Any number of ranks loads either. A tensor's name is ``model/NAME`` or ``head/NAME`` (parameters and persistent
buffers), or ``PART/KEY/model/NAME`` for the optimiser's state; its parts are ``muon`` and ``adamw``. A parameter that
was not stepped has no state. How the optimiser was configured is not in it: that is the configuration's to say.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from rl.learner.random_states import random_states, restore
from rl.learner.storage import LoadError, ShardReader, ShardWriter, read_pt
from rl.learner.whole import MODEL, RANDOM, Whole, WholeReader
from rl.optim.build import PolicyOptimizer
from rl.optim.shards import local
from rl.state.checkpoint import Sum

FORMAT = 1
"""Of ``learner.json``."""
INDEX = "learner.json"
SHARDS = "shards"
PATIENCE = timedelta(days=1)
"""Of a rank that has written, with one that still writes. A dead one ends it at once, and the driver has a limit."""
SECTIONS = ("model", "head")

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """What a learner carries on besides tensors and random states."""

    parts: list[str]
    """The optimiser's parts, sorted."""
    steps: int
    """Its steps since its last reset."""
    bad_streak: int
    """Steps with non-finite gradients in a row."""


def named_tensors(section: str, module: nn.Module | None) -> dict[str, tuple[torch.Tensor, list[str]]]:
    """Return parameters and persistent buffers by name, tied ones once, and all of the names that each has.

    A state dict is asked for them: FSDP2 always shows its shards there, and nowhere else.
    """
    found: dict[int, tuple[torch.Tensor, list[str]]] = {}
    for name, tensor in {} if module is None else module.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), (tensor, []))[1].append(f"{section}/{name}")
    return {names[0]: (tensor, names) for tensor, names in found.values()}


def is_sharded(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Return whether several ranks hold these tensors."""
    return any(isinstance(tensor, DTensor) for tensor in tensors.values())


def first_not_finite(model: nn.Module) -> str:
    """Return the name of the first parameter with NaN or infinite values on any rank; empty when there is none.

    Each rank looks at its own shards; they agree in one collective.
    """
    named = [(name.partition("/")[2], tensor) for name, (tensor, _) in named_tensors("model", model).items()]
    parameters = [(name, tensor) for name, tensor in named if isinstance(tensor, nn.Parameter)]
    finite = [bool(local(parameter).isfinite().all()) for _, parameter in parameters]
    first = [*finite, False].index(False)
    if is_sharded(dict(parameters)):
        sharded = next(parameter for _, parameter in parameters if isinstance(parameter, DTensor))
        least = torch.tensor(first, device=sharded.device_mesh.device_type)
        dist.all_reduce(least, dist.ReduceOp.MIN)
        first = int(least)
    return parameters[first][0] if first < len(parameters) else ""


class Saver:
    """Saves and loads a learner's state; where it is sharded, all ranks call ``start``, ``wait`` and ``load``."""

    def __init__(self, model: nn.Module, head: nn.Module | None, optimizer: PolicyOptimizer) -> None:
        self._model, self._head, self._optimizer = model, head, optimizer
        self._group: dist.ProcessGroup | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._written: Future[dict[str, Sum]] | None = None

    def start(self, folder: Path, bad_streak: int) -> None:
        """Copy the state into host memory, and begin to write it into the existing directory ``folder``.

        Training may go on when this returns; ``wait`` must be called before the next start.
        """
        if self._written is not None:
            raise RuntimeError(f"{folder}: the save before this one was not waited for")
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "checkpoint")
        named = self._named()
        tensors = {name: tensor for name, (tensor, _) in named.items()}
        if not is_sharded(tensors):
            whole = Whole.of(self._model, self._head, self._optimizer, bad_streak)
            self._written = self._thread.submit(whole.write, folder)
            return
        progress = Progress(sorted(self._parts()), self._optimizer.steps, bad_streak)
        staged = _in_host_memory(tensors | self._optimizer_state(tensors))
        self._written = self._thread.submit(_save_shards, staged, folder, self._own_group(), random_states(), progress)

    def saving(self) -> bool:
        """Return whether anything is still being written: on rank 0, by any rank."""
        return self._written is not None and not self._written.done()

    def wait(self) -> dict[str, Sum]:
        """Return once all is written, or raise what prevented it.

        The result: sums by file, of those that were summed while they were written; all of them on rank 0.
        """
        written, self._written = self._written, None
        if written is None:
            return {}
        with _failure_of_a_rank():
            return written.result()

    def load(self, folder: Path) -> int:
        """Restore what ``start`` wrote, however many ranks there were; return ``bad_streak``.

        Raises ``LoadError`` on all ranks for a missing or damaged file, another model, another kind of optimiser, and
        an unknown format; but for a file that is damaged within, nothing is loaded then.
        """
        named = self._named()
        targets = {name: tensor for name, (tensor, _) in named.items()}
        group = self._own_group() if is_sharded(targets) else None

        def examined() -> tuple[ShardReader | WholeReader, Progress, dict[str, torch.Tensor], Any]:
            reader, progress = self._opened(folder, named)
            saved: dict[str, Any] = reader.read_metadata().state_dict_metadata
            if progress.parts != (wanted := sorted(self._parts())):
                kinds = " and ".join(progress.parts), " and ".join(wanted)
                raise LoadError(f"{folder}: optimiser state of {kinds[0]}, and this learner's optimiser is {kinds[1]}")
            _check_names(folder, saved, targets)
            state = {
                name: _room(name, saved[name], targets, folder) for name in saved if _section(name) not in SECTIONS
            }
            return reader, progress, state, read_pt(folder / RANDOM)

        reader, progress, state, states = _together(examined, group)
        _read({name: tensor.detach() for name, tensor in targets.items()} | state, reader, group)
        parts = self._parts()
        for optimizer in parts.values():
            optimizer.state.clear()
        for name, value in state.items():
            part, key, of = name.split("/", 2)
            parts[part].state[targets[of]][key] = value
        self._optimizer.steps = progress.steps
        restore(states)
        return progress.bad_streak

    def _named(self) -> dict[str, tuple[torch.Tensor, list[str]]]:
        return named_tensors("model", self._model) | named_tensors("head", self._head)

    def _parts(self) -> dict[str, torch.optim.Optimizer]:
        parts = {"muon": self._optimizer.muon, "adamw": self._optimizer.adamw}
        return {name: part for name, part in parts.items() if part is not None}

    def _optimizer_state(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        names = {id(tensor): name for name, tensor in tensors.items()}
        return {
            f"{part}/{key}/{names[id(parameter)]}": value
            for part, optimizer in self._parts().items()
            for parameter, values in optimizer.state.items()
            for key, value in values.items()
        }

    def _own_group(self) -> dist.ProcessGroup:
        """Return the group of all ranks that only checkpoints use, made once: on the default one the writing thread's
        collectives would meet those of training.
        """
        if self._group is None:
            self._group = dist.new_group(backend="gloo", timeout=PATIENCE)
        return self._group

    def _opened(
        self, folder: Path, named: Mapping[str, tuple[torch.Tensor, list[str]]]
    ) -> tuple[ShardReader | WholeReader, Progress]:
        if (folder / INDEX).exists():
            return ShardReader(folder / SHARDS), _read_index(folder)
        if not (folder / MODEL).exists():
            raise LoadError(f"{folder}: no learner's state in a format of this version: no {INDEX}, no {MODEL}")
        names = {id(tensor): name for name, (tensor, _) in named.items()}
        stepped = {
            part: [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
            for part, optimizer in self._parts().items()
        }
        whole = WholeReader(
            folder, {name: others for name, (_, others) in named.items()}, stepped, self._head is not None
        )
        return whole, Progress(whole.parts, whole.steps, whole.bad_streak)


def _in_host_memory(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    stager = DefaultStager(StagingOptions(False, False, False, False))
    try:
        staged: Any = stager.stage({name: tensor.detach() for name, tensor in tensors.items()})
        return staged  # type: ignore[no-any-return]
    finally:
        stager.close()


def _save_shards(
    staged: dict[str, torch.Tensor], folder: Path, group: dist.ProcessGroup, states: Any, progress: Progress
) -> dict[str, Sum]:
    """Write this rank's shard; return the sums of all ranks' files on rank 0, where the index is written last."""
    writer = ShardWriter(folder / SHARDS)
    planner = DefaultSavePlanner(flatten_state_dict=False)
    save(staged, storage_writer=writer, planner=planner, process_group=group)
    _together(writer.verify, group)
    gathered: list[Any] | None = [None] * dist.get_world_size(group) if dist.get_rank(group) == 0 else None
    dist.gather_object(writer.sums, gathered, group=group)
    if gathered is None:
        return {}
    sums = {f"{SHARDS}/{name}": each for found in gathered for name, each in found.items()}
    torch.save(states, folder / RANDOM)
    index = {"format": FORMAT, **asdict(progress), "files": {name: each.bytes for name, each in sums.items()}}
    (folder / INDEX).write_text(json.dumps(index, indent=1))
    return sums


def _read_index(folder: Path) -> Progress:
    """Return what ``learner.json`` says, and check that the files that it lists are there and whole."""
    path = folder / INDEX
    try:
        index = json.loads(path.read_bytes())
        if index["format"] != FORMAT:
            raise LoadError(
                f"{path}: format {index['format']}, this version of k15 reads {FORMAT}; finish the run with the "
                "version that began it"
            )
        files, progress = index["files"], Progress(index["parts"], index["steps"], index["bad_streak"])
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, LoadError):
            raise
        raise LoadError(f"{path}: not what k15 wrote ({type(error).__name__}: {error})") from error
    for name, size in files.items():
        if not (folder / name).is_file():
            raise LoadError(f"{folder / name} is missing, the shard of a rank; take an earlier checkpoint")
        if (found := (folder / name).stat().st_size) != size:
            raise LoadError(f"{folder / name} has {found} bytes instead of {size}; take an earlier checkpoint")
    return progress


def _section(name: str) -> str:
    return name.partition("/")[0]


def _check_names(folder: Path, saved: Mapping[str, Any], targets: Mapping[str, torch.Tensor]) -> None:
    """Check that these are the tensors of the learner's model; the head of another objective is passed over."""
    missing = [name for name in targets if name not in saved]
    unknown = [name for name in saved if _section(name) == "model" and name not in targets]
    for what, names in (("lacks", missing), ("has", unknown)):
        if names:
            raise LoadError(f"{folder}: state of another model, which {what} {names[0]} ({len(names)} in all)")
    for name, tensor in targets.items():
        if tuple(saved[name].size) != tuple(tensor.shape):
            sizes = [*saved[name].size], [*tensor.shape]
            raise LoadError(f"{folder}: state of another model: {name} is {sizes[0]} there and {sizes[1]} here")


def _room(name: str, entry: TensorStorageMetadata, targets: Mapping[str, torch.Tensor], folder: Path) -> torch.Tensor:
    """Return an empty tensor for an optimiser's state: cut like its parameter, if it has the size of that."""
    parameter = targets.get(name.split("/", 2)[-1])
    if parameter is None:
        raise LoadError(f"{folder}: state of another model, which steps {name.split('/', 2)[-1]}")
    if entry.size == parameter.shape:
        return torch.empty_like(parameter.detach(), dtype=entry.properties.dtype)
    return torch.empty(entry.size, dtype=entry.properties.dtype, device=parameter.device)


def _read(targets: dict[str, torch.Tensor], reader: ShardReader | WholeReader, group: dist.ProcessGroup | None) -> None:
    """Fill ``targets``, each rank its shards."""
    planner = DefaultLoadPlanner(flatten_state_dict=False)
    with _failure_of_a_rank(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # meant so, where there is no group
        load(targets, storage_reader=reader, planner=planner, process_group=group, no_dist=group is None)


def _together(work: Callable[[], T], group: dist.ProcessGroup | None) -> T:
    """Return ``work()``; raise on every rank what it raises on one, before any of them waits for that one in vain."""
    failure: Exception | None = None
    try:
        result = work()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is raised below
        failure = error
    failures = [failure]
    if group is not None:
        failures = [None] * dist.get_world_size(group)
        dist.all_gather_object(failures, failure, group=group)
    for each in failures:
        if each is not None:
            raise each
    return result


@contextmanager
def _failure_of_a_rank() -> Iterator[None]:
    """Raise what failed on the first rank that did, instead of DCP's account of all of them."""
    try:
        yield
    except CheckpointException as error:
        raise error.failures[min(error.failures)][0] from error
