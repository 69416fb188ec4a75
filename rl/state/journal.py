"""The journal: every token is on disk as soon as the driver has it.

One file per iteration, one line per poll, and beside it the problems that the iteration drew. When the driver is
killed, the resumed run reads the lines back: rollouts keep the tokens drawn so far and only the rest of each stretch is
sampled again (invariant 4). Iterations between the last checkpoint and the crash are replayed from their journals: same
segments, same training data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from rollout.engine import Delta
from rollout.files import replace_file
from rollout.serial import delta_from_json, delta_to_json


class JournalError(ValueError):
    """The journal does not belong to what is to be replayed; one line: why, and what to do."""


class Journal:
    """Appends and reads the progress of one iteration at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] | None = None

    def _path(self, iteration: int) -> Path:
        return self.folder / f"{iteration:06d}.jsonl"

    def open(self, iteration: int) -> list[Delta]:
        """What an earlier process recorded of this iteration, in order; appending goes on behind it.

        A last line torn by a crash is cut off: its tokens never reached the training data.
        """
        self.close()
        path = self._path(iteration)
        deltas: list[Delta] = []
        whole = 0
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    deltas.extend(delta_from_json(item) for item in json.loads(line))
                    whole += len(line)
            os.truncate(path, whole)
        self._file = path.open("a")
        return deltas

    def drawn(self, iteration: int, problems: Sequence[str]) -> None:
        """Record the ids of the problems that an iteration draws.

        Raises ``JournalError`` when an earlier process drew others for it and has tokens of them: they would go to the
        wrong problems.
        """
        file, tokens = self.folder / f"{iteration:06d}.problems.json", self._path(iteration)
        new = json.dumps([*problems])
        if file.exists() and tokens.exists() and tokens.stat().st_size and file.read_text() != new:
            before = json.loads(file.read_text())
            gone = [name for name in before if name not in problems]
            raise JournalError(
                f"{tokens}: iteration {iteration} was begun with other problems ({len(gone)} of {len(before)} are "
                f"gone, first: {gone[0] if gone else before[0]!r}); give back those in use, or choose another --run-dir"
            )
        replace_file(file, new.encode())

    def append(self, deltas: Sequence[Delta]) -> None:
        """Record progress; survives a kill of this process (flushed to the kernel, not to the platter)."""
        if self._file is None:
            raise RuntimeError("journal: open(iteration) comes first")
        if deltas:
            self._file.write(json.dumps([delta_to_json(delta) for delta in deltas], separators=(",", ":")) + "\n")
            self._file.flush()

    def drop_before(self, iteration: int) -> None:
        """Forget iterations that every kept checkpoint already contains."""
        for path in self.folder.glob("[0-9]*.json*"):
            if int(path.name.partition(".")[0]) < iteration:
                path.unlink()

    def close(self) -> None:
        """Close the open file, if any."""
        if self._file is not None:
            self._file.close()
            self._file = None
