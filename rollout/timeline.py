"""What each part of a run did when: spans of work by lane, appended to a file while the run goes on.

Like logging, recording is a matter of the whole process: a part says what it does (``with span("learner", "train")``),
and whether anyone records it is decided once, by ``recording``. Without that a span costs next to nothing.

The file has one JSON object a line. ``wall`` opens the spans of one process: their times are seconds from then on, of a
clock that never jumps; ``wall`` itself counts from 1970. ``busy`` is there where short gaps were joined: the seconds at
work between ``start`` and ``end``. The line of an iteration says when it was done. A lane is there from start to end,
unless it says when it ``joined`` or ``left``.

    {"wall": 1764447079.1}
    {"lane": "engine 0", "what": "sample", "start": 1.5, "end": 4.25, "busy": 2.5}
    {"iteration": 0, "at": 5.0}
    {"lane": "engine 1", "joined": 5.5}

A killed process loses, of what it did since the end of an iteration, spans that had not ended, and the last second (or
thousandth of the time so far) of work in short pieces. On one lane spans may overlap: what began last is what it did
(``rl.record.timeline``).
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from rollout.lines import LineWriter

P = ParamSpec("P")
T = TypeVar("T")

FILE = "timeline.jsonl"
LEARNER, GRADER, DRIVER, SAVER = "learner", "grader", "driver", "saver"
"""Lanes. The saver writes rollouts and checkpoints, also while the others go on."""
ENGINE, JUDGE = "engine", "judge"
"""What engines of the policy and of a reward model are called; each has a lane of its own."""
GAP_S = 0.01
GAP_SHARE = 1e-5
"""Gaps within the same work are joined when they are shorter than ``GAP_S``, or than this share of the time so far: so
the file grows with the logarithm of time where work comes in tiny pieces. ``busy`` keeps the idle time exact."""
PIECE = 100
"""Work is written in pieces of so many times the longest gap that is joined."""


def engine_lane(index: int, name: str = ENGINE) -> str:
    """Return the lane of an engine; ``name``: what the engines of its pool are called."""
    return f"{name} {index}"


@dataclass
class _Activity:
    """One kind of work on one lane; several at once count as one. Times in seconds from the start of the recording."""

    lane: str
    what: str
    at_once: int = 0
    """How many such spans are open."""
    since: float = 0.0
    """While one is open: where the part of it begins that is not noted yet."""
    start: float | None = None
    """Where the piece begins that is noted and not written yet; ``None``: there is none."""
    end: float = 0.0
    busy: float = 0.0

    def note(self, start: float, end: float, gap: float) -> list[dict[str, Any]]:
        """Add a span, and return the lines that are to be written: pieces before it, and its own if it is long."""
        lines = []
        if self.start is not None and start - self.end > gap:
            lines.append(self.take())
        if self.start is None:
            self.start, self.end, self.busy = start, end, end - start
        else:
            before, after = max(0.0, min(end, self.start) - start), max(0.0, end - max(start, self.end))
            self.busy += before + after
            self.start, self.end = min(self.start, start), max(self.end, end)
        if self.end - self.start >= PIECE * gap:
            lines.append(self.take())
        return lines

    def take(self) -> dict[str, Any]:
        """Return the piece that is noted, as a line; nothing is noted then."""
        assert self.start is not None
        start, end = round(self.start, 6), round(self.end, 6)
        line: dict[str, Any] = {"lane": self.lane, "what": self.what, "start": start, "end": end}
        if end - start - self.busy > 2e-6:
            line["busy"] = round(self.busy, 6)
        self.start = None
        return line


@dataclass
class _Lane:
    """How long a lane has been at work since the last lap."""

    at_work: int = 0
    """Kinds of work that are open."""
    until: float = 0.0
    """Up to when its work is counted in ``busy``."""
    busy: float = 0.0
    joined: float = 0.0
    """Since when it is there, in seconds from the start of the recording."""
    left: bool = False

    def enter(self, now: float) -> None:
        """One kind of work more."""
        self.count(now)
        self.at_work += 1
        self.until = now

    def leave(self, now: float) -> None:
        """One kind of work less."""
        self.count(now)
        self.at_work -= 1

    def count(self, now: float) -> None:
        """Count work that is open up to ``now``."""
        if self.at_work:
            self.busy += now - self.until
            self.until = now

    def count_past(self, start: float, end: float) -> None:
        """Count work that has ended, unless what is open covers it."""
        if not self.at_work:
            self.busy += max(0.0, end - max(start, self.until))
            self.until = max(self.until, end)

    def lap(self, now: float) -> float:
        """Return the seconds at work since the last lap."""
        self.count(now)
        self.until = max(self.until, now)
        busy, self.busy = self.busy, 0.0
        return busy


class Timeline:
    """Records spans into a file, from any thread. ``clock`` is monotonic, in seconds; ``wall`` is read once.

    Memory: a few numbers for each lane and kind of work. When the file cannot be written any more, ``warn`` is told at
    the next lap, and the rest is not recorded: a run does not fail for it. Opening raises ``OSError``.
    """

    def __init__(
        self,
        path: Path,
        warn: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._warn, self._clock, self._anchor = warn, clock, clock()
        self._lock = threading.Lock()
        self._activities: dict[tuple[str, str], _Activity] = {}
        self._lanes: dict[str, _Lane] = {}
        self._lap = 0.0
        self._fault = ""
        self._file: LineWriter | None = LineWriter(path)
        self._write([{"wall": wall()}])

    def begin(self, lane: str, what: str) -> None:
        """Note that ``lane`` begins with ``what``; each needs its ``end``."""
        with self._lock:
            now, activity = self._now(), self._activity(lane, what)
            if not activity.at_once:
                activity.since = now
                self._lane(lane).enter(now)
            activity.at_once += 1

    def end(self, lane: str, what: str) -> None:
        """Note the end of what was begun."""
        with self._lock:
            now, activity = self._now(), self._activity(lane, what)
            activity.at_once -= 1
            if not activity.at_once:
                self._lane(lane).leave(now)
                self._write(activity.note(activity.since, now, _gap(now)))

    def beat(self, lane: str, what: str) -> None:
        """Note that what was begun still goes on: a kill loses what came after."""
        with self._lock:
            now, activity = self._now(), self._activity(lane, what)
            self._write(activity.note(activity.since, now, _gap(now)))
            activity.since = now

    def add(self, lane: str, what: str, start_s: float, end_s: float) -> None:
        """Note a span that has ended; seconds of the recorder's clock."""
        with self._lock:
            start, end, now = start_s - self._anchor, end_s - self._anchor, self._now()
            self._lane(lane).count_past(start, end)
            self._write(self._activity(lane, what).note(start, end, _gap(now)))

    def join(self, lane: str) -> None:
        """Note that a lane is there from now on."""
        with self._lock:
            now = self._now()
            self._lane(lane).joined = now
            self._write([{"lane": lane, "joined": round(now, 6)}])

    def leave(self, lane: str) -> None:
        """Note that a lane is not there any more."""
        with self._lock:
            self._lane(lane).left = True
            self._write([{"lane": lane, "left": round(self._now(), 6)}])

    def lap(self, iteration: int | None = None) -> dict[str, float]:
        """Return each lane's idle share, in [0, 1], since the lap before (the first: since the recording began), of the
        lanes that were there all the time.

        Marks the end of ``iteration``, if one is given; all that was done by then is in the file.
        """
        with self._lock:
            now = self._now()
            before, self._lap = self._lap, now
            busy = {name: lane.lap(now) for name, lane in self._lanes.items()}
            whole = [name for name, lane in self._lanes.items() if lane.joined <= before and not lane.left]
            if iteration is not None:
                self._flush(now)
                self._write([{"iteration": iteration, "at": round(now, 6)}])
        self._tell()
        seconds = now - before
        return {name: min(1.0, max(0.0, 1.0 - busy[name] / seconds)) for name in whole} if seconds > 0 else {}

    def close(self) -> None:
        """Write what is noted, also of spans that are still open, and close the file. Idempotent."""
        with self._lock:
            self._flush(self._now())
            if self._file is not None:
                self._file.close()
                self._file = None
        self._tell()

    def _flush(self, now: float) -> None:
        """Write what is noted, and the part up to ``now`` of what is open."""
        for activity in self._activities.values():
            if activity.at_once:
                self._write(activity.note(activity.since, now, _gap(now)))
                activity.since = now
            if activity.start is not None:
                self._write([activity.take()])

    def _tell(self) -> None:
        fault, self._fault = self._fault, ""
        if fault:
            self._warn(fault)

    def _now(self) -> float:
        return self._clock() - self._anchor

    def _activity(self, lane: str, what: str) -> _Activity:
        found = self._activities.get((lane, what))
        return found or self._activities.setdefault((lane, what), _Activity(lane, what))

    def _lane(self, name: str) -> _Lane:
        return self._lanes.get(name) or self._lanes.setdefault(name, _Lane(until=self._lap))

    def _write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append lines; after the first that could not be written whole none, since it may be torn."""
        for line in lines:
            if self._file is None:
                return
            try:
                self._file.append(line)
            except OSError as error:
                self._fault = f"the timeline ends here: cannot write {self.path}: {error.strerror or error}"
                self._file.close()
                self._file = None


def _gap(now: float) -> float:
    """Return the longest gap, in seconds, that is joined ``now`` seconds after the recording began."""
    return max(GAP_S, GAP_SHARE * now)


_current: Timeline | None = None


@contextmanager
def recording(path: Path, warn: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Record what this process does into ``path`` while the block runs; see ``Timeline``. Raises ``OSError``."""
    global _current
    before, own = _current, Timeline(path, warn, clock)
    _current = own
    try:
        yield
    finally:
        _current = before
        own.close()


