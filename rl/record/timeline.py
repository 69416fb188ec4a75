"""The timeline of a run as it is read back: processes, spans, and what a lane did at each moment. Pure functions.

``rollout.timeline`` writes it. Times are seconds from the start of the recording of their process.
"""

from __future__ import annotations

import heapq
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rollout.lines import BrokenLine, read_lines
from rollout.timeline import DRIVER, ENGINE, FILE, GRADER, JUDGE, LEARNER, SAVER, engine_lane

_ENGINES = {name: re.compile(re.escape(engine_lane(0, name)).replace("0", r"(\d{1,9})")) for name in (ENGINE, JUDGE)}
_ORDER = (LEARNER, GRADER, SAVER, DRIVER)
MOST = 1e12
"""Largest number of a line, in seconds thirty thousand years: sums and differences of such are finite, too."""


class TimelineError(RuntimeError):
    """The file of a timeline cannot be read."""


@dataclass(frozen=True)
class Span:
    """A lane did something from ``start`` to ``end``."""

    lane: str
    what: str
    start: float
    end: float
    busy: float
    """Seconds at work; less than ``end - start`` where short gaps were joined."""

    @property
    def share(self) -> float:
        """The part of the time at work, in [0, 1]."""
        return self.busy / (self.end - self.start) if self.end > self.start else 1.0


@dataclass(frozen=True)
class Process:
    """What one process of a run recorded; a resumed run has several."""

    wall: float
    """When the recording began, in seconds since 1970 as the clock on the wall had it."""
    spans: Sequence[Span]
    """In the order in which they ended; pieces of one span are put together."""
    done: Sequence[tuple[int, float]] = ()
    """Iterations and when each was done. One that was lost with its process is there again in a later one."""
    joined: Mapping[str, float] = field(default_factory=dict)
    """When lanes joined that were not there from the start."""
    left: Mapping[str, float] = field(default_factory=dict)
    """When lanes left that were not there to the end."""

    @property
    def end(self) -> float:
        """When the last of it ended."""
        return max((*(span.end for span in self.spans), *(at for _, at in self.done)), default=0.0)


@dataclass(frozen=True)
class Piece:
    """What a lane did from ``start`` to ``end``; pieces of a lane do not overlap."""

    start: float
    end: float
    what: str
    share: float = 1.0
    """The part of the time at work."""

    def within(self, start: float, end: float) -> float:
        """Return the seconds at work between ``start`` and ``end``."""
        return max(0.0, min(self.end, end) - max(self.start, start)) * self.share


def between(lane: Sequence[Piece], start: float, end: float) -> Sequence[Piece]:
    """Return those pieces of a lane, which are in order, that reach into the time from ``start`` to ``end``."""
    first = bisect_right(lane, start, key=lambda piece: piece.end)
    return lane[first : bisect_left(lane, end, lo=first, key=lambda piece: piece.start)]


def engine_number(lane: str, name: str = ENGINE) -> int | None:
    """Return the number of the engine of that name whose lane it is; ``None`` for other lanes."""
    found = _ENGINES[name].fullmatch(lane)
    return int(found[1]) if found else None


def in_order(lanes: Iterable[str]) -> list[str]:
    """Return lanes as they are shown: learner, engines by number, those of a judge, the others."""

    def place(lane: str) -> tuple[int, int, str]:
        for group, name in enumerate(_ENGINES, 1):
            if (number := engine_number(lane, name)) is not None:
                return group, number, lane
        known = _ORDER.index(lane) if lane in _ORDER else len(_ORDER)
        return (0 if known == 0 else len(_ENGINES) + 1), known, lane

    return sorted(set(lanes), key=place)


