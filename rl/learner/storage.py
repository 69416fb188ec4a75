"""A learner's state as ``torch.distributed.checkpoint`` stores it: a file of each rank, summed while it is written.

Two readers give the same view of it, tensors by name of which each rank reads its rows: ``ShardReader`` of what
``ShardWriter`` wrote, ``WholeReader`` of the files that a learner without other ranks writes.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from rl.actors import out_of_memory
from rl.state.checkpoint import Sum
from rollout.plain import first_line

MODEL = "model.safetensors"
HEAD = "head.safetensors"
OPTIMIZER = "optimizer.pt"
METADATA = ".metadata"
"""Which file has which rows of which tensor; written by rank 0."""


class LoadError(ValueError):
    """A saved state cannot be loaded into this learner; one line: what, where, what to do."""


class ShardWriter(FileSystemWriter):
    """Writes this rank's file of a checkpoint, and on rank 0 what tells where everything is.

    One thread: DCP loses the errors of further ones, and with them whatever they did not write.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, thread_count=1)
        files = _SummedFiles()
        self.fs, self.sums = files, files.sums
        """``sums``: of what this process has written, by the names of the files."""

    def verify(self) -> None:
        """Read back what this process has written. Raises ``OSError`` for a file that is not as it was written."""
        for name, wanted in self.sums.items():
            path = Path(self.path) / name
            with path.open("rb") as file:
                os.fsync(file.fileno())  # what is not on the disk yet could not be read from there
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != wanted.sha256:
                raise OSError(f"{path} does not read as it was written; is the disk failing?")


class _Summed(io.BufferedWriter):
    """A file that sums up the bytes on their way, before the disk may alter them."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.open("wb", buffering=0), 2**20)
        self.digest, self.bytes = hashlib.sha256(), 0

    def write(self, data: Any, /) -> int:
        self.digest.update(data)
        self.bytes += len(memoryview(data).cast("B"))
        return super().write(data)


class _SummedFiles(FileSystem):
    def __init__(self) -> None:
        self.sums: dict[str, Sum] = {}

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[io.IOBase]:  # type: ignore[override]  # noqa: ARG002
        with _Summed(Path(path)) as stream:
            yield stream
        self.sums[Path(path).name] = Sum(stream.digest.hexdigest(), stream.bytes)

    def rename(self, path: Any, new_path: Any) -> None:
        super().rename(path, new_path)
        self.sums[Path(new_path).name] = self.sums.pop(Path(path).name)


_METADATA = (
    *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "TensorStorageMetadata"),
    *("ChunkStorageMetadata", "_MEM_FORMAT_ENCODING"),
)
_TRUSTED = {
    *(("torch.distributed.checkpoint.metadata", name) for name in _METADATA),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),  # from Python 3.13 on
    *(("torch", name) for name, value in vars(torch).items() if isinstance(value, torch.dtype)),
}
"""Module and name of all that a checkpoint's metadata may refer to; a pickle could name any function to call."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _TRUSTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


class ShardReader(FileSystemReader):
    """Reads what ``ShardWriter`` wrote. Raises ``LoadError`` that names the file for what cannot be read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fs = self._opened = _LastOpened()

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """Return names, sizes and types of all tensors, and where they are."""
        path = Path(self.path) / METADATA
        try:
            with path.open("rb") as file:
                return cast(Metadata, _Unpickler(file).load())
        except Exception as error:  # whatever a damaged pickle raises
            raise _unreadable(path, error) from error

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy what ``plan`` asks for into its targets."""
        try:
            return super().read_data(plan, planner)
        except Exception as error:  # whatever a damaged archive raises
            if out_of_memory(error):  # which is not the file's fault
                raise
            raise _unreadable(self._opened.path, error) from error


class _LastOpened(FileSystem):
    """Remembers the file that is being read."""

    path = Path()

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[io.IOBase]:  # type: ignore[override]
        self.path = Path(path)
        with super().create_stream(path, mode) as stream:
            yield stream


def _unreadable(path: Path, error: Exception) -> LoadError:
    reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({first_line(error)})"
    return LoadError(f"{path} {reason}; take an earlier checkpoint")


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
        raise _unreadable(path, error) from error


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


def read_pt(path: Path) -> Any:
    """Return what ``torch.save`` wrote, its tensors mapped and not yet read; no code of it runs. ``LoadError``."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a damaged archive raises
        if out_of_memory(error):
            raise
        raise _unreadable(path, error) from error
