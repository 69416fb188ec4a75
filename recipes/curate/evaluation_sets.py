"""The problems that training data must not have: benchmarks of ``k15 eval`` by name, or files. Imports no torch."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.problems.rows import conversation_of, text_of
from rollout.problems.source import ProblemError, find_data

ALL = "all"
"""Every benchmark of ours that has a file: mathematics, and the statements of code problems."""
FIELDS = ("problem", "question", "prompt", "messages")
"""Where a row's statement stands: a text, or a conversation whose last user message it is; case does not matter."""
ANSWERS = ("answer", "solution", "target")
"""Where a row's answer may stand."""
_FILES = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class EvaluationSet:
    """Problems that are evaluated on; the three tuples go together."""

    name: str
    """What reports call it."""
    origin: str
    """File or data set that it was read from."""
    ids: tuple[str, ...]
    statements: tuple[str, ...]
    answers: tuple[str, ...]
    """Empty where none is given."""

    def __len__(self) -> int:
        return len(self.ids)


def load(names: Sequence[str]) -> list[EvaluationSet]:
    """Return the evaluation sets that ``names`` name, each once, in order.

    Raises ``ProblemError``: an unknown name, a missing or malformed file, a file without problems; and
    ``UserCodeError`` for a user's benchmark that fails.
    """
    from evals.benchmarks import get
    from evals.benchmarks import names as benchmarks

    found: dict[str, EvaluationSet] = {}
    for name in names:
        listed = [known for known in benchmarks() if get(known).file] if name == ALL else [name]
        for one in listed:
            one_set = _from_file(Path(one)) if Path(one).suffix.lower() in _FILES else _from_name(one)
            known_by = {other.origin: key for key, other in found.items()}
            if one_set.origin in known_by:
                continue
            # Two files test.jsonl of different folders are two sets.
            key = one_set.name if one_set.name not in found else one
            found[key] = EvaluationSet(key, one_set.origin, one_set.ids, one_set.statements, one_set.answers)
    return list(found.values())


def _from_name(name: str) -> EvaluationSet:
    """Return a benchmark's problems; a name that no benchmark has may be a file's."""
    from evals.benchmarks import UnknownBenchmark, get
    from evals.benchmarks import names as benchmarks
    from evals.data import Choice
    from evals.data import load as load_benchmark

    try:
        benchmark = get(name)
    except UnknownBenchmark:
        try:
            return _from_file(Path(name))
        except ProblemError:
            if Path(name).name != name or Path(name).exists():
                raise
        near = difflib.get_close_matches(name.lower(), [*benchmarks(), ALL], n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"benchmarks: {', '.join(benchmarks())}, or {ALL}"
        raise ProblemError(f"evaluation set '{name}': neither a benchmark nor a file; {hint}") from None
    if benchmark.make is not None:
        raise ProblemError(f"evaluation set '{name}': its problems are generated anew each time; leave it out")
    loaded = load_benchmark(benchmark, None, Choice())
    return EvaluationSet(
        benchmark.name,
        loaded.origin,
        tuple(problem.id for problem in loaded.problems),
        # A program's question has been dressed up; training data has the statement.
        tuple(str(problem.extra.get("statement") or problem.prompt) for problem in loaded.problems),
        tuple(problem.answer for problem in loaded.problems),
    )


def _from_file(given: Path) -> EvaluationSet:
    path = find_data(str(given), os.environ.get("K15_DATA"))
    if not path.is_file():
        raise ProblemError(f"{path}: a folder, not a file of problems; name the file")
    ids, statements, answers = [], [], []
    for place, row in _rows(path):
        fields = {str(key).casefold(): value for key, value in row.items()}
        try:
            statements.append(_statement(fields))
        except ValueError as error:
            raise ProblemError(f"{path}:{place}: {error}") from error
        name = fields.get("id")
        ids.append(str(name) if name not in (None, "") else f"{path.stem}-{place}")
        answers.append(next((str(fields[key]) for key in ANSWERS if fields.get(key) not in (None, "")), ""))
    if not ids:
        raise ProblemError(f"{path}: no problems in it; an evaluation set has at least one")
    return EvaluationSet(path.stem, str(path), tuple(ids), tuple(statements), tuple(answers))


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield number (from 1) and fields of each row."""
    from rollout.problems.jsonl import read_rows
    from rollout.problems.parquet import parquet_rows

    wanted = {"id", *FIELDS, *ANSWERS}
    if path.suffix.lower() == ".parquet":
        yield from parquet_rows(path, lambda name: name.casefold() in wanted)
    else:
        yield from read_rows(path)


def _statement(fields: Mapping[str, Any]) -> str:
    """Return what a row asks. Raises ``ValueError`` naming what is missing."""
    for name in FIELDS:
        value = fields.get(name)
        if value is None:
            continue
        if isinstance(value, list):
            spoken = conversation_of({"messages": value})
            asked = [message.content for message in spoken if message.role == "user"]
            if not asked:
                raise ValueError(f"{name}: nobody asks, there is no message of the user's")
            return asked[-1]
        return text_of(fields, name)
    raise ValueError(f"no statement: expected a field {', '.join(FIELDS[:-1])} or {FIELDS[-1]}")
