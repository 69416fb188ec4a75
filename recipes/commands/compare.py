"""``k15 compare``: two evaluations on the same problems."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from evals.compare import Comparison, compare
from evals.results import read_results
from rollout.files import replace_file
from rollout.plain import one_line


def compare_files(first: Path, second: Path, out: Path | None) -> str:
    """Return the comparison as text, and write it to ``out`` as JSON. Raises ``ResultsError``, or ``OSError`` for
    ``out``.
    """
    a, b = read_results(first), read_results(second)
    found = compare(a, b)
    if out is not None:
        rows = [asdict(item) for item in found]
        data = {"schema": "k15.compare/1", "first": a.model, "second": b.model, "benchmarks": rows}
        replace_file(out, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())
    return table(a.model, b.model, found)


def table(first: str, second: str, found: Sequence[Comparison]) -> str:
    """Return the comparison as a table for the terminal."""
    lines = [f"A  {one_line(first, 100)}", f"B  {one_line(second, 100)}", ""]
    head = f"{'':<16}{'A':>8}{'B':>8}{'B - A':>9}  {'95 % interval':<16}{'p':>8}{'better':>8}{'worse':>7}{'over':>7}"
    lines.append(head)
    for item in found:
        p, interval = item.paired, f"[{100 * item.paired.low:+.1f}, {100 * item.paired.high:+.1f}]"
        rates = f"{100 * item.first:>8.1f}{100 * item.second:>8.1f}{100 * p.difference:>+9.1f}  {interval:<16}"
        counts = f"{chance(p.p):>8}{p.better:>8}{p.worse:>7}{p.problems:>7}"
        lines.append(f"{one_line(item.benchmark, 15):<16}{rates}{counts}")
        lines.append(f"{'':<16}{verdict(item)}")
        if item.left_out:
            lines.append(f"{'':<16}{item.left_out} problems that only one of them answered are left out")
        if item.differences:
            lines.append(f"{'':<16}other settings, so not the models alone: {'; '.join(item.differences)}")
    return "\n".join(lines)


def verdict(item: Comparison) -> str:
    """Return one sentence on what the numbers show."""
    p = item.paired
    if p.p >= 0.05:
        return f"no difference shown: anything from {100 * p.low:+.1f} to {100 * p.high:+.1f} points is possible"
    return f"{'B' if p.difference > 0 else 'A'} is better: chance alone gives this in {chance(p.p)} of cases"


def chance(value: float) -> str:
    """Return a p-value as text."""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
