"""``k15 judge``: verdicts on a file of programs, in order, as many at a time as there are cores."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recipes.commands.malformed import Malformed
from rewards.code.extract import extract
from rewards.code.judge import Program, judge
from rewards.code.problem import CodeProblem, ProblemInvalid, problem_of_row
from rewards.code.rules import Rules
from rewards.code.sandbox import Sandbox, open_sandbox
from rewards.code.types import SandboxFailure
from rewards.code.verdict import Judgement, Verdict, refused
from rollout.files import replacing
from rollout.plain import one_line
from rollout.problems.jsonl import read_rows
from rollout.problems.source import ProblemError
from rollout.strict_json import dumps


class JudgeError(Exception):
    """The command cannot do its work; each argument is one line."""


@dataclass(frozen=True)
class Judging:
    """What is judged, and with which settings."""

    problems: Path
    programs: Path
    out: Path | None = None
    """Where results go; ``None``: standard output."""
    workers: int | None = None
    """Programs at a time; ``None``: one a core."""
    all_tests: bool = False
    """Run the tests after the first failure too."""
    sandbox: str = "auto"


@dataclass(frozen=True)
class Line:
    """One line of the file of programs."""

    number: int
    row: dict[str, Any] | None
    """``None`` when malformed."""
    fault: str = ""
    """What is wrong with a malformed line: the same text for each with this fault."""
    detail: str = ""
    """Details of this line's fault."""


def run(what: Judging) -> int:
    """Judge all programs; returns the exit code: 1 when lines were malformed or verdicts are missing (SE).

    Raises ``JudgeError`` when a file cannot be opened, the problems are malformed, or there is no sandbox.
    """
    if what.out is not None and what.out.exists():
        for given in (what.problems, what.programs):
            if given.exists() and what.out.samefile(given):
                raise JudgeError(f"--out {what.out} is an input itself; name another file")
    started = time.monotonic()
    workers = what.workers or len(os.sched_getaffinity(0))
    rules = Rules(stop_at_failure=not what.all_tests)
    counts: Counter[str] = Counter()
    left_out = Malformed(str(what.programs))
    try:
        problems = read_problems(what.problems)
        with ExitStack() as stack:
            source = stack.enter_context(what.programs.open("rb"))
            out = stack.enter_context(replacing(what.out)) if what.out is not None else sys.stdout
            box = stack.enter_context(open_sandbox(what.sandbox, workers))
            for line, result in judged(lines(source), problems, box, rules, workers):
                if result is None:
                    left_out.add(line.number, line.fault, line.detail)
                    continue
                counts[result.verdict] += 1
                out.write(dumps(report(line.row or {}, result)) + "\n")
            if not counts:
                raise JudgeError(*(left_out.lines() or [f"{what.programs}: holds no programs"]))
            for told in left_out.lines():
                print(f"k15: {told}", file=sys.stderr)
    except (ProblemError, SandboxFailure) as error:
        raise JudgeError(str(error)) from error
    except OSError as error:
        raise JudgeError(f"{error.filename or what.out}: {error.strerror}") from error
    seconds = time.monotonic() - started
    lost = [f"{left_out.total} malformed and left out"] if left_out.total else []
    parts = [*(f"{count} {verdict}" for verdict, count in counts.most_common()), *lost]
    print(f"{counts.total()} programs in {seconds:.1f} s: {', '.join(parts)}", file=sys.stderr)
    return int(left_out.total > 0 or counts[Verdict.SE] > 0)


def read_problems(path: Path) -> dict[str, CodeProblem | str]:
    """Read the problems by id; the reason for one that cannot be judged. Raises ``ProblemError``."""
    found: dict[str, CodeProblem | str] = {}
    for number, row in read_rows(path):
        name = row.get("id")
        if not isinstance(name, str) or not name:
            raise ProblemError(f"{path}:{number}: 'id' is missing or no text")
        if name in found:
            raise ProblemError(f"{path}:{number}: the id {name!r} occurs twice")
        try:
            found[name] = problem_of_row(row)
        except ProblemInvalid as error:
            found[name] = f"{path}:{number}: {error}"
    if not found:
        raise ProblemError(f"{path}: holds no problems")
    return found


def lines(source: Iterator[bytes]) -> Iterator[Line]:
    """Yield the programs of a file; blank lines are skipped."""
    for number, text in enumerate(source, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield Line(number, None, "not valid JSON", one_line(str(error), 100))
            continue
        fault = "expected an object" if not isinstance(row, dict) else _fault(row)
        has = f"the line has: {one_line(', '.join(row), 160)}" if fault and isinstance(row, dict) else ""
        yield Line(number, None if fault else row, fault, has)


def _fault(row: Mapping[str, Any]) -> str:
    """Return the fault of a row; empty when there is none."""
    if not isinstance(row.get("id"), str):
        return "'id' is missing or no text"
    if not isinstance(row.get("code", row.get("response")), str):
        return "neither 'code' nor 'response' holds text"
    if not isinstance(row.get("language", ""), str):
        return "'language' is no text"
    return ""


def judged(
    source: Iterator[Line], problems: Mapping[str, CodeProblem | str], box: Sandbox, rules: Rules, workers: int
) -> Iterator[tuple[Line, Judgement | None]]:
    """Yield lines with their verdicts, in order, with bounded memory; ``None`` for malformed ones."""
    waiting: deque[tuple[Line, Future[Judgement | None]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="judge") as threads:
        for line in source:
            waiting.append((line, threads.submit(one, line, problems, box, rules)))
            if len(waiting) > 4 * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()


def one(line: Line, problems: Mapping[str, CodeProblem | str], box: Sandbox, rules: Rules) -> Judgement | None:
    """Return the verdict on one line. A problem that is unknown or cannot be judged is SE, never the program's
    failure.
    """
    if line.row is None:
        return None
    problem = problems.get(line.row["id"])
    if problem is None or isinstance(problem, str):
        return refused(Verdict.SE, problem or f"unknown problem id {line.row['id']!r}", 0)
    language = line.row.get("language") or "python"
    code = line.row.get("code")
    if code is None:
        found = extract(line.row["response"], problem.languages, language)
        if isinstance(found, str):
            return refused(Verdict.CE, found, 0)
        code, language = found.code, found.language
    return judge(problem, Program(code, language), box, rules)


def report(row: Mapping[str, Any], result: Judgement) -> dict[str, Any]:
    """Return the line of the output."""
    return {
        "id": row["id"],
        "language": row.get("language") or "python",
        "verdict": result.verdict,
        "reason": result.reason,
        "passed": result.passed,
        "total": result.total,
        "cpu_s": round(result.cpu_s, 4),
        "memory_bytes": result.memory_bytes,
        "tests": [asdict(test) for test in result.tests],
    }
