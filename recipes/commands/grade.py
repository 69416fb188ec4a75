"""``k15 grade``: verdicts on a file of responses, in order, on all cores."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TextIO

from recipes.commands.malformed import Malformed
from rewards.math.grade import grade
from rewards.score import GRADER_TIMEOUT_S
from rollout.files import replacing
from rollout.plain import one_line
from rollout.strict_json import finite

if TYPE_CHECKING:
    from rollout.reward_models.config import RewardModelConfig

CHUNK = 64
"""Lines handed to a process at a time."""
SINGLE = 2000
"""Most lines that threads of this process grade; for more, processes are worth their start."""
OURS = ("verdict", "extracted", "reason")
"""Fields that are added to a graded line."""
JUDGED = (*OURS, "rule", "model", "opinion")
"""Those that are added where a reward model judges, too."""


class GradeError(Exception):
    """The command cannot do its work; each argument is one line."""


class Fault(ValueError):
    """A line cannot be graded; its arguments are the kind of fault and the details of this line."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail


@dataclass(frozen=True)
class Grading:
    """Settings for reading and grading lines."""

    rule: str = "boxed"
    """One of ``rewards.math.grade.RULES``; where a reward model judges also ``none``: it judges alone."""
    bare: bool = False
    """Whether a prediction is the answer itself."""
    gold: str = "gold"
    """Name of the field with the reference."""
    prediction: str = "prediction"
    """Name of the field with the response."""
    tolerance: str | None = None
    """Name of a field with an absolute tolerance; lines without it are compared exactly."""
    prefix: str = ""
    """Goes in front of the names of the fields that are added."""
    timeout_s: float = GRADER_TIMEOUT_S
    """Wall limit for one comparison in a grading process, seconds."""
    ours: tuple[str, ...] = OURS
    """Names of the fields that are added."""


@dataclass(frozen=True)
class Graded:
    """The result for one line."""

    text: str
    """The line with its verdict, as JSON; empty when malformed."""
    verdict: str
    """``correct``, ``wrong``, ``ungradable`` or ``malformed``."""
    fault: Fault | None = None
    """What is wrong with a malformed line."""
    nulled: bool = False
    """True when a NaN or infinity of the line was replaced by null."""


class _Number(float):
    """A number that keeps its spelling, to the last digit."""

    written: str

    def __new__(cls, written: str) -> Self:
        """Make the number that ``written`` spells."""
        found = super().__new__(cls, written)
        found.written = written
        return found


def text_of(row: dict[str, Any], name: str, option: str) -> str:
    """Return a field as text; numbers are taken as written."""
    if name not in row:
        raise Fault(f"no field '{name}'", f"there are: {one_line(', '.join(row), 160)}; {option} NAME names another")
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Fault(f"field '{name}' is {type(value).__name__}, not text")
    if isinstance(value, float) and not math.isfinite(value):
        raise Fault(f"field '{name}' is no finite number", str(getattr(value, "written", value)))
    return str(getattr(value, "written", value))


def tolerance_of(row: dict[str, Any], name: str | None) -> Fraction | None:
    value = row.get(name) if name else None
    if value is None or value == "":
        return None
    try:
        found = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        found = Fraction(-1)
    if found < 0:
        raise Fault(f"field '{name}' is {str(value)[:40]!r}, not a number of at least 0")
    return found


