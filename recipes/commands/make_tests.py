"""``k15 make-tests``: test cases for coding problems that have none
[2501.12599 §2.3.5], and how many problems came through.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from rewards.code.extract import Extracted, extract
from rewards.code.generate import PAPER, Made, Source, Stage, Yield, make_tests, summary
from rewards.code.generator_prompt import generator_prompt
from rewards.code.judge import Program
from rewards.code.languages import LANGUAGES
from rewards.code.packages import PackageMissing, package_files
from rewards.code.problem import Allowance
from rewards.code.sandbox import open_sandbox
from rewards.code.stated import stated_tolerance
from rewards.code.types import SandboxFailure
from rollout.files import replacing
from rollout.problems.jsonl import read_rows
from rollout.problems.source import ProblemError
from rollout.strict_json import dumps


class MakeTestsError(Exception):
    """The command cannot do its work; one line."""


@dataclass(frozen=True)
class Files:
    """The files that are read and written."""

    problems: Path
    """Rows with ``id`` and ``problem``; optional ``special_judge_suspect``, ``time_limit_ms``, ``memory_limit_mb``."""
    generators: Path
    """Rows with ``id`` and ``code``, or ``response``, out of which the code is taken."""
    submissions: Path
    """Rows with ``id``, ``code`` and perhaps ``language`` (python): known-good programs."""
    out: Path
    """Output: the problems that were kept, with ``tests``."""
    report: Path | None = None
    """One line for each problem: how far it came and why no further."""


def run(files: Files, rules: Yield, workers: int | None, sandbox: str) -> int:
    """Make the tests; returns the exit code: 1 when the sandbox failed on a problem. Raises ``MakeTestsError``."""
    try:
        rows = _rows(files.problems)
        generators = _generators(files.generators, rows)
        submissions = _submissions(files.submissions, rows)
        for package in ("cyaron", "xeger"):
            package_files(package)
        count = workers or len(os.sched_getaffinity(0))
        with open_sandbox(sandbox, count) as box, replacing(files.out) as out:
            made = []
            for name, row in rows.items():
                one = make_tests(source_of(row, generators.get(name), submissions[name]), box, rules, count)
                made.append(one)
                print(f"{name}: {one.stage}{': ' if one.reason else ''}{one.reason}", file=sys.stderr)
                if one.stage is Stage.KEPT:
                    _write(out, finished(row, one))
        if files.report is not None:
            with replacing(files.report) as report:
                for one in made:
                    _write(report, {key: value for key, value in asdict(one).items() if key != "tests"})
    except (ProblemError, SandboxFailure, PackageMissing) as error:
        raise MakeTestsError(str(error)) from error
    except OSError as error:
        raise MakeTestsError(f"{error.filename}: {error.strerror}") from error
    print(table(summary(made), files.out))
    return int(any(one.stage is Stage.SANDBOX for one in made))


def write_prompts(problems: Path, out: Path) -> int:
    """Write prompts that ask a model for generators, one line for each problem. Raises ``MakeTestsError``."""
    try:
        rows = _rows(problems)
        with replacing(out) as file:
            for name, row in rows.items():
                _write(file, {"id": name, "prompt": generator_prompt(row["problem"])})
    except ProblemError as error:
        raise MakeTestsError(str(error)) from error
    except OSError as error:
        raise MakeTestsError(f"{error.filename}: {error.strerror}") from error
    print(f"{len(rows)} prompts in {out}")
    return 0


def source_of(row: Mapping[str, Any], generator: str | None, submissions: list[Program]) -> Source:
    """Return what a row says of a problem."""
    time_ms, memory_mb = row.get("time_limit_ms"), row.get("memory_limit_mb")
    return Source(
        id=row["id"],
        generator=generator,
        submissions=submissions,
        special_judge=bool(row.get("special_judge_suspect")),
        tolerance=row.get("tolerance", stated_tolerance(row["problem"])),
        allowance=Allowance(time_ms and time_ms / 1000, memory_mb and int(memory_mb * (1 << 20))),
    )


def finished(row: Mapping[str, Any], made: Made) -> dict[str, Any]:
    """Return the row of a kept problem."""
    tests = [{"input": given, "output": expected, "public": False} for given, expected in made.tests]
    return {"answer": "<graded by tests>", **row, "testtype": "stdin", "tests": tests}


def table(counts: Mapping[str, int], out: Path) -> str:
    """Return the yield of each step, beside the paper's."""
    lines = [f"{'':<24}{'here':>8}{'paper':>8}"]
    lines += [f"{step:<24}{count:>8}{PAPER.get(step, ''):>8}" for step, count in counts.items()]
    return "\n".join([*lines, f"{counts['kept']} problems with tests in {out}"])


def _write(file: TextIO, row: Mapping[str, Any]) -> None:
    file.write(dumps(row, ensure_ascii=False) + "\n")


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for number, row in read_rows(path):
        for key in ("id", "problem"):
            _text(row, key, path, number)
        for key in ("time_limit_ms", "memory_limit_mb", "tolerance"):
            if row.get(key) is not None and (isinstance(row[key], bool) or not isinstance(row[key], (int, float))):
                raise ProblemError(f"{path}:{number}: {key!r} is no number")
        if row["id"] in rows:
            raise ProblemError(f"{path}:{number}: the id {row['id']!r} occurs twice")
        rows[row["id"]] = row
    if not rows:
        raise ProblemError(f"{path}: holds no problems")
    return rows


def _generators(path: Path, problems: Mapping[str, object]) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, row in read_rows(path):
        name = _known(row, path, number, problems)
        if name in found:
            raise ProblemError(f"{path}:{number}: a second generator for {name!r}")
        if "response" in row:
            taken = extract(_text(row, "response", path, number), ("python",), "python")
            if isinstance(taken, Extracted):  # otherwise the problem counts as one without a generator
                found[name] = taken.code
            continue
        found[name] = _text(row, "code", path, number)
    return found


def _submissions(path: Path, problems: Mapping[str, object]) -> defaultdict[str, list[Program]]:
    found: defaultdict[str, list[Program]] = defaultdict(list)
    for number, row in read_rows(path):
        name = _known(row, path, number, problems)
        language = row.get("language", "python")
        if language not in LANGUAGES:
            raise ProblemError(f"{path}:{number}: unknown language {language!r}; there are: {', '.join(LANGUAGES)}")
        found[name].append(Program(_text(row, "code", path, number), language))
    return found


def _known(row: Mapping[str, Any], path: Path, number: int, problems: Mapping[str, object]) -> str:
    name = _text(row, "id", path, number)
    if name not in problems:
        raise ProblemError(f"{path}:{number}: unknown problem id {name!r}")
    return name


def _text(row: Mapping[str, Any], key: str, path: Path, number: int) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ProblemError(f"{path}:{number}: {key!r} is missing, empty or no text")
    return value
