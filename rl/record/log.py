"""The record of a run: ``metrics.jsonl``, held-out evaluations, and a timer for the phases.

One JSON object per line and iteration, on disk before the next iteration starts.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rewards.stats import Estimate
from rl.record.metrics import PHASES, Row
from rl.record.sinks import open_sinks
from rollout import timeline
from rollout.files import replace_file
from rollout.lines import BrokenLine, LineWriter, read_lines
from rollout.strict_json import dumps

FILE = "metrics.jsonl"


class LogError(RuntimeError):
    """A record cannot be read or written."""


class MetricsLog:
    """Appends rows to ``<run>/metrics.jsonl`` and to the trackers named.

    Raises ``LogError`` when the file cannot be written and ``SinkError`` when a tracker's package is missing, both
    before the run starts.
    """

    def __init__(
        self, run_dir: Path, sinks: Sequence[str] = (), project: str = "k15", config: Mapping[str, Any] | None = None
    ) -> None:
        self.path = run_dir / FILE
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            self._file = LineWriter(self.path, sync=True)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        self._sinks = open_sinks(sinks, run_dir, project, config or {})

    def write(self, iteration: int, row: Mapping[str, float]) -> Row:
        """Write one line, flushed to disk, and return it. NaN and infinities are left out; ``nonfinite`` counts
        them.
        """
        finite = {name: value for name, value in row.items() if math.isfinite(value)}
        line: Row = {**finite, "iteration": iteration, "nonfinite": len(row) - len(finite)}
        try:
            self._file.append(line)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        numbers = {name: value for name, value in line.items() if name != "iteration"}
        for sink in self._sinks:
            sink.write(iteration, numbers)
        return line

    def truncate(self, iteration: int) -> int:
        """Drop the rows from ``iteration`` on, atomically (a resumed run writes them again); returns how many."""
        rows = read_metrics(self.path.parent)
        kept = [row for row in rows if row["iteration"] < iteration]
        try:
            if len(kept) < len(rows):
                replace_file(self.path, "".join(dumps(row) + "\n" for row in kept).encode())
                self._file.close()
                self._file = LineWriter(self.path, sync=True)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        for sink in self._sinks:
            sink.rewind(iteration)
        return len(rows) - len(kept)

    def close(self) -> None:
        """Close the file and end the trackers. Idempotent."""
        self._file.close()
        while self._sinks:
            self._sinks.pop().close()


def read_metrics(run_dir: Path) -> list[Row]:
    """Return all rows, in file order; none when the file does not exist yet.

    A last line without its newline is a row being written and is left out, as are nulls, which earlier versions wrote
    for what does not exist. Raises ``LogError`` with file and line number for any other line that is no JSON object
    with an integer ``iteration``.
    """
    path = run_dir / FILE
    rows = []
    try:
        for number, row in read_lines(path):
            if not isinstance(row, dict) or not isinstance(row.get("iteration"), int):
                raise LogError(
                    f"{path}, line {number}: no object with an integer 'iteration'; remove the line to go on"
                )
            rows.append({name: value for name, value in row.items() if value is not None})
    except BrokenLine as error:
        raise LogError(f"{path}, {error}; remove the line to go on") from error
    return rows


@dataclass(frozen=True)
class Evaluation:
    """One held-out evaluation, stored as ``eval/<name>.json``."""

    name: str
    """``before``, ``after`` or ``it0010``: also the file's name."""
    iteration: int
    """RL iterations done by then."""
    accuracy: Estimate
    """avg@``samples`` over problems, with its 95 % interval."""
    tokens: Estimate
    """Mean response tokens, with its 95 % interval."""
    samples: int
    """Responses per problem."""
    truncated: float = 0.0
    """Share of responses cut at the length cap (they count as wrong)."""
    ungradable: float = 0.0
    """Share of responses that the grader failed on (left out of the accuracy)."""
    greedy: Estimate | None = None
    """Accuracy of one greedy response per problem, if measured."""
    reward: Estimate | None = None
    """Mean reward with its 95 % interval; ``None`` in files of before it was stored."""

    @property
    def goes_by_reward(self) -> bool:
        """Whether the reward says more than what is right and wrong: it is then not the accuracy."""
        return self.reward is not None and abs(self.reward.mean - self.accuracy.mean) > 1e-9


def write_evaluation(run_dir: Path, evaluation: Evaluation) -> Path:
    """Store an evaluation and return its file."""
    path = run_dir / "eval" / f"{evaluation.name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, (dumps(asdict(evaluation), indent=1) + "\n").encode())
    except OSError as error:
        raise _cannot_write(path, error) from error
    return path


def read_evaluations(run_dir: Path) -> list[Evaluation]:
    """Return all evaluations of a run, by iteration. Raises ``LogError`` naming a file that is none."""
    found = []
    for path in sorted((run_dir / "eval").glob("*.json")):
        try:
            data = json.loads(path.read_bytes())
            if not isinstance(data, dict):
                raise TypeError(f"{type(data).__name__} instead of an object")
            for key in ("accuracy", "tokens", "greedy", "reward"):
                data[key] = data.get(key) and Estimate(**data[key])
            found.append(Evaluation(**data))
        except (ValueError, TypeError, KeyError) as error:
            raise LogError(f"{path}: not an evaluation of this version ({error}); remove it to go on") from error
    return sorted(found, key=lambda item: (item.iteration, item.name != "before", item.name))


def find_evaluation(run_dir: Path, name: str, iteration: int) -> Evaluation | None:
    """Return the evaluation of that name after so many iterations, if the run has it."""
    found = (item for item in read_evaluations(run_dir) if item.name == name and item.iteration == iteration)
    return next(found, None)


class Timer:
    """Measures wall seconds by phase, and notes the phases in the timeline."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """Seconds so far, by phase; a phase entered twice adds up."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a block, as in ``with timer("train"):``, also when it raises. ``ValueError`` for a name not in
        ``PHASES``.
        """
        if name not in PHASES:
            raise ValueError(f"unknown phase {name!r}; the phases are {', '.join(PHASES)}")
        start = time.perf_counter()
        try:
            with timeline.span(timeline.DRIVER, PHASES[name]):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _cannot_write(path: Path, error: OSError) -> LogError:
    return LogError(f"cannot write {path}: {error.strerror or error}; free space or choose another --run-dir")
