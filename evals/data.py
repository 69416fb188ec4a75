"""Loading of a benchmark's problems, from a local file or else from a data set of the hub."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from evals.benchmark import Benchmark, Row, Shots
from evals.labels import in_turn
from rollout.problems.config import HubSource
from rollout.problems.jsonl import read_rows
from rollout.problems.rows import problem_of
from rollout.problems.source import ProblemError, ProblemList
from rollout.seeds import seed_of
from rollout.types import Problem


@dataclass(frozen=True)
class Choice:
    """Which of a benchmark's problems are evaluated."""

    limit: int | None = None
    """Number of problems, drawn by a fixed seed; a larger limit contains a smaller one. ``None``: all."""
    since: str = ""
    """ISO date or the beginning of one; problems on or after it."""
    until: str = ""
    """Problems on or before it: ``2025-02`` includes all of that month."""
    where: tuple[tuple[str, str], ...] = ()
    """Fields and the values that they must have, as text."""
    skip_defects: bool = False
    """Leave out rows whose ``defect`` says that reference or tests are wrong."""


@dataclass(frozen=True)
class Loaded:
    """A benchmark's problems."""

    problems: tuple[Problem, ...]
    origin: str
    """File or data set that they are from."""
    first: Problem
    """The first of all problems, whatever the limit."""
    fingerprint: str
    """SHA-256 of what is asked and expected, whatever the limit."""
    defects: int
    """Problems among them that are marked as defective."""
    asked: frozenset[str] = frozenset()
    """Texts of all problems, whatever the limit: none of them may be a solved example."""


def load(benchmark: Benchmark, data: Path | None, choice: Choice) -> Loaded:
    """Return the problems from ``data`` (file or folder), else ``$K15_DATA``, ``./data`` or the hub.

    Raises ``ProblemError``, which names the places searched, or file, line and fault.
    """
    origin, rows = _rows(benchmark.file, benchmark.hub, benchmark.convert, data)
    problems = []
    for place, row in rows:
        if not benchmark.keep(row) or not _chosen(row, benchmark.dated, choice):
            continue
        number = place.rpartition(":")[2].rpartition(" ")[2]
        try:
            problems.append(problem_of(row, benchmark.verifier, f"{benchmark.name}-{number}", benchmark.title))
        except ValueError as error:
            raise ProblemError(f"{place}: {error}") from error
    return choose(ProblemList(problems, f"{origin} (as {benchmark.name})"), origin, choice)


def choose(problems: ProblemList, origin: str, choice: Choice) -> Loaded:
    """Return the problems that ``choice.limit`` leaves, in their order."""
    kept = [*problems]
    if choice.limit is not None and choice.limit < len(kept):
        order = sorted(range(len(kept)), key=lambda i: seed_of("limit", kept[i].id))
        kept = [kept[i] for i in sorted(order[: choice.limit])]
    defects = sum(bool(problem.extra.get("defect")) for problem in kept)
    asked = frozenset(problem.prompt for problem in problems)
    return Loaded(tuple(kept), origin, problems[0], problems.fingerprint, defects, asked)


def _chosen(row: Row, dated: str, choice: Choice) -> bool:
    if choice.skip_defects and row.get("defect"):
        return False
    if any(str(row.get(name)) != value for name, value in choice.where):
        return False
    if not (choice.since or choice.until):
        return True
    if not dated:
        raise ProblemError("this benchmark's problems have no dates: leave out --from and --until")
    date = str(row.get(dated) or "")
    # A date up to the end of the prefix given: "2025-02-28" is on or before "2025-02".
    return bool(date) and date >= choice.since and (not choice.until or date[: len(choice.until)] <= choice.until)


