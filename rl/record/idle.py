"""How much of the time engines and learner had nothing to do, and what they waited for. Pure functions.

Idle time is that of the RL part of each process, from its first publish to the end of its last training: neither the
start, nor the evaluations before and after, nor the time between two processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rl.record.timeline import Piece, Process, between, engine_number, in_order, pieces
from rollout.timeline import DRIVER, LEARNER, SAVER

LONGEST = 3
"""Idle stretches of a lane that are told, the longest first."""


@dataclass(frozen=True)
class Stretch:
    """A time in which a lane had nothing to do."""

    process: int
    """Index of the process."""
    start: float
    """Seconds from the start of the process."""
    seconds: float
    waited_for: str
    """What went on the longest meanwhile, as in ``learner: train``; empty when nothing is on record."""


@dataclass(frozen=True)
class Use:
    """What a lane did with the time."""

    lane: str
    seconds: Mapping[str, float]
    """At work, by what it did, the longest first."""
    there_s: float
    """Seconds in which it was there, at work or not: engines join and leave."""
    idle_s: float
    idle: float
    """The share of the time in which it was there, in [0, 1]."""
    longest: Sequence[Stretch]
    """Its longest idle stretches."""


@dataclass(frozen=True)
class Summary:
    """The RL part of a run, by lane."""

    seconds: float
    """Wall time, of all processes."""
    lanes: Sequence[Use]
    """Of lanes that were there at any time."""
    together_s: float
    """Seconds in which the learner trained and engines sampled; of several engines the mean, as if each had been there
    all the time.
    """

    def use(self, lane: str) -> Use | None:
        """Return what a lane did."""
        return next((use for use in self.lanes if use.lane == lane), None)

    @property
    def engines_idle(self) -> float | None:
        """The mean idle share of the engines, each by the time in which it was there; ``None`` without any."""
        engines = [use for use in self.lanes if engine_number(use.lane) is not None]
        return sum(use.idle_s for use in engines) / sum(use.there_s for use in engines) if engines else None

    @property
    def learner_idle(self) -> float | None:
        """The learner's idle share; ``None`` when there is none on record."""
        use = self.use(LEARNER)
        return None if use is None else use.idle


@dataclass(frozen=True)
class Window:
    """The RL part of one process."""

    start: float
    end: float
    lanes: Mapping[str, Sequence[Piece]]
    """What each lane did, by lane; pieces may reach over the ends."""
    process: int = 0
    """Index of the process."""
    there: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """From when to when lanes were there, of those that were not all the time."""

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start

    def of(self, lane: str) -> tuple[float, float]:
        """Return from when to when a lane was there; both are the same where it was not."""
        return self.there.get(lane, (self.start, self.end))


def windows(processes: Sequence[Process]) -> list[Window]:
    """Return the RL parts of those processes that trained. A lane of any of them is in all, engines also where they are
    not there.
    """
    names = in_order(span.lane for process in processes for span in process.spans)
    found = []
    for index, process in enumerate(processes):
        starts = [span.start for span in process.spans if (span.lane, span.what) == (DRIVER, "publish")]
        start = min(starts, default=None)
        if start is None:
            continue
        end = max((span.end for span in process.spans if (span.lane, span.what) == (LEARNER, "train")), default=start)
        if end > start:
            own = {lane: pieces(process, lane) for lane in names}
            there = {lane: _there(process, lane, start, end) for lane in names if engine_number(lane) is not None}
            found.append(Window(start, end, own, index, there))
    return found


def _there(process: Process, engine: str, start: float, end: float) -> tuple[float, float]:
    """Return from when to when an engine was there between ``start`` and ``end``."""
    if all(span.lane != engine for span in process.spans):
        return start, start
    first = min(max(start, process.joined.get(engine, start)), end)
    return first, max(first, min(end, process.left.get(engine, end)))


def summarise(parts: Sequence[Window]) -> Summary | None:
    """Return what the lanes did in the RL parts of a run; ``None`` when there is none."""
    if not parts:
        return None
    total = sum(part.seconds for part in parts)
    lanes = [lane for lane in parts[0].lanes if _there_s(parts, lane) > 0]
    engines = [lane for lane in lanes if engine_number(lane) is not None]
    together = sum(_together(part, lane) for lane in engines for part in parts)
    possible = sum(_there_s(parts, lane) for lane in engines)
    return Summary(total, [_use(parts, lane) for lane in lanes], total * together / possible if engines else 0.0)


def _there_s(parts: Sequence[Window], lane: str) -> float:
    return sum(end - start for start, end in (part.of(lane) for part in parts))


def _use(parts: Sequence[Window], lane: str) -> Use:
    seconds: dict[str, float] = {}
    for part in parts:
        for piece in part.lanes[lane]:
            if spent := piece.within(*part.of(lane)):
                seconds[piece.what] = seconds.get(piece.what, 0.0) + spent
    there = _there_s(parts, lane)
    idle = max(0.0, there - sum(seconds.values()))
    gaps = [(end - start, part, start) for part in parts for start, end in _gaps(part, lane)]
    gaps.sort(key=lambda gap: -gap[0])
    longest = [
        Stretch(part.process, start, size, _waited_for(part, lane, start, size)) for size, part, start in gaps[:LONGEST]
    ]
    return Use(lane, dict(sorted(seconds.items(), key=lambda item: -item[1])), there, idle, idle / there, longest)


def _gaps(part: Window, lane: str) -> list[tuple[float, float]]:
    """Return starts and ends of the times in which a lane was there and did nothing."""
    found: list[tuple[float, float]] = []
    now, end = part.of(lane)
    for piece in part.lanes[lane]:
        if now >= end:
            return found
        if piece.start > now:
            found.append((now, min(piece.start, end)))
        now = max(now, piece.end)
    return [*found, (now, end)] if now < end else found


def _waited_for(part: Window, lane: str, start: float, seconds: float) -> str:
    """Return what went on the longest in that time elsewhere.

    A phase of the driver mostly is its waiting for the others: it counts where they did less than half as much. Nobody
    waits for what is saved, but in the driver's own phase.
    """
    spent: dict[str, dict[str, float]] = {}
    for other in part.lanes.keys() - {lane, SAVER}:
        kind = spent.setdefault("driver" if other == DRIVER else "others", {})
        for piece in between(part.lanes[other], start, start + seconds):
            name = f"{other}: {piece.what}"
            kind[name] = kind.get(name, 0.0) + piece.within(start, start + seconds)
    best = [max(kind.items(), key=lambda item: (item[1], item[0])) for kind in spent.values() if kind]
    best.sort(key=lambda item: item[1] / 2 if item[0].startswith(f"{DRIVER}: ") else item[1])
    return best[-1][0] if best else ""


def _together(part: Window, engine: str) -> float:
    """Return the seconds in which the learner trains and an engine samples."""
    total = 0.0
    for piece in part.lanes.get(LEARNER, ()):
        if piece.what != "train":
            continue
        for other in between(part.lanes[engine], max(piece.start, part.start), min(piece.end, part.end)):
            if other.what == "sample":
                total += other.within(max(piece.start, part.start), min(piece.end, part.end)) * piece.share
    return total
