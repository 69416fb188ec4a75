"""The files of a learner without other ranks: from a copy in host memory to the disk, and back.

model.safetensors, head.safetensors (of an objective with a head), optimizer.pt (bad_streak, too), random.pt
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future
from torch.utils import _pytree as pytree

from rl.learner.random_states import random_states
from rl.learner.storage import LoadError, Summed, altered, read_back, read_pt, unreadable, verify
from rl.optim.build import PolicyOptimizer
from rl.state.checkpoint import Sum

MODEL = "model.safetensors"
HEAD = "head.safetensors"
OPTIMIZER = "optimizer.pt"
RANDOM = "random.pt"


@dataclass(frozen=True)
class Weights:
    """Tensors of a module in host memory; those that are one under several names once, under the first."""

    tensors: Mapping[str, torch.Tensor]
    others: Mapping[str, str]
    """For each further name the one that its tensor has; in a file's metadata, as safetensors writes it."""

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Copy parameters and persistent buffers."""
        names: dict[int, list[str]] = {}
        tensors = module.state_dict(keep_vars=True)
        for name in sorted(tensors):
            names.setdefault(id(tensors[name]), []).append(name)
        others = {other: first for first, *more in names.values() for other in more}
        return cls({name: _copied(tensors[name]) for name in tensors if name not in others}, others)

    def write(self, path: Path) -> Sum:
        """Write them into a file, read it back, and return its sum."""
        save_file(dict(self.tensors), path, dict(self.others) or None)
        found = read_back(path)
        with safe_open(path, "pt") as file:
            same = set(file.keys()) == self.tensors.keys() and all(
                _same(file.get_tensor(name), tensor) for name, tensor in self.tensors.items()
            )
        if not same:
            raise altered(path)
        return found


@dataclass(frozen=True)
class Whole:
    """A learner's state in host memory, which training does not change."""

    model: Weights
    head: Weights | None
    optimizer: dict[str, Any]
    """``PolicyOptimizer.state_dict()``."""
    bad_streak: int
    random: Any

    @classmethod
    def of(cls, model: nn.Module, head: nn.Module | None, optimizer: PolicyOptimizer, bad_streak: int) -> Self:
        """Copy the state of now."""
        state = pytree.tree_map_only(torch.Tensor, _copied, optimizer.state_dict())
        return cls(Weights.of(model), None if head is None else Weights.of(head), state, bad_streak, random_states())

    def write(self, folder: Path) -> dict[str, Sum]:
        """Write the files into an existing directory; return their sums, those of what the disk gives back."""
        sums = {MODEL: self.model.write(folder / MODEL)}
        if self.head is not None:
            sums[HEAD] = self.head.write(folder / HEAD)
        sums[OPTIMIZER] = _write_pt(folder / OPTIMIZER, {"optimizer": self.optimizer, "bad_streak": self.bad_streak})
        sums[RANDOM] = _write_pt(folder / RANDOM, self.random)
        return sums


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors are the same bits, NaN included."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def _write_pt(path: Path, value: Any) -> Sum:
    with Summed(path) as stream:
        torch.save(value, stream)
    verify(path, stream.sum)
    return stream.sum


Read = Callable[[tuple[slice, ...]], torch.Tensor]
"""Returns a part of a tensor in a file."""


class WholeReader(StorageReader):
    """Reads the files of a learner without other ranks, of each tensor the rows that are asked for.

    ``names``: what the tensors of the model (and the head, where there is one) may be called, by their first name.
    ``stepped``: the parameters of each part of the optimiser, in its order; state of other parts is not read. Raises
    ``LoadError``.
    """

    def __init__(
        self, folder: Path, names: Mapping[str, Sequence[str]], stepped: Mapping[str, Sequence[str]], head: bool
    ) -> None:
        self.folder = folder
        first = {other: name for name, others in names.items() for other in others}
        self._tensors: dict[str, tuple[torch.Size, torch.dtype, Read]] = {}
        for file, prefix in [(MODEL, "model")] + [(HEAD, "head")] * head:
            self._tensors |= {
                first.get(f"{prefix}/{key}", f"{prefix}/{key}"): entry for key, entry in _in_safetensors(folder / file)
            }
        saved = read_pt(folder / OPTIMIZER)
        try:
            state = saved["optimizer"]
            self.bad_streak, self.steps = int(saved["bad_streak"]), int(state["steps"])
            self.parts = sorted(state.keys() - {"steps"})
            for part in self.parts if self.parts == sorted(stepped) else ():  # of another kind, it is refused
                self._tensors |= _in_state(state[part], part, stepped[part], folder)
        except (KeyError, TypeError, AttributeError) as error:
            raise LoadError(f"{folder / OPTIMIZER}: not what k15 wrote ({type(error).__name__}: {error})") from error

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """Return each tensor as one piece. A type is told of optimiser state only: weights go into what is there."""
        return Metadata(
            {
                name: TensorStorageMetadata(
                    TensorProperties(dtype=dtype), size, [ChunkStorageMetadata(torch.Size([0] * len(size)), size)]
                )
                for name, (size, dtype, _) in self._tensors.items()
            }
        )

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy what ``plan`` asks for into its targets."""
        for item in plan.items:
            read = self._tensors[item.storage_index.fqn][2]
            spans = zip(item.storage_offsets, item.lengths, strict=True)
            planner.resolve_tensor(item).detach().copy_(read(tuple(slice(at, at + n) for at, n in spans)))
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def set_up_storage_reader(self, *_: Any, **__: Any) -> None:
        """Nothing is left to be set up."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Return the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Return the plans as they are."""
        return plans

    def reset(self, checkpoint_id: Any = None) -> None:
        """One reader reads one folder."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Return whether this may be a folder."""
        return isinstance(checkpoint_id, Path)


def _in_safetensors(path: Path) -> Iterator[tuple[str, tuple[torch.Size, torch.dtype, Read]]]:
    try:
        file = safe_open(path, "pt")
        for key in file.keys():  # noqa: SIM118 - no mapping
            part = file.get_slice(key)
            size = torch.Size(part.get_shape())
            yield key, (size, torch.float32, part.__getitem__ if len(size) else partial(_number, file, key))
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from error


def _number(file: Any, key: str, _: tuple[slice, ...]) -> torch.Tensor:
    """Return a tensor without dimensions, of which safetensors has no parts."""
    tensor: torch.Tensor = file.get_tensor(key)
    return tensor


def _in_state(
    state: Mapping[str, Any], part: str, stepped: Sequence[str], folder: Path
) -> dict[str, tuple[torch.Size, torch.dtype, Read]]:
    """Return the state of one part of the optimiser, as torch lists it, under the names of its parameters."""
    count = sum(len(group["params"]) for group in state["param_groups"])
    if count != len(stepped):
        raise LoadError(f"{folder}: state of another model, whose {part} steps {count} parameters, not {len(stepped)}")
    return {
        f"{part}/{key}/{stepped[index]}": (value.shape, value.dtype, value.__getitem__)
        for index, values in state["state"].items()
        for key, value in values.items()
    }