def add(lane: str, what: str, start_s: float, end_s: float) -> None:
    """Note a span that has ended; ``time.monotonic`` seconds."""
    if _current is not None:
        _current.add(lane, what, start_s, end_s)


def join(lane: str) -> None:
    """See ``Timeline.join``."""
    if _current is not None:
        _current.join(lane)


def leave(lane: str) -> None:
    """See ``Timeline.leave``."""
    if _current is not None:
        _current.leave(lane)


def lap(iteration: int | None = None) -> dict[str, float]:
    """See ``Timeline.lap``; empty where nothing is recorded."""
    return {} if _current is None else _current.lap(iteration)


class Switch:
    """Work that begins and ends in different places. Its owner says again and again whether it goes on.

    Use from one thread at a time.
    """

    def __init__(self, lane: str, what: str) -> None:
        self._of = lane, what
        self._on: Timeline | None = None

    def turn(self, on: bool) -> None:
        """Note whether the work goes on now."""
        if on and self._on is _current:
            if self._on is not None:
                self._on.beat(*self._of)
            return
        if self._on is not None:
            self._on.end(*self._of)
        self._on = _current if on else None
        if self._on is not None:
            self._on.begin(*self._of)


class span:  # noqa: N801  reads like a function
    """``with span("learner", "train"):`` notes that the lane does this while the block runs."""

    def __init__(self, lane: str, what: str) -> None:
        self._switch = Switch(lane, what)

    def __enter__(self) -> None:
        self._switch.turn(True)

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._switch.turn(False)


def spanned(lane: str, what: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator: each call of the function is a span."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def recorded(*args: P.args, **kwargs: P.kwargs) -> T:
            with span(lane, what):
                return function(*args, **kwargs)

        return recorded

    return decorate
