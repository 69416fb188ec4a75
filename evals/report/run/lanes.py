"""The timeline of a run as data for its chart of lanes. Pure functions.

The RL parts of the processes come one after the other, without the time between them. A short run is drawn span by
span; of a long one each lane shows how it spent its time in equal steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from evals.report.page.choice import evenly
from rl.record.idle import Summary, Use, Window, summarise, windows
from rl.record.timeline import Piece, Process, engine_number
from rollout.plain import one_line

MOST_PIECES = 60_000
"""Pieces up to which all of a run's are drawn; of more there are steps."""
MOST_STEPS = 1_200
MOST_ENGINES = 16
"""Lanes of engines that are drawn; the table has them all."""
MOST_KINDS = 12
"""Kinds of work that are told apart."""
COLORS = {"sample": 0, "train": 1, "grade": 2, "eval": 3, "publish": 4, "score": 4, "save": 5, "store": 6, "compare": 5}
"""Index into the page's palette by kind of work; others have the last one."""
OTHER = "other"

Drawn = tuple[float, float, int, float, float]
"""Start and end in seconds on the chart, index of the kind, and the part of the lane's height that it fills."""


def lanes(processes: Sequence[Process]) -> dict[str, Any] | None:
    """Return everything that the page shows of a timeline; ``None`` when no process trained."""
    parts = windows(processes)
    found = summarise(parts)
    if found is None:
        return None
    offsets = _offsets(parts)
    kinds = _kinds(found)
    names = _shown([use.lane for use in found.lanes])
    pieces = {name: _on_the_chart(parts, offsets, name) for name in names}
    step = _step(found.seconds, pieces)
    drawn = {
        name: _steps(own, found.seconds, step, kinds) if step else _spans(own, kinds) for name, own in pieces.items()
    }
    return {
        "seconds": found.seconds,
        "step": step,
        "kinds": [{"name": one_line(kind, 40), "color": COLORS.get(kind, 5)} for kind in kinds],
        "lanes": [{"name": one_line(name, 40), "drawn": _columns(drawn[name])} for name in names],
        "left_out": len(found.lanes) - len(names),
        "iterations": _iterations(processes, parts, offsets),
        "processes": offsets,
        "engines_idle": found.engines_idle,
        "learner_idle": found.learner_idle,
        "together": found.together_s,
        "table": [_row(use, parts, offsets) for use in found.lanes],
    }


def _offsets(parts: Sequence[Window]) -> list[float]:
    """Return where on the chart the part of each process begins."""
    found = [0.0]
    for part in parts[:-1]:
        found.append(found[-1] + part.seconds)
    return found


def _kinds(found: Summary) -> dict[str, int]:
    """Return the index of each kind of work: those of the house in their order, then what else took the longest."""
    total: dict[str, float] = {}
    for use in found.lanes:
        for what, seconds in use.seconds.items():
            total[what] = total.get(what, 0.0) + seconds
    known = [what for what in COLORS if what in total]
    rest = sorted(total.keys() - COLORS.keys(), key=lambda what: (-total[what], what))
    places = max(0, MOST_KINDS - len(known))
    names = [*known, *rest] if len(rest) <= places else [*known, *rest[: places - 1], OTHER]
    return {name: index for index, name in enumerate(names)}


def _shown(names: Sequence[str]) -> list[str]:
    engines = [name for name in names if engine_number(name) is not None]
    kept = set(evenly(engines, MOST_ENGINES))
    return [name for name in names if name in kept or name not in engines]


def _on_the_chart(parts: Sequence[Window], offsets: Sequence[float], lane: str) -> list[Piece]:
    """Return what a lane did in the RL parts, in seconds on the chart."""
    found = []
    for part, offset in zip(parts, offsets, strict=True):
        for piece in part.lanes[lane]:
            start, end = max(piece.start, part.start), min(piece.end, part.end)
            if end > start:
                moved = offset - part.start
                found.append(Piece(start + moved, end + moved, piece.what, piece.share))
    return found


def _step(seconds: float, pieces: Mapping[str, Sequence[Piece]]) -> float | None:
    """Return the length of a step, in seconds; ``None`` when every span can be drawn."""
    if sum(map(len, pieces.values())) <= MOST_PIECES:
        return None
    return seconds / min(MOST_STEPS, MOST_PIECES // len(pieces))


def _spans(pieces: Iterable[Piece], kinds: Mapping[str, int]) -> list[Drawn]:
    return [(piece.start, piece.end, _kind(kinds, piece.what), 0.0, piece.share) for piece in pieces]


def _steps(pieces: Sequence[Piece], seconds: float, step: float, kinds: Mapping[str, int]) -> list[Drawn]:
    """Return how a lane spent each step: the shares of the kinds of work, one upon the other."""
    count = max(1, round(seconds / step))
    spent: list[dict[int, float]] = [{} for _ in range(count)]
    for piece in pieces:
        kind = _kind(kinds, piece.what)
        for at in range(min(int(piece.start / step), count - 1), min(int(piece.end / step), count - 1) + 1):
            spent[at][kind] = spent[at].get(kind, 0.0) + piece.within(at * step, (at + 1) * step) / step
    found: list[Drawn] = []
    for at, shares in enumerate(spent):
        low = 0.0
        for kind, share in sorted(shares.items()):
            high = min(1.0, low + share)
            if high > low:
                found.append((at * step, (at + 1) * step, kind, low, high))
            low = high
    return found


def _kind(kinds: Mapping[str, int], what: str) -> int:
    return kinds.get(what, len(kinds) - 1)


def _columns(drawn: Sequence[Drawn]) -> list[list[float]]:
    """Return columns instead of rows: a page of many thousand pieces is half as long."""
    return [list(column) for column in zip(*drawn, strict=True)] if drawn else [[], [], [], [], []]


def _iterations(processes: Sequence[Process], parts: Sequence[Window], offsets: Sequence[float]) -> list[list[float]]:
    """Return number and end of each iteration that was done, in the order in which they were done."""
    return [
        [number, min(at, part.end) - part.start + offset]
        for part, offset in zip(parts, offsets, strict=True)
        for number, at in processes[part.process].done
        if part.start <= at
    ]


def _row(use: Use, parts: Sequence[Window], offsets: Sequence[float]) -> dict[str, Any]:
    """Return a lane as the table shows it; its longest waits with their place on the chart."""
    where = {part.process: offset - part.start for part, offset in zip(parts, offsets, strict=True)}
    return {
        "lane": one_line(use.lane, 40),
        "idle": use.idle,
        "idle_s": use.idle_s,
        "seconds": [[one_line(what, 40), spent] for what, spent in list(use.seconds.items())[:MOST_KINDS]],
        "longest": [
            asdict(stretch)
            | {"start": stretch.start + where[stretch.process], "waited_for": one_line(stretch.waited_for, 80)}
            for stretch in use.longest
        ],
    }
