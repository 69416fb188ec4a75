"""Progress of a long stage: a row with a bar on a terminal, else a line at least every 15 s.

Training, evaluation and long2short all report through ``Progress``. A thread speaks up while the stage's own code
waits for something (an engine that starts, a long step); time comes in as a clock, so tests need not wait.
"""

from __future__ import annotations

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rollout.plain import one_line

LINE_EVERY_S = 12.0
"""Silence after which a line is due; lines are then less than 15 s apart on a busy machine too."""
TICK_S = 1.0
"""Seconds between two looks of the thread whether a line is due."""

Clock = Callable[[], float]
"""Seconds of a clock that never goes back."""


class Progress(Protocol):
    """Receives the progress of a stage. Every method may be called from any thread."""

    def stage(self, name: str, total: int | None = None, earlier: int = 0) -> None:
        """Begin a stage and end the one before it. ``total``: its units (steps, responses), if they are known;
        ``earlier`` of those were done by another process and say nothing about the pace.
        """

    def advance(self, n: int, tokens: int = 0) -> None:
        """Count ``n`` more units as done and ``tokens`` more as sampled."""

    def say(self, text: str) -> None:
        """Set the text beside the numbers: a loss, a score."""

    def warn(self, text: str) -> None:
        """Report a fault that the stage survives."""


@dataclass(frozen=True)
class Stage:
    """A stage and its progress; times are the clock's."""

    name: str
    began: float
    total: int | None = None
    """Units in all; ``None``: unknown."""
    earlier: int = 0
    """Units that another process had done."""
    done: int = 0
    """Units done so far, those of ``earlier`` included as they are reported."""
    tokens: int = 0
    """Tokens sampled so far."""
    said: str = ""
    """The newest loss or score, in words."""
    first: tuple[float, int] | None = None
    """When the first units of this process were done, and ``done`` by then. The pace counts from there: before it an
    engine may have started, and many responses are drawn at a time."""
    last: float = 0.0
    """When the newest units were done."""

    def advanced(self, n: int, tokens: int, now: float) -> Stage:
        """Return it with ``n`` more units and ``tokens`` more tokens."""
        done = self.done + n
        first = self.first or ((now, done) if done > self.earlier else None)
        return replace(self, done=done, tokens=self.tokens + tokens, first=first, last=now if n else self.last)

    @property
    def left(self) -> float | None:
        """Seconds that the rest takes at the pace so far; ``None`` when that cannot be told or nothing is left."""
        since, before = self.first or (0.0, self.done)
        fresh, open_ = self.done - before, (self.total or 0) - self.done
        return (self.last - since) * open_ / fresh if fresh > 0 and open_ > 0 else None


def spell(seconds: float) -> str:
    """Return ``64 s``, ``3 min 20 s`` or ``1 h 05 min``."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def details(stage: Stage, now: float) -> str:
    """Return everything but the stage's name: ``512/2345, loss 0.312, 64 s, about 3 min 50 s left``, or ``20 s so
    far``.
    """
    spent, left = now - stage.began, stage.left
    parts = [] if stage.total is None else [f"{stage.done}/{stage.total}"]
    parts += [stage.said] if stage.said else []
    parts.append(spell(spent) if stage.total else f"{spell(spent)} so far")
    parts += [f"{stage.tokens / spent:,.0f} tok/s"] if stage.tokens and spent > 1 else []
    return ", ".join(parts + ([] if left is None else [f"about {spell(left)} left"]))


def row(stage: Stage, now: float) -> tuple[RenderableType, RenderableType, RenderableType]:
    """Name, bar and numbers for a grid of three columns (``grid``)."""
    bar = ProgressBar(total=stage.total or None, completed=min(stage.done, stage.total or 0), pulse=not stage.total)
    return Text(stage.name), bar, Text(details(stage, now))


def grid() -> Table:
    """Return a table of ``row``s: the bar takes what the words leave."""
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(min_width=12, no_wrap=True)
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    return table


class Track:
    """The present stage, followed from any thread: what ``Lines``, ``Bar`` and the live view of a run share."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self.current: Stage | None = None
        self.lock = threading.RLock()

    def stage(self, name: str, total: int | None = None, earlier: int = 0) -> None:
        """See ``Progress``."""
        with self.lock:
            self.current = Stage(one_line(name, 60), self.clock(), total, earlier)

    def advance(self, n: int, tokens: int = 0) -> None:
        """See ``Progress``."""
        with self.lock:
            if self.current:
                self.current = self.current.advanced(n, tokens, self.clock())

    def say(self, text: str) -> None:
        """See ``Progress``."""
        with self.lock:
            if self.current:
                self.current = replace(self.current, said=one_line(text, 60))

    def end(self) -> None:
        """End the present stage."""
        with self.lock:
            self.current = None


