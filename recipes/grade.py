"""``k15 grade``: verdicts on a file of responses, in order, on all cores."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO

from rewards.math.grade import grade
from rewards.score import GRADER_TIMEOUT_S

CHUNK = 64
"""Lines that go to a process at a time."""
SINGLE = 2000
"""Lines up to which threads of this process do it: others take longer to start."""
MAX_NAMED = 20
"""Malformed lines that are named one by one."""


class GradeError(Exception):
    """The command cannot start; the message is one line."""


@dataclass(frozen=True)
class Grading:
    """How lines are read and graded."""

    rule: str = "boxed"
    """One of ``rewards.math.grade.RULES``."""
    bare: bool = False
    """Whether a prediction is the answer itself."""
    gold: str = "gold"
    """Name of the field with the reference."""
    prediction: str = "prediction"
    """Name of the field with the response."""
    tolerance: str | None = None
    """Name of a field with an absolute tolerance; lines without it are compared exactly."""
    timeout_s: float = GRADER_TIMEOUT_S
    """Wall limit for one comparison in a grading process, seconds."""


@dataclass(frozen=True)
class Graded:
    """What became of one line."""

    text: str
    """The line with its verdict, as JSON; empty when malformed."""
    verdict: str
    """``correct``, ``wrong``, ``ungradable`` or ``malformed``."""
    problem: str = ""
    """What is wrong with a malformed line."""


def _text(row: dict[str, Any], name: str) -> str:
    """A field as text; numbers are taken as written."""
    if name not in row:
        raise ValueError(f"no field '{name}'; there are: {', '.join(list(row)[:12])}"[:200])
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"field '{name}' is {type(value).__name__}, not text")
    return value if isinstance(value, str) else str(value)


def _tolerance(row: dict[str, Any], name: str | None) -> Fraction | None:
    value = row.get(name) if name else None
    if value is None or value == "":
        return None
    try:
        found = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        found = Fraction(-1)
    if found < 0:
        raise ValueError(f"field '{name}' is {str(value)[:40]!r}, not a number of at least 0")
    return found


def grade_line(line: bytes, how: Grading) -> Graded:
    """The verdict on one line; never raises."""
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError(f"expected an object, found {type(row).__name__}")
        gold, prediction = _text(row, how.gold), _text(row, how.prediction)
        tolerance = _tolerance(row, how.tolerance)
    except UnicodeDecodeError:
        return Graded("", "malformed", "not UTF-8 text")
    except json.JSONDecodeError as error:
        return Graded("", "malformed", f"not valid JSON: {error.msg} (column {error.colno})")
    except RecursionError:
        return Graded("", "malformed", "nested too deeply")
    except ValueError as error:
        return Graded("", "malformed", str(error))
    score = grade(gold, prediction, rule=how.rule, bare=how.bare, tolerance=tolerance, timeout_s=how.timeout_s)
    row |= {"verdict": score.verdict, "extracted": score.extracted, "reason": score.reason}
    return Graded(json.dumps(row), score.verdict)


def grade_lines(lines: list[bytes], how: Grading) -> list[Graded]:
    """Verdicts on some lines, in order."""
    return [grade_line(line, how) for line in lines]


def grade_stream(lines: Iterable[bytes], how: Grading, workers: int) -> Iterator[Graded]:
    """Verdicts on all lines, in order, with bounded memory. Blank lines are to be left out before."""
    rest = iter(lines)
    head = list(islice(rest, SINGLE + 1))
    if len(head) <= SINGLE:
        with ThreadPoolExecutor(workers) as threads:
            yield from threads.map(lambda line: grade_line(line, how), head)
        return
    everything = chain(head, rest)
    chunks = iter(lambda: list(islice(everything, CHUNK)), [])
    waiting: deque[Future[list[Graded]]] = deque()
    # Spawned, not forked: a fresh process shares no threads or sockets with this one.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for chunk in chunks:
            waiting.append(pool.submit(grade_lines, chunk, how))
            if len(waiting) > 4 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def run(file: str, out: Path | None, how: Grading, workers: int | None) -> int:
    """Grade ``file`` (``-``: standard input); returns the exit code: 1 when lines were malformed.

    Raises ``GradeError`` when a file cannot be opened.
    """
    if out is not None and file != "-" and out.exists() and Path(file).exists() and out.samefile(file):
        raise GradeError(f"--out {out} is the input itself; name another file")
    started = time.monotonic()
    counts: Counter[str] = Counter()
    numbers: deque[int] = deque()
    name = "standard input" if file == "-" else file

    def lines(source: BinaryIO) -> Iterator[bytes]:
        for number, line in enumerate(source, 1):
            if line.strip():
                numbers.append(number)
                yield line

    with ExitStack() as files:
        try:
            source = sys.stdin.buffer if file == "-" else files.enter_context(Path(file).open("rb"))
            sink = sys.stdout if out is None else files.enter_context(out.open("w", encoding="utf-8"))
        except OSError as error:
            raise GradeError(f"cannot open {error.filename}: {error.strerror}") from error
        for graded in grade_stream(lines(source), how, workers or len(os.sched_getaffinity(0))):
            number = numbers.popleft()
            counts[graded.verdict] += 1
            if graded.text:
                print(graded.text, file=sink)
            elif counts["malformed"] <= MAX_NAMED:
                print(f"k15: {name}:{number}: {graded.problem}", file=sys.stderr)
    print(summary(counts, time.monotonic() - started), file=sys.stderr)
    return 1 if counts["malformed"] else 0


def regrade(path: Path, out: Path | None, timeout_s: float | None, workers: int | None) -> int:
    """Grade the rollouts of a run directory or Parquet file; returns the exit code. Raises ``GradeError``."""
    from recipes import regrade as rollouts
    from rl.rollout_store import StoreError
    from rollout.problems.source import ProblemError

    with ExitStack() as files:
        try:
            sink = sys.stdout if out is None else files.enter_context(out.open("w", encoding="utf-8"))
            print(rollouts.run(path, sink, timeout_s, workers), file=sys.stderr)
        except OSError as error:
            raise GradeError(f"cannot open {error.filename}: {error.strerror}") from error
        except (rollouts.RegradeError, StoreError, ProblemError) as error:
            raise GradeError(str(error)) from error
    return 0


def summary(counts: Counter[str], seconds: float) -> str:
    """One line on a whole file."""
    total = sum(counts.values()) - counts["malformed"]
    parts = [f"{counts[name]} {name}" for name in ("correct", "wrong", "ungradable")]
    if counts["malformed"]:
        parts.append(f"{counts['malformed']} malformed and left out")
    graded = counts["correct"] + counts["wrong"]
    share = f"; {counts['correct'] / graded:.1%} of the gradable ones are correct" if graded else ""
    return f"{total} lines: {', '.join(parts)}{share} ({seconds:.1f} s, {total / max(seconds, 1e-9):.0f} a second)"
