"""Files of JSON lines that only grow. A kill at any moment can tear the last line only, which is then cut off."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rollout.strict_json import dumps


class BrokenLine(ValueError):
    """A line of a file is malformed; says its number, from 1, and why."""

    def __init__(self, number: int, reason: object) -> None:
        super().__init__(f"line {number}: not JSON ({reason})")
        self.number, self.reason = number, reason


class LineWriter:
    """Appends to a file, from any thread; opening it cuts a torn last line off. Raises ``OSError``.

    A line outlives this process as soon as ``append`` returns; with ``sync`` also the machine.
    """

    def __init__(self, path: Path, sync: bool = False) -> None:
        self.path = path
        self._sync = sync
        self._lock = threading.Lock()
        _cut_torn_line(path)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def append(self, row: Any) -> None:
        """Append one line. ASCII, so lone surrogates of hostile text survive. NaN becomes null. Raises ``OSError``."""
        data = (dumps(row) + "\n").encode()
        with self._lock:
            while data:  # a short write (the disk fills up in the middle of a line) must surface as an error
                data = data[os.write(self._file, data) :]
            if self._sync:
                os.fsync(self._file)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield number (from 1) and value of each whole line; nothing when there is no file.

    A last line without its newline is one being written, or torn, and is left out. Raises ``BrokenLine``, ``OSError``.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BrokenLine(number, error) from error
            yield number, value


def _cut_torn_line(path: Path) -> None:
    """Cut off what follows the last newline, found from the end on, since records of evaluations are long."""
    if not path.exists():
        return
    end = path.stat().st_size
    with path.open("rb") as file:
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
    if end < path.stat().st_size:
        os.truncate(path, end)
