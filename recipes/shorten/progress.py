"""A progress bar for training steps, or plain lines where the output is no terminal."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from rollout.plain import one_line

LINE_EVERY_S = 15.0
"""Where the output is no terminal."""


class Steps:
    """Implements ``rl.warmup.Progress``; use as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[said]}", markup=False),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
            )
        self._name, self._total, self._done, self._said = "", 0, 0, ""
        self._spoke = time.monotonic()

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def stage(self, name: str, total: int) -> None:
        """``total`` steps are to come."""
        self._name, self._total, self._done, self._said = one_line(name, 40), total, 0, ""
        if self._bar:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._task = self._bar.add_task(self._name, total=total, said="")
        else:
            self._line()

    def advance(self, n: int) -> None:
        """``n`` more are done."""
        self._done += n
        if self._bar:
            self._bar.update(self._task, completed=self._done, said=self._said)
        elif self._done >= self._total or time.monotonic() - self._spoke > LINE_EVERY_S:
            self._line()

    def say(self, text: str) -> None:
        """Shown beside the bar, or on the next line."""
        self._said = one_line(text, 60)

    def warn(self, text: str) -> None:
        """Something went wrong that the stage survives."""
        self._console.print(Text(f"warning: {one_line(text)}"), soft_wrap=True)

    def _line(self) -> None:
        self._spoke = time.monotonic()
        said = f", {self._said}" if self._said else ""
        self._console.print(Text(f"{self._name}: {self._done}/{self._total}{said}"), soft_wrap=True)
