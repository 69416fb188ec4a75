"""Problems from JSON Lines: one object a line with ``id``, ``problem``, ``answer``, ``source`` and further fields."""

from __future__ import annotations

import codecs
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from rollout.problems.config import JsonlSource, Value
from rollout.problems.rows import problem_of
from rollout.problems.source import ProblemError, ProblemList, find_data
from rollout.seeds import seed_of
from rollout.types import Problem

logger = logging.getLogger(__name__)

OTHERS = {
    b"\x1f\x8b": "compressed by gzip; unpack it",
    b"BZh": "compressed by bzip2; unpack it",
    b"\xfd7zXZ\x00": "compressed by xz; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"PAR1": "Parquet, under a name that does not end in .parquet; rename it",
    b"\xff\xfe": "UTF-16; write it as UTF-8",
    b"\xfe\xff": "UTF-16; write it as UTF-8",
}
"""How files of other forms begin -> which form that is, and what to do."""
ARRAY = re.compile(rb"(\xef\xbb\xbf)?\s*\[\s*(\{|$)")
"""How a JSON array of objects begins."""
TABLES = (".csv", ".tsv")
BOM = codecs.BOM_UTF8
AN_OBJECT = "each line has to be one JSON object"


def row_of(place: str, line: bytes) -> dict[str, Any]:
    """Return the object of one line. Raises ``ProblemError`` naming the place and the reason."""
    try:
        row = json.loads(line.decode())
    except json.JSONDecodeError as error:
        raise ProblemError(f"{place}: not valid JSON: {error.msg} (column {error.colno}); {AN_OBJECT}") from error
    except UnicodeDecodeError as error:
        raise ProblemError(f"{place}: not UTF-8 text (byte {error.start} of the line)") from error
    except RecursionError as error:
        raise ProblemError(f"{place}: nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits
        raise ProblemError(f"{place}: {error}") from error
    if not isinstance(row, dict):
        raise ProblemError(f"{place}: expected an object, found {type(row).__name__}; {AN_OBJECT}")
    return row


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield number (from 1) and bytes of each line that is not blank. Raises ``ProblemError`` for a file of another
    form, or that cannot be read.
    """
    try:
        with path.open("rb") as file:
            begins = file.peek(16)  # of a pipe nothing may be lost
            if other := _other_form(path, begins):
                raise ProblemError(f"{path}: not JSON Lines, but {other}")
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.removeprefix(BOM) if number == 1 else line
    except OSError as error:
        raise ProblemError(f"{path}: cannot be read: {error.strerror}") from error


def _other_form(path: Path, begins: bytes) -> str:
    """Return what a file is that is not JSON Lines, and what to do; empty: nothing else that is known."""
    if path.suffix.lower() in TABLES:
        return "a table of text; write it as Parquet (pyarrow.csv.read_csv, pyarrow.parquet.write_table)"
    if ARRAY.match(begins):
        return f"one JSON array; write each of its objects on a line (jq -c '.[]' {path.name})"
    return next((told for magic, told in OTHERS.items() if begins.startswith(magic)), "")


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (from 1) and object of each line; blank lines are passed over.

    Raises ``ProblemError`` naming file, line and reason.
    """
    for number, line in lines_of(path):
        yield number, row_of(f"{path}:{number}", line)


def matches(value: Any, wanted: Value | tuple[Value, ...]) -> bool:
    """Return whether a row's field is what the filter wants, or one of the values that it wants."""
    return value in wanted if isinstance(wanted, tuple) else value == wanted


def load_jsonl(config: JsonlSource) -> ProblemList:
    """Return the problems of a file that pass the filters of ``config``, in the file's order or shuffled.

    Rows marked ``defect`` are left out, and how many is logged. ``skip`` and ``limit`` count the rows that pass, after
    shuffling. The whole file is read, so that a malformed line is found wherever it is.
    """
    path = find_data(config.path, os.environ.get("K15_DATA"))
    passed: list[tuple[Problem, str]] = []
    defects = 0
    for number, row in read_rows(path):
        if row.get("defect"):
            defects += 1
            continue
        if not all(matches(row.get(name), wanted) for name, wanted in config.where.items()):
            continue
        try:
            problem = problem_of(row, config.verifier, f"{path.stem}-{number}", path.stem)
        except ValueError as error:
            raise ProblemError(f"{path}:{number}: {error}") from error
        if config.max_prompt_chars is not None and len(problem.prompt) > config.max_prompt_chars:
            continue
        passed.append((problem, f"{path}:{number}"))
    if defects:
        logger.info("%s: left out %d rows marked as defect", path, defects)
    if config.shuffle is not None:
        Random(seed_of(config.shuffle, "jsonl")).shuffle(passed)
    end = None if config.limit is None else config.skip + config.limit
    kept = passed[config.skip : end]
    return ProblemList([problem for problem, _ in kept], str(path), [place for _, place in kept])