def find(file: str, data: Path | None) -> tuple[Path | None, list[str]]:
    """Return the local file, if there is one, and the places that were searched.

    Raises ``ProblemError`` when ``data`` was given and does not have it.
    """
    if data is not None:
        if data.is_file():
            return data, []
        if (data / file).is_file():
            return data / file, []
        if not data.exists():
            raise ProblemError(f"--data {data}: no such file or directory")
        there = sorted(path.name for path in data.glob("*.jsonl"))
        listed = f"it has: {', '.join([*there[:8], *(['...'] if len(there) > 8 else [])])}" if there else "it has none"
        raise ProblemError(f"--data {data}: no {file} in this directory; of .jsonl files {listed}")
    own = os.environ.get("K15_DATA")
    places = [Path(own).expanduser()] if own else []
    places.append(Path("data"))
    for place in places:
        if (place / file).is_file():
            return place / file, []
    return None, [str((place / file).absolute()) for place in places]


def _rows(file: str, hub: HubSource | None, convert: Any, data: Path | None) -> tuple[str, Iterable[tuple[str, Row]]]:
    path, looked = find(file, data)
    if path is not None:
        return str(path), ((f"{path}:{number}", row) for number, row in read_rows(path))
    if hub is None:
        raise ProblemError(f"no {file}: looked for {' and '.join(looked)}; name the file or its folder with --data")
    try:
        found = hub_rows(hub)
    except ProblemError as error:
        raise ProblemError(
            f"no {file}: looked for {' and '.join(looked)}, then on the hub: {error}; name the file or its folder with "
            "--data or $K15_DATA, or let this machine reach the hub"
        ) from error
    return f"hub: {hub.path}", ((f"{hub.path}, row {i}", _converted(hub, i, row, convert)) for i, row in found)


def hub_rows(hub: HubSource) -> Iterable[tuple[int, Mapping[str, Any]]]:
    """Return numbered rows of a data set, or of JSON Lines files of the hub (``hf://...``). Raises ``ProblemError``."""
    from datasets import load_dataset

    try:
        if "://" in hub.path:
            found = load_dataset("json", data_files=hub.path, split=hub.split)
        else:
            found = load_dataset(hub.path, hub.name, split=hub.split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ProblemError(f"'{hub.path}' cannot be loaded: {reason}") from error
    return enumerate(found)


def _converted(hub: HubSource, index: int, row: Mapping[str, Any], convert: Any) -> Row:
    try:
        converted: Row = convert(row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProblemError(
            f"{hub.path}, row {index}: not the columns that this benchmark knows ({type(error).__name__}: {error}); "
            f"it has: {', '.join(row)}"
        ) from error
    return converted


def load_shots(
    shots: Shots, count: int, data: Path | None, ask: Any, seed: int = 0, asked: frozenset[str] = frozenset()
) -> tuple[tuple[str, str], ...]:
    """Return ``count`` pairs of user's and assistant's turn, the same for every problem and nested in ``count``.

    ``seed``: of which ones; texts that are ``asked`` are none. A folder given as ``data`` is looked into first. Raises
    ``ProblemError``.
    """
    folder = data if data is not None and data.is_dir() and (data / shots.file).is_file() else None
    _, rows = _rows(shots.file, shots.hub, shots.convert, folder)
    usable = [row for _, row in rows if not row.get("defect") and row.get("problem") not in asked]
    if len(usable) < count:
        raise ProblemError(f"{shots.file}: {len(usable)} solved examples, fewer than --shots {count}")
    random = Random(seed_of("shots", *([seed] if seed else [])))
    random.shuffle(usable)
    if shots.balanced:
        values = [str(row.get(shots.balanced)) for row in usable]
        usable = [usable[index] for index in in_turn(values, random)]
    pairs = []
    for index, row in enumerate(usable[:count]):
        # The reference does not show; some hub rows have it inside of the solution only.
        problem = problem_of({**row, "answer": row.get("answer") or "-"}, "exact", f"shot-{index}", "shots")
        pairs.append((ask(replace(problem, extra=row)), shots.solve(row)))
    return tuple(pairs)
