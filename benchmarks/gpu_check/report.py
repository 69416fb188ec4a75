"""What the parts found: goals with their figures, and tables for people. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_check.case import Row

Parts = Mapping[str, Row]
MAX_SLOWDOWN = 0.03
"""Of a step with the model sharded over a world of one, against the plain step."""
ANCHORS = {16_384: 0.111, 65_536: 0.268}
"""MFU of prime-rl's trainer at Qwen3-0.6B on one H100, by context; the same formula gives its tokens a second."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    title: str
    key: str
    form: str = "{}"
    scale: float = 1.0


TIMES = (Column("ours ms", "seconds", "{:.2f}", 1e3), Column("baseline ms", "baseline_seconds", "{:.2f}", 1e3))
TABLES: dict[str, tuple[Column, ...]] = {
    "attention": (
        *TIMES,
        Column("speed-up", "speedup", "{:.2f}"),
        Column("TFLOP/s eq.", "tflops_equivalent", "{:.0f}"),
        Column("computed", "tflops_computed", "{:.0f}"),
        Column("baseline", "baseline_tflops", "{:.0f}"),
        Column("MiB", "peak_mib", "{:.0f}"),
        Column("baseline MiB", "baseline_peak_mib", "{:.0f}"),
    ),
    "products": tuple(Column(title, key) for title, key in (("seconds", "seconds"), ("MiB", "peak_mib"))),
    "sharded": (
        *(
            Column(name, key, "{:.4f}")
            for name, key in (("plain s", "plain_seconds"), ("sharded s", "sharded_seconds"))
        ),
        Column("slowdown %", "slowdown", "{:.2f}", 100),
    ),
    "learner": (
        Column("s a step", "seconds", "{:.2f}"),
        Column("tokens/s", "tokens_per_s", "{:.0f}"),
        Column("TFLOP/s", "tflops", "{:.0f}"),
        Column("MFU %", "mfu", "{:.1f}", 100),
        Column("MiB", "memory_mib", "{:.0f}"),
    ),
}


def goals(parts: Parts, dry: bool) -> dict[str, Row]:
    """Figures that were asked for, with ``met``: ``None`` where there is none, and for speeds of the dry mode."""
    found: dict[str, Row] = {}
    for name in ("parity", "tiles"):
        cases = list(parts.get(name, {}).get("cases", {}).values())
        wrong = sum(not row["ok"] for row in cases)
        met = None if not cases else parts[name]["status"] == "ok"
        found[f"{name}_wrong"] = {"value": wrong if cases else None, "of": len(cases), "bound": 0, "met": met}
    slow = [row["slowdown"] for row in _rows(parts, "sharded") if "slowdown" in row]
    value = max(slow, default=None)
    found["sharded_slowdown"] = _goal(value, MAX_SLOWDOWN, value is not None and value <= MAX_SLOWDOWN, dry)
    reached = {row["length"]: row["mfu"] for row in _rows(parts, "learner") if row.get("mfu") is not None}
    for length, anchor in ANCHORS.items():
        value = reached.get(length)
        found[f"mfu_{length}"] = _goal(value, anchor, value is not None and value >= anchor, dry)
    return found


def _rows(parts: Parts, name: str) -> Sequence[Row]:
    return list(parts.get(name, {}).get("cases", {}).values())


def _goal(value: float | None, bound: float, met: bool, dry: bool) -> Row:
    return {"value": value, "bound": bound, "met": None if value is None or dry else met}


def table(name: str, part: Row) -> Iterator[str]:
    """Lines on one part: its state, a line per case, and what was not run."""
    seconds = f"{part['seconds']:.0f} s, limit {part['limit_s']:.0f} s"
    yield f"== {name}: {part['status']} ({seconds}){': ' + part['error'] if part['error'] else ''}"
    columns, cases = TABLES.get(name, ()), part["cases"]
    right = {case: row for case, row in cases.items() if row["ok"]}
    if name in ("parity", "tiles"):
        left_out = sum("skipped" in row for row in right.values())
        yield f"  {len(right) - left_out} right, {left_out} skipped, {len(cases) - len(right)} wrong"
    for case, row in cases.items():
        if not row["ok"]:
            yield f"  WRONG {case}: {row.get('error') or {key: value for key, value in row.items() if key != 'ok'}}"
        elif name not in ("parity", "tiles"):
            yield f"  {case:<34}{_cells(columns, row)}"


def _cells(columns: Sequence[Column], row: Row) -> str:
    found = [(column, row[column.key]) for column in columns if row.get(column.key) is not None]
    if not found:
        return "  ".join(f"{key} {_short(value)}" for key, value in row.items() if key != "ok")[:400]
    return "  ".join(f"{column.title} {_cell(column, value)}" for column, value in found)


def _cell(column: Column, value: Any) -> str:
    return _short(value) if isinstance(value, Mapping) else column.form.format(value * column.scale)


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_short(item)}" for key, item in value.items()) + "}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
