"""A training whose steps are known beforehand: checkpoints between them, and going on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from rl.state import checkpoint
from rl.state.checkpoint import RunState, Saves, Writer
from rl.stop import Interrupted, Stopper
from rollout.files import replace_file
from rollout.lines import LineWriter, read_lines
from rollout.progress import Progress
from rollout.strict_json import dumps

KEEP = 2
"""Checkpoints that are kept: the newest, and one to fall back to."""
S = TypeVar("S")
"""One step of the plan, complete, so that the plan and a checkpoint suffice to go on."""


class Kept(Saves, Protocol):
    """The learner, as a checkpoint keeps it."""

    def load(self, folder: Path) -> None:
        """Restore what a save wrote."""


def carry_out(
    name: str,
    steps: Sequence[S],
    act: Callable[[int, S], str],
    kept: Kept,
    checkpoints: Path,
    every: int,
    watch: Progress,
    stopper: Stopper,
    keep_last: bool = False,
) -> None:
    """Call ``act(number, step)`` for each step that no checkpoint has yet, and show the text that it returns.

    ``name`` is that of the stage in the progress view. A checkpoint is written after ``every`` steps, and on a stop
    signal, which then raises ``Interrupted``; it is finished while the steps go on. ``keep_last``: after the last step,
    too, since a longer plan that begins with these steps is carried out next. A checkpoint of that plan has them all.
    """
    first = 0
    if found := checkpoint.latest(checkpoints, watch.warn):
        first = min(found[0].iteration, len(steps))
        kept.load(found[1])
    watch.stage(name, len(steps), earlier=first)
    watch.advance(first)
    with Writer(checkpoints, kept, KEEP, watch.warn, lambda _: None) as writer:
        for number, step in enumerate(steps[first:], first):
            watch.say(act(number, step))
            watch.advance(1)
            if stopper.requested or (number + 1) % every == 0 or (keep_last and number + 1 == len(steps)):
                writer.begin(RunState(number + 1))
            else:
                writer.settle()
            if stopper.requested:
                raise Interrupted(f"stopped after step {number} of the {name}")


class StepLog:
    """A file with one JSON line for each step, and each step once, even if training was interrupted."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._writer: LineWriter | None = None

    def write(self, step: int, values: dict[str, float | None]) -> None:
        """Write the line of ``step``. The first call drops what an earlier process wrote from there on."""
        if self._writer is None:
            kept = [row for _, row in read_lines(self.file) if row["step"] < step]
            replace_file(self.file, "".join(dumps(row) + "\n" for row in kept).encode())
            self._writer = LineWriter(self.file)
        self._writer.append({"step": step, **values})

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._writer is not None:
            self._writer.close()