def read_row(line: bytes, how: Grading) -> dict[str, Any]:
    """Parse the object on a line. Raises ``Fault``."""
    try:
        row = json.loads(line, parse_float=_Number)
    except UnicodeDecodeError as error:
        raise Fault("not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise Fault(f"not valid JSON: {error.msg}", f"column {error.colno}; each line has to be one object") from error
    except RecursionError as error:
        raise Fault("nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits
        raise Fault(str(error)) from error
    if not isinstance(row, dict):
        raise Fault(f"expected an object, found {type(row).__name__}")
    if taken := [how.prefix + name for name in how.ours if how.prefix + name in row]:
        raise Fault(
            f"has a field '{taken[0]}' of its own, which the verdict would replace",
            "--prefix NAME puts NAME in front of the fields that are added, e.g. --prefix k15_",
        )
    return row


def grade_line(line: bytes, how: Grading) -> Graded:
    """Return the verdict on one line; never raises."""
    try:
        row = read_row(line, how)
        gold = text_of(row, how.gold, "--gold-field")
        prediction = text_of(row, how.prediction, "--prediction-field")
        tolerance = tolerance_of(row, how.tolerance)
    except Fault as fault:
        return Graded("", "malformed", fault)
    score = grade(gold, prediction, rule=how.rule, bare=how.bare, tolerance=tolerance, timeout_s=how.timeout_s)
    for name, value in zip(OURS, (score.verdict, score.extracted, score.reason), strict=True):
        row[how.prefix + name] = value
    clean = finite(row)
    return Graded(json.dumps(clean, allow_nan=False), score.verdict, nulled=clean != row)


def grade_lines(lines: list[bytes], how: Grading) -> list[Graded]:
    """Return the verdicts on some lines, in order."""
    return [grade_line(line, how) for line in lines]


def grade_stream(lines: Iterable[bytes], how: Grading, workers: int) -> Iterator[Graded]:
    """Yield the verdicts on all lines, in order, with bounded memory. Blank lines are to be left out before."""
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

    ``out`` is written when some line could be graded, and then whole. Raises ``GradeError`` when a file cannot be
    opened or written, or holds nothing.
    """
    if out is not None and file != "-" and out.exists() and Path(file).exists() and out.samefile(file):
        raise GradeError(f"--out {out} is the input itself; name another file")
    started = time.monotonic()
    counts: Counter[str] = Counter()
    numbers: deque[int] = deque()
    left_out = Malformed("standard input" if file == "-" else file)
    nulled = 0

    def lines(source: BinaryIO) -> Iterator[bytes]:
        for number, line in enumerate(source, 1):
            if line.strip():
                numbers.append(number)
                yield line

    with opened(file, out) as (source, sink):
        for graded in grade_stream(lines(source), how, workers or len(os.sched_getaffinity(0))):
            number = numbers.popleft()
            counts[graded.verdict] += 1
            if graded.fault:
                left_out.add(number, graded.fault.kind, graded.fault.detail)
            else:
                print(graded.text, file=sink)
                nulled += graded.nulled
        if nulled:
            print(f"k15: {left_out.name}: NaN or infinities in {nulled} lines came out as null", file=sys.stderr)
        if not counts:
            raise GradeError(f"{left_out.name}: holds no lines to grade")
        if counts.total() == left_out.total:
            raise GradeError(*left_out.lines())
        for line in left_out.lines():
            print(f"k15: {line}", file=sys.stderr)
    print(summary(counts, time.monotonic() - started), file=sys.stderr)
    return 1 if left_out.total else 0


@contextmanager
def opened(file: str, out: Path | None) -> Iterator[tuple[BinaryIO, TextIO]]:
    """Open input and output of the command. Raises ``GradeError``, also for a disk that is full in the end."""
    with ExitStack() as files:
        try:
            source = sys.stdin.buffer if file == "-" else files.enter_context(Path(file).open("rb"))
        except OSError as error:
            raise GradeError(f"cannot open {file}: {error.strerror}") from error
        with written(out) as sink:
            yield source, sink


@contextmanager
def written(out: Path | None) -> Iterator[TextIO]:
    """Open the output of verdicts; ``out`` appears only when it is whole. Raises ``GradeError``."""
    try:
        with nullcontext(sys.stdout) if out is None else replacing(out) as sink:
            yield sink
    except BrokenPipeError:
        raise
    except OSError as error:
        raise GradeError(f"cannot write {out or 'standard output'}: {error.strerror}") from error


def regrade(
    path: Path,
    out: Path | None,
    timeout_s: float | None,
    workers: int | None,
    judge: RewardModelConfig | None = None,
    page: Path | None = None,
) -> int:
    """Grade the rollouts of a run directory or Parquet file; returns the exit code. ``judge``, ``page``: see
    ``recipes.commands.regrade.run``. Raises ``GradeError``.
    """
    from recipes.commands import regrade as rollouts
    from recipes.commands.judging import JudgeError
    from rl.record.rollout_store import StoreError
    from rollout.problems.source import ProblemError

    with written(out) as sink:
        try:
            told = rollouts.run(path, sink, timeout_s, workers, judge, page)
        except (rollouts.RegradeError, StoreError, ProblemError, JudgeError) as error:
            raise GradeError(str(error)) from error
    print(told, file=sys.stderr)
    return 0


def summary(counts: Counter[str], seconds: float) -> str:
    """Return one line on a whole file."""
    total = sum(counts.values()) - counts["malformed"]
    parts = [f"{counts[name]} {name}" for name in ("correct", "wrong", "ungradable")]
    if counts["malformed"]:
        parts.append(f"{counts['malformed']} malformed and left out")
    graded = counts["correct"] + counts["wrong"]
    share = f"; {counts['correct'] / graded:.1%} of the gradable ones are correct" if graded else ""
    return f"{total} lines: {', '.join(parts)}{share} ({seconds:.1f} s, {total / max(seconds, 1e-9):.0f} a second)"
