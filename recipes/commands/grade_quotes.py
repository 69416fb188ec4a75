"""``k15 grade FILE --quotes``: what responses state as given, and whether their questions have it."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from recipes.commands.grade import Fault, GradeError, Grading, opened, read_row, text_of, written
from recipes.commands.grade_judged import QUESTIONS
from recipes.commands.malformed import Malformed
from rewards.quotes import QuoteReport, quote_report
from rollout.strict_json import finite

OURS = ("quotes", "unsupported", "miscalculations")
"""Fields that are added to a line."""


@dataclass(frozen=True)
class Files:
    """What the command reads and writes."""

    file: str
    """``-``: standard input."""
    out: Path | None
    """``None``: standard output."""
    kept: Path | None
    """Gets the lines that misquote nothing, as they were read; ``None``: nowhere."""


@dataclass(frozen=True)
class Fields:
    """Names of fields."""

    question: str | None
    """``None``: the first of ``QUESTIONS`` that a line has."""
    prediction: str
    prefix: str
    """Goes in front of the names of the fields that are added."""


@dataclass
class Counts:
    """What was found in a file."""

    lines: int = 0
    misquoting: int = 0
    quotes: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, report: QuoteReport) -> None:
        """Count one response."""
        self.lines += 1
        self.misquoting += bool(report.unsupported)
        self.quotes += len(report.quotes)
        self.kinds.update(quote.kind for quote in report.unsupported)

    def told(self, seconds: float) -> str:
        """Return one line on a whole file."""
        found = ", ".join(f"{count} {kind}s" for kind, count in sorted(self.kinds.items())) or "none"
        share = self.misquoting / max(self.lines, 1)
        return (
            f"{self.lines} responses: {self.misquoting} ({share:.1%}) state something as given that their questions do "
            f"not have; of {self.quotes} quotes are unsupported: {found} ({seconds:.1f} s, "
            f"{self.lines / max(seconds, 1e-9):.0f} a second)"
        )


def told(row: dict[str, Any], report: QuoteReport, prefix: str) -> dict[str, Any]:
    """Return a line with what it misquotes."""
    ours = {
        "quotes": len(report.quotes),
        "unsupported": [{"kind": q.kind, "text": q.text, "line": q.line} for q in report.unsupported],
        "miscalculations": [one.text for one in report.miscalculations],
    }
    return {**row, **{prefix + name: value for name, value in ours.items()}}


def reports(source: BinaryIO, fields: Fields, left_out: Malformed) -> Iterator[tuple[dict[str, Any], QuoteReport]]:
    """Yield the lines that can be read, with their reports."""
    how = Grading(prefix=fields.prefix, ours=OURS)
    for number, line in enumerate(source, 1):
        if not line.strip():
            continue
        try:
            row = read_row(line, how)
            question = fields.question or next((name for name in QUESTIONS if name in row), QUESTIONS[0])
            asked = text_of(row, question, "--question-field")
            if question in row and not isinstance(row[question], str):
                raise Fault(f"field {question!r} is no text")
            said = text_of(row, fields.prediction, "--prediction-field")
        except Fault as fault:
            left_out.add(number, fault.kind, fault.detail)
            continue
        yield row, quote_report(asked, said)


@contextmanager
def kept_lines(path: Path | None) -> Iterator[TextIO | None]:
    """Open what gets the faithful lines, which appears only when it is whole. Raises ``GradeError``."""
    if path is None:
        yield None
        return
    with written(path) as sink:
        yield sink


def run(files: Files, fields: Fields) -> int:
    """Report on a file; returns the exit code: 1 when lines were malformed. Raises ``GradeError``."""
    for target in (files.out, files.kept):
        if target is not None and target.exists() and Path(files.file).exists() and target.samefile(files.file):
            raise GradeError(f"{target} is the input itself; name another file")
    if files.kept is not None and files.kept == files.out:
        raise GradeError(f"--out and --kept are both {files.kept}; name two files")
    began, counts = time.monotonic(), Counts()
    left_out = Malformed("standard input" if files.file == "-" else files.file)
    with kept_lines(files.kept) as kept, opened(files.file, files.out) as (source, sink):
        for row, report in reports(source, fields, left_out):
            counts.add(report)
            print(json.dumps(finite(told(row, report, fields.prefix)), allow_nan=False), file=sink)
            if kept is not None and not report.unsupported:
                print(json.dumps(finite(row), allow_nan=False), file=kept)
        if not counts.lines:
            raise GradeError(*(left_out.lines() or [f"{left_out.name}: holds no lines to read"]))
    for line in left_out.lines():
        print(f"k15: {line}", file=sys.stderr)
    print(counts.told(time.monotonic() - began), file=sys.stderr)
    return 1 if left_out.total else 0
