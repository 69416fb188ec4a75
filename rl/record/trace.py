"""The timeline of a run in the Trace Event Format, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

A process of the run is a process there, and a lane a thread of it. What the lane did are complete events (``X``), the
end of an iteration is an instant event (``i``). The format allows no overlap within a thread: of spans that overlap the
inner one is given, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rl.record.timeline import Process, in_order, pieces
from rollout.files import replacing
from rollout.plain import visible
from rollout.strict_json import dumps

FILE = "trace.json"
MOST_APART_S = 7 * 86400.0
"""Longest time between two processes that is shown."""


def starts(processes: Sequence[Process]) -> list[float]:
    """Return when each process began, in seconds from the start of the first.

    That is by the clock on the wall, which may have been set in between: none begins before the last one had ended,
    nor more than ``MOST_APART_S`` later.
    """
    found = [0.0 for _ in processes[:1]]
    for before, process in pairwise(processes):
        apart = process.wall - before.wall - before.end
        found.append(found[-1] + before.end + min(max(0.0, apart), MOST_APART_S))
    return found


def events(processes: Sequence[Process], name: str) -> Iterator[dict[str, Any]]:
    """Yield the events of a run called ``name``; times in whole microseconds."""
    lanes = in_order(span.lane for process in processes for span in process.spans)
    for pid, (process, start) in enumerate(zip(processes, starts(processes), strict=True), 1):
        yield _metadata("process_name", pid, 0, {"name": visible(f"{name}, process {pid}")})
        yield _metadata("process_sort_index", pid, 0, {"sort_index": pid})
        for place, lane in enumerate(lanes, 1):
            tid = 1000 * pid + place  # one of its own in every process; one that is also a pid is a "main thread"
            yield _metadata("thread_name", pid, tid, {"name": visible(lane)})
            yield _metadata("thread_sort_index", pid, tid, {"sort_index": place})
            for piece in pieces(process, lane):
                begin, end = _microseconds(start + piece.start), _microseconds(start + piece.end)
                yield {
                    "name": visible(piece.what),
                    "cat": "timeline",
                    "ph": "X",
                    "ts": begin,
                    "dur": end - begin,
                    "pid": pid,
                    "tid": tid,
                    "args": {"busy": round(piece.share, 4)},
                }
        for iteration, at in process.done:
            yield {
                "name": f"iteration {iteration} done",
                "cat": "timeline",
                "ph": "i",
                "s": "p",
                "ts": _microseconds(start + at),
                "pid": pid,
                "tid": 0,
            }


def write_trace(processes: Sequence[Process], name: str, path: Path) -> None:
    """Write a run's timeline as a trace. Raises ``OSError``."""
    with replacing(path) as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [')
        for index, event in enumerate(events(processes, name)):
            file.write(",\n" if index else "\n")
            file.write(dumps(event))
        file.write("\n]}\n")


def _metadata(what: str, pid: int, tid: int, args: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": what, "ph": "M", "ts": 0, "pid": pid, "tid": tid, "args": args}


def _microseconds(seconds: float) -> int:
    """Return whole microseconds: what touches must not overlap by rounding."""
    return round(seconds * 1e6)
