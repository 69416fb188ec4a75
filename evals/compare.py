"""Two evaluations on the same problems, compared problem by problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evals.result_windows import Beside
from evals.results import BenchmarkResult, PerProblem, Results, ResultsError
from evals.stats import Paired, paired
from evals.store import read_rights

_MATTERS = (
    *("temperature", "top_p", "max_tokens", "shots", "thinking", "system", "prompt"),
    *("labels", "windows", "merging"),
)
"""Settings that are reported when they differ: then the comparison is not one of the models alone."""


@dataclass(frozen=True)
class Comparison:
    """One benchmark in two evaluations."""

    benchmark: str
    title: str
    first: float
    """Mean rate over the shared problems."""
    second: float
    paired: Paired
    left_out: int
    """Problems that only one of the two has a graded response to."""
    differences: tuple[str, ...]
    """Settings that differ, as ``name: a -> b``."""


def compare(first: Results, second: Results) -> list[Comparison]:
    """Compare every benchmark that both have. Raises ``ResultsError`` when they share none, or the problems differ."""
    theirs = {result.name: result for result in second.benchmarks}
    shared = [(own, theirs[own.name]) for own in first.benchmarks if own.name in theirs]
    if not shared:
        raise ResultsError(
            f"nothing to compare: the first has {_names(first)}, the second {_names(second)}; evaluate both on "
            "the same benchmark"
        )
    return [_compare(a, b) for a, b in shared]


def beside(result: BenchmarkResult, other: BenchmarkResult) -> BenchmarkResult:
    """Return ``result`` with ``other`` beside it, problem by problem; as it is where they share no graded problem."""
    left, right = _shared(_rows(result.problems), _rows(other.problems))
    if not left:
        return result
    found = paired(left, right)
    limits = (found.low, found.high)
    return replace(
        result,
        beside=Beside(other.name, found.difference, limits, found.p, found.better, found.worse, found.problems),
    )


def change(before: Path, after: Path) -> Paired | None:
    """Return the change from one file of samples (``evals.store``) to another, problem by problem.

    ``None`` when they share no problem with a graded response in both. Raises ``FormatError`` for unreadable files.
    """
    first, second = _shared(read_rights(before), read_rights(after))
    return paired(first, second) if first else None


def _compare(a: BenchmarkResult, b: BenchmarkResult) -> Comparison:
    rows_a, rows_b = _rows(a.problems), _rows(b.problems)
    left, right = _shared(rows_a, rows_b)
    if not left:
        raise ResultsError(f"{a.name}: the two evaluations share no graded problem; were they given the same --data?")
    changed = [
        f"{key}: {a.settings.get(key)} -> {b.settings.get(key)}"
        for key in _MATTERS
        if a.settings.get(key) != b.settings.get(key)
    ]
    if a.fingerprint != b.fingerprint and len(left) == len(rows_a.keys() | rows_b.keys()):
        changed.append("problems: same ids, other texts or references")
    return Comparison(
        a.name,
        a.title,
        _mean(left),
        _mean(right),
        paired(left, right),
        len(rows_a.keys() | rows_b.keys()) - len(left),
        tuple(changed),
    )


def _shared(
    first: Mapping[str, list[bool]], second: Mapping[str, list[bool]]
) -> tuple[list[list[bool]], list[list[bool]]]:
    """Return rows of the problems with a graded response in both, in the same order."""
    ids = [name for name in first if first[name] and second.get(name)]
    return [first[name] for name in ids], [second[name] for name in ids]


def _rows(problems: Sequence[PerProblem]) -> dict[str, list[bool]]:
    return {item.id: [v == "correct" for v in item.verdicts if v != "ungradable"] for item in problems}


def _mean(rows: Sequence[Sequence[bool]]) -> float:
    return sum(sum(row) / len(row) for row in rows) / len(rows)


def _names(results: Results) -> str:
    return ", ".join(result.name for result in results.benchmarks) or "none"