def read_timeline(run_dir: Path) -> list[Process]:
    """Return the processes of a run, in their order; none when it has no timeline.

    A torn last line, which a kill leaves, is left out. Raises ``TimelineError`` naming file and line of any other.
    """
    path = run_dir / FILE
    found: list[Process] = []
    spans: list[Span] = []
    done: list[tuple[int, float]] = []
    joined: dict[str, float] = {}
    left: dict[str, float] = {}
    try:
        for number, line in read_lines(path):
            try:
                if isinstance(line, dict) and "wall" in line:
                    spans, done, joined, left = [], [], {}, {}
                    found.append(Process(_number(line, "wall"), spans, done, joined, left))
                elif not found:
                    raise ValueError("no process has begun")
                elif isinstance(line, dict) and "iteration" in line:
                    done.append((int(_number(line, "iteration")), _number(line, "at")))
                elif isinstance(line, dict) and "joined" in line:
                    joined[_text(line, "lane")] = _number(line, "joined")
                elif isinstance(line, dict) and "left" in line:
                    left[_text(line, "lane")] = _number(line, "left")
                else:
                    spans.append(_span(line))
            except (ValueError, TypeError, KeyError) as error:
                raise TimelineError(
                    f"{path}, line {number}: no line of a timeline ({error}); remove it to go on"
                ) from error
    except BrokenLine as error:
        raise TimelineError(f"{path}, {error}; remove the line to go on") from error
    except OSError as error:
        raise TimelineError(f"cannot read {path}: {error.strerror or error}") from error
    return [replace(process, spans=_joined(process.spans)) for process in found]


def _number(line: Mapping[str, Any], key: str) -> float:
    value = line[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not -MOST <= value <= MOST:
        raise ValueError(f"{key} is no number within {MOST:g}")
    return float(value)


def _text(line: Mapping[str, Any], key: str) -> str:
    value = line[key]
    if not isinstance(value, str):
        raise ValueError(f"{key} is no text")
    return value


def _span(line: Mapping[str, Any]) -> Span:
    lane, what, start, end = _text(line, "lane"), _text(line, "what"), _number(line, "start"), _number(line, "end")
    if end < start:
        raise ValueError("it ends before it starts")
    busy = _number(line, "busy") if "busy" in line else end - start
    return Span(lane, what, start, end, min(max(busy, 0.0), end - start))


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Put pieces of one span together, where the next one starts at the very moment at which the last one ends."""
    found: list[Span] = []
    last: dict[tuple[str, str], int] = {}
    for span in spans:
        key = span.lane, span.what
        before = found[last[key]] if key in last else None
        if before is not None and before.end == span.start:
            found[last[key]] = replace(before, end=span.end, busy=before.busy + span.busy)
        else:
            last[key] = len(found)
            found.append(span)
    return found


def pieces(process: Process, lane: str) -> list[Piece]:
    """Return what a lane did when, in order: of spans that overlap that which began last, which is the inner one.

    What an engine samples while the driver evaluates is ``eval``.
    """
    own = _flat([span for span in process.spans if span.lane == lane])
    if engine_number(lane) is None:
        return own
    evaluations = _flat([span for span in process.spans if span.lane == DRIVER and span.what == "eval"])
    return _renamed(own, "sample", "eval", evaluations)


def _flat(spans: Iterable[Span]) -> list[Piece]:
    found: list[Piece] = []
    open_: list[tuple[float, float, str, float]] = []  # begun last first, of these the one that ends first
    now = 0.0

    def until(limit: float) -> None:
        nonlocal now
        while open_ and now < limit:
            _, end, what, share = open_[0]
            if end <= now:
                heapq.heappop(open_)
                continue
            stop = min(end, limit)
            found.append(Piece(now, stop, what, share))
            now = stop
        now = max(now, limit)

    for span in sorted(spans, key=lambda span: span.start):
        until(span.start)
        now = span.start
        heapq.heappush(open_, (-span.start, span.end, span.what, span.share))
    until(max((end for _, end, _, _ in open_), default=now))
    return found


def _renamed(own: Sequence[Piece], what: str, other: str, when: Sequence[Piece]) -> list[Piece]:
    """Return ``own``, with ``what`` called ``other`` where it is within a piece of ``when``."""
    found: list[Piece] = []
    for piece in own:
        if piece.what != what:
            found.append(piece)
            continue
        now = piece.start
        for one in between(when, piece.start, piece.end):
            start, end = max(one.start, now), min(one.end, piece.end)
            if start > now:
                found.append(replace(piece, start=now, end=start))
            found.append(replace(piece, start=start, end=end, what=other))
            now = end
        if now < piece.end:
            found.append(replace(piece, start=now))
    return found