class View(Track, ABC):
    """A track that is shown. Use as a context manager, or ``close()`` it."""

    @abstractmethod
    def print(self, line: str) -> None:
        """Print one line of another kind."""

    @abstractmethod
    def announce(self, line: str) -> None:
        """Print one line on the present stage; its end will then be shown, however soon it comes."""

    @abstractmethod
    def close(self) -> None:
        """End the last stage. Idempotent."""

    def warn(self, text: str) -> None:
        """See ``Progress``."""
        self.print(f"warning: {one_line(text, 600)}")

    @abstractmethod
    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None:
        self.close()


class Lines(View):
    """Plain lines without escape codes, for logs.

    A stage that is over before a line is due says nothing; one that has spoken also says its end.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic, outlook: Callable[[], str] = str) -> None:
        """``outlook`` gives what is added to each line, e.g. the time that the whole run will take."""
        super().__init__(clock)
        self._console, self._outlook = console, outlook
        self._spoke = clock()
        self._told = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep_ticking, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def stage(self, name: str, total: int | None = None, earlier: int = 0) -> None:
        """See ``Progress``."""
        with self.lock:
            self.end()
            super().stage(name, total, earlier)

    def print(self, line: str) -> None:
        """Print one line; the next one of the stage is due ``LINE_EVERY_S`` later."""
        with self.lock:
            self._spoke = self.clock()
            self._console.print(Text(line), soft_wrap=True)

    def announce(self, line: str) -> None:
        """Print one line on the present stage; its end will then be told, however soon it comes."""
        with self.lock:
            self.print(line)
            self._told = True

    def tick(self) -> None:
        """Print the progress of the stage if a line is due."""
        with self.lock:
            if self.current and self.clock() - self._spoke >= LINE_EVERY_S:
                outlook = self._outlook()
                self.announce(self._line(self.current) + (f"; {outlook}" if outlook else ""))

    def end(self) -> None:
        """End the present stage, and tell so if it has been announced."""
        with self.lock:
            if self.current and self._told:
                self.print(self._line(self.current))
            self._told = False
            super().end()

    def _line(self, stage: Stage) -> str:
        return f"{stage.name}: {details(stage, self.clock())}"

    def close(self) -> None:
        """End the stage and the thread. Idempotent."""
        self.end()
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _keep_ticking(self) -> None:
        while not self._closed.wait(TICK_S):
            try:
                self.tick()
            except (OSError, ValueError):  # the output is closed; who waits for the stage will find out and say so
                return


class Bar(View):
    """A picture for terminals that is redrawn in place: of the stage alone, or of more."""

    def __init__(
        self,
        console: Console,
        clock: Clock = time.monotonic,
        transient: bool = False,
        picture: RenderableType | None = None,
    ) -> None:
        """``transient``: nothing stays of it in the end. ``picture``: drawn instead of the row of the stage."""
        super().__init__(clock)
        self._console = console
        self._live = Live(picture or self, console=console, refresh_per_second=4, transient=transient)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def announce(self, line: str) -> None:
        """Print one line on the present stage; the bar shows the rest."""
        self.print(line)

    def print(self, line: str) -> None:
        """Print one line above the bar."""
        self._console.print(Text(line), soft_wrap=True)

    def close(self) -> None:
        """Leave the last picture standing, unless it is transient. Idempotent."""
        self._live.stop()

    def __rich__(self) -> RenderableType:
        """Called from the refresh thread, so it only reads."""
        current, table = self.current, grid()
        if current:
            table.add_row(*row(current, self.clock()))
        return table


def console_on(stream: str) -> Console:
    """Return the console of ``stdout`` or ``stderr``: a terminal only if it is one, also under FORCE_COLOR, which is
    about colours and would fill a log with cursor movements.
    """
    file = getattr(sys, stream)
    return Console(stderr=stream == "stderr", highlight=False, force_terminal=file.isatty())


def is_picture(console: Console) -> bool:
    """Return whether the console can redraw in place."""
    return console.is_terminal and not console.is_dumb_terminal


def progress(console: Console | None = None, clock: Clock = time.monotonic, transient: bool = False) -> View:
    """Return the view that fits ``console`` (standard error)."""
    console = console or console_on("stderr")
    return Bar(console, clock, transient) if is_picture(console) else Lines(console, clock)


@contextmanager
def waiting(name: str, console: Console | None = None) -> Iterator[None]:
    """Show a stage without units (a start, an import) for the length of the block; nothing of it stays on a
    terminal.
    """
    with progress(console, transient=True) as view:
        view.stage(name)
        yield
