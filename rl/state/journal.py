"""The journal: every token is on disk as soon as the driver has it.

One Arrow stream per iteration, one record batch per poll, and beside it the problems that the iteration drew. When the
driver is killed, the resumed run reads the batches back: rollouts keep the tokens drawn so far and only the rest of
each stretch is sampled again (invariant 4). Iterations between the last checkpoint and the crash are replayed from
their journals: same segments, same training data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa

from rollout.engine import Delta
from rollout.files import replace_file
from rollout.serial import DELTAS, deltas_from_batch, deltas_to_batch


class JournalError(ValueError):
    """The journal does not belong to what is to be replayed; one line: why, and what to do."""


def refuse_older(folder: Path) -> None:
    """Raises ``JournalError`` for a folder that an earlier version of k15 wrote."""
    if old := sorted(folder.glob("[0-9]*.jsonl")):
        raise JournalError(
            f"{old[0]}: written by an earlier version of k15, whose tokens this one does not read; finish the run "
            "with the version that began it, or choose another --run-dir"
        )


class Journal:
    """Appends and reads the progress of one iteration at a time.

    Raises ``JournalError`` for a folder that an earlier version of k15 wrote.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        refuse_older(folder)
        self._file: IO[bytes] | None = None
        self._torn = False
        """Whether the last write failed: nothing may follow what it has left."""

    def _path(self, iteration: int) -> Path:
        return self.folder / f"{iteration:06d}.arrow"

    def open(self, iteration: int) -> list[Delta]:
        """Return what an earlier process recorded of this iteration, in order, and append behind it.

        A last batch torn by a crash is cut off: its tokens never reached the training data. That there is a file says
        that those of the iterations before are whole, also after a loss of power.
        """
        path = self._path(iteration)
        if not path.exists():
            self._sync()
        self.close()
        deltas, whole = read_stream(path.read_bytes()) if path.exists() else ([], 0)
        self._file, self._torn = path.open("ab", buffering=0), False
        with self._whole():
            os.truncate(path, whole)
            if not whole:
                self._write(DELTAS.serialize())
        return deltas

    def drawn(self, iteration: int, problems: Sequence[str]) -> None:
        """Record the ids of the problems that an iteration draws.

        Raises ``JournalError`` when an earlier process drew others for it and has tokens of them: they would go to the
        wrong problems.
        """
        file, tokens = self.folder / f"{iteration:06d}.problems.json", self._path(iteration)
        new = json.dumps([*problems])
        if file.exists() and tokens.exists() and file.read_text() != new and read_stream(tokens.read_bytes())[0]:
            before = json.loads(file.read_text())
            gone = [name for name in before if name not in problems]
            raise JournalError(
                f"{tokens}: iteration {iteration} was begun with other problems ({len(gone)} of {len(before)} are "
                f"gone, first: {gone[0] if gone else before[0]!r}); give back those in use, or choose another --run-dir"
            )
        replace_file(file, new.encode())

    def problems(self, iteration: int) -> list[str] | None:
        """Return the ids of the problems that an iteration drew; ``None``: it has not yet."""
        return _read(self.folder / f"{iteration:06d}.problems.json")

    def chose(self, iteration: int, groups: Sequence[str]) -> None:
        """Record the ids of the groups that an overlapped iteration trains on, when their tokens are on the platter."""
        self._sync()
        replace_file(self.folder / f"{iteration:06d}.batch.json", json.dumps([*groups]).encode())

    def batch(self, iteration: int) -> list[str] | None:
        """Return what ``chose`` recorded, if it did."""
        return _read(self.folder / f"{iteration:06d}.batch.json")

    def complete(self, iteration: int) -> bool:
        """Return whether all that an overlapped iteration took in is here: an earlier process went on to the next.

        Raises ``JournalError`` when what it trained on is not.
        """
        following = self._path(iteration + 1).exists()
        if following and self.batch(iteration) is None:
            raise JournalError(
                f"{self.folder}: iteration {iteration + 1} was begun, and the batch of iteration {iteration} is not on "
                "record; the disk has lost it, choose another --run-dir"
            )
        return following

    def append(self, deltas: Sequence[Delta]) -> None:
        """Record progress; survives a kill of this process (handed to the kernel, not yet on the platter).

        Raises ``OSError``, and ``JournalError`` after a write that failed, until the next ``open``: later tokens must
        not follow on a batch that is torn or missing.
        """
        if self._torn:
            raise JournalError(f"{self.folder}: a write has failed, and nothing can follow it; start the run again")
        if self._file is None:
            raise RuntimeError("journal: open(iteration) comes first")
        if deltas:
            with self._whole():
                self._write(deltas_to_batch(deltas).serialize())

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Close the file if the block is cut short, by whatever; what that has torn is cut off by the next ``open``."""
        try:
            yield
        except BaseException:
            self._torn = True
            self.close()
            raise

    def _write(self, data: pa.Buffer) -> None:
        assert self._file is not None
        left = memoryview(data)
        while left:  # a short write (a disk that fills up) must surface as an error, not as a torn batch
            left = left[self._file.write(left) :]

    def _sync(self) -> None:
        """Have what was appended on the platter."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def drop_before(self, iteration: int) -> None:
        """Forget iterations that every kept checkpoint already contains."""
        for path in self.folder.glob("[0-9]*.*"):
            if int(path.name.partition(".")[0]) < iteration:
                path.unlink()

    def close(self) -> None:
        """Close the open file, if any."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _read(file: Path) -> list[str] | None:
    names: list[str] | None = json.loads(file.read_text()) if file.exists() else None
    return names


def read_stream(data: bytes) -> tuple[list[Delta], int]:
    """Return the progress in a journal file, and how many of its bytes are whole batches (or the schema alone)."""
    source = pa.BufferReader(data)
    deltas: list[Delta] = []
    whole = 0
    schema = None
    while whole < len(data):
        try:
            message = pa.ipc.read_message(source)
            if schema is None:
                schema = pa.ipc.read_schema(message)
            else:
                deltas += deltas_from_batch(pa.ipc.read_record_batch(message, schema))
        except (pa.ArrowInvalid, OSError, EOFError):  # the crash came in the middle of this one
            break
        whole = source.tell()
    return deltas, whole
