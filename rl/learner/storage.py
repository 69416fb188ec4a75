"""A learner's state as ``torch.distributed.checkpoint`` stores it: a file of each rank, summed while it is written.

Two readers give the same view of it, tensors by name of which each rank reads its rows: ``ShardReader`` of what
``ShardWriter`` wrote, ``rl.learner.whole.WholeReader`` of the files that a learner without other ranks writes.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.futures import Future

from rl.actors import out_of_memory
from rl.state.checkpoint import Sum
from rollout.plain import first_line

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
            verify(Path(self.path) / name, wanted)


def verify(path: Path, wanted: Sum) -> None:
    """Raise ``OSError`` for a file that does not read as it was written."""
    if read_back(path) != wanted:
        raise altered(path)


def read_back(path: Path) -> Sum:
    """Return what a file holds that was just written: as it is on the disk, as far as the system allows."""
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is not on the disk yet could not be read from there
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return Sum(hashlib.file_digest(file, "sha256").hexdigest(), file.tell())


def altered(path: Path) -> OSError:
    """Return the error for a file that is not as it was written."""
    return OSError(f"{path} does not read as it was written; is the disk failing?")


class Summed(io.BufferedWriter):
    """A file that sums up the bytes on their way, before the disk may alter them."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.open("wb", buffering=0), 2**20)
        self._digest, self._bytes = hashlib.sha256(), 0

    def write(self, data: Any, /) -> int:
        self._digest.update(data)
        self._bytes += len(memoryview(data).cast("B"))
        return super().write(data)

    @property
    def sum(self) -> Sum:
        """Of what was written so far."""
        return Sum(self._digest.hexdigest(), self._bytes)


class _SummedFiles(FileSystem):
    def __init__(self) -> None:
        self.sums: dict[str, Sum] = {}

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[io.IOBase]:  # type: ignore[override]  # noqa: ARG002
        with Summed(Path(path)) as stream:
            yield stream
        self.sums[Path(path).name] = stream.sum

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
            raise unreadable(path, error) from error

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy what ``plan`` asks for into its targets."""
        try:
            return super().read_data(plan, planner)
        except Exception as error:  # whatever a damaged archive raises
            if out_of_memory(error):  # which is not the file's fault
                raise
            raise unreadable(self._opened.path, error) from error


class _LastOpened(FileSystem):
    """Remembers the file that is being read."""

    path = Path()

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[io.IOBase]:  # type: ignore[override]
        self.path = Path(path)
        with super().create_stream(path, mode) as stream:
            yield stream


def unreadable(path: Path, error: Exception) -> LoadError:
    """Return the error for a file that cannot be read."""
    reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({first_line(error)})"
    return LoadError(f"{path} {reason}; take an earlier checkpoint")


def read_pt(path: Path) -> Any:
    """Return what ``torch.save`` wrote, its tensors mapped and not yet read; no code of it runs. ``LoadError``."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a damaged archive raises
        if out_of_memory(error):
            raise
        raise unreadable(path, error) from error
