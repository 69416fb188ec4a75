"""``report.html`` of ``k15 curate``: the funnel, the map, what each stage dropped, contamination, the set itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evals.report.page import render, script_of
from recipes.curate.results import (
    PAIRS,
    POINT_TEXT,
    POINTS,
    SAMPLES,
    TEXT,
    Contamination,
    CurateResults,
    Kept,
    Map,
    PassRates,
    Source,
    Stage,
    bounded,
)
from rollout.files import replace_file
from rollout.plain import one_line

REASONS = 16
"""Most reasons of a stage that have a line of their own."""
SOURCES = 40
"""Most sources with a line of their own."""
SERIES = 6
"""Most sources with a colour of their own; the others share one."""
DOMAINS = 24
"""Most domains with a bar of their own."""
KINDS = 12
"""Most languages and kinds of answers with a bar of their own."""


def write_page(path: Path, results: CurateResults) -> None:
    """Write the page, one self-contained file; equal results give equal bytes. Raises ``OSError``."""
    replace_file(path, render("Curation \N{MIDDLE DOT} k15", payload(results), page_script(), "samples").encode())


def page_script() -> str:
    """Return the script that draws ``payload`` with the parts of ``evals.report.page``."""
    return script_of("recipes.curate.report", "bars.js", "map.js", "rows.js", "report.js")


def payload(results: CurateResults) -> dict[str, Any]:
    """Return everything that the page shows, as plain JSON data; aggregates, and rows as ``bounded`` leaves them."""
    shown = bounded(results)
    facts = asdict(shown.facts)
    return {
        "facts": facts | {"versions": list(shown.facts.versions), "settings": list(shown.facts.settings)},
        "warnings": list(shown.warnings),
        "warnings_total": len(results.warnings),
        "stages": [_stage(one) for one in shown.stages],
        "sources": _sources(shown.sources),
        "series": series(shown.sources),
        "pass_rates": _pass_rates(shown.pass_rates, series(shown.sources)) if shown.pass_rates else None,
        "map": _map(shown.map) if shown.map else None,
        "samples": [asdict(one) for one in shown.samples],
        "contamination": _contamination(shown.contamination) if shown.contamination else None,
        "kept": _kept(shown.kept),
        "bounds": {"points": POINTS, "point_text": POINT_TEXT, "samples": SAMPLES, "pairs": PAIRS, "text": TEXT},
    }


def _stage(one: Stage) -> dict[str, Any]:
    return {
        "name": one.name,
        "title": one.title,
        "entered": one.entered,
        "dropped": one.dropped,
        "reasons": largest(one.reasons, REASONS),
        "seconds": one.seconds,
        "note": one.note,
        "skipped": one.skipped,
    }


def _sources(sources: Iterable[Source]) -> list[dict[str, Any]]:
    """Return the largest sources, and the others as one."""
    ordered = sorted(sources, key=lambda one: -one.rows)
    own, rest = (ordered, []) if len(ordered) <= SOURCES else (ordered[: SOURCES - 1], ordered[SOURCES - 1 :])
    rows = [asdict(one) | {"name": one_line(one.name, 80), "origin": one_line(one.origin)} for one in own]
    if rest:
        dropped = {name: sum(one.dropped.get(name, 0) for one in rest) for one in rest for name in one.dropped}
        counts = {"rows": sum(one.rows for one in rest), "kept": sum(one.kept for one in rest)}
        rows.append({"name": f"{len(rest)} others", "origin": "", "dropped": dropped, **counts})
    return rows


def series(sources: Iterable[Source]) -> list[str]:
    """Return the names of the sources that have a colour of their own, the largest first."""
    return [one_line(one.name, 80) for one in sorted(sources, key=lambda one: -one.rows)[:SERIES]]


def _pass_rates(rates: PassRates, names: list[str]) -> dict[str, Any]:
    layers = {name: [0] * (rates.samples + 1) for name in names}
    others = [0] * (rates.samples + 1)
    for source, counts in rates.counts.items():
        layer = layers.get(one_line(source, 80), others)
        for right, count in enumerate(counts):
            layer[right] += count
    return {
        "samples": rates.samples,
        "layers": [[name, layer] for name, layer in layers.items()],
        "others": others,
        "unmeasured": rates.unmeasured,
        "easiest": rates.easiest,
        "unsolved_dropped": rates.unsolved_dropped,
    }


def _map(found: Map) -> dict[str, Any]:
    """Return columns: what repeats is in there once."""
    points = found.points

    def coded(values: list[str]) -> dict[str, Any]:
        sizes = Counter(values)
        names = sorted(sizes, key=lambda name: (-sizes[name], name))
        code = {name: i for i, name in enumerate(names)}
        return {"names": names, "codes": [code[value] for value in values]}

    return {
        "x": [one.x for one in points],
        "y": [one.y for one in points],
        "id": [one.id for one in points],
        "text": [one.text for one in points],
        "source": coded([one.source for one in points]),
        "domain": coded([one.domain for one in points]),
        "fate": coded([one.fate for one in points]),
        "difficulty": [one.difficulty for one in points],
        "difficulty_name": found.difficulty,
        "total": found.total,
        "method": found.method,
    }


def _contamination(found: Contamination) -> dict[str, Any]:
    kinds = list(dict.fromkeys(kind for one in found.sets for kind in one.confirmed))
    return asdict(found) | {"kinds": kinds}


def _kept(kept: Kept) -> dict[str, Any]:
    domains = kept.domains or {}
    sizes = {name: sum(counts) for name, counts in domains.items()}
    names = sorted(sizes, key=lambda name: (-sizes[name], name))
    own, rest = (names, []) if len(names) <= DOMAINS else (names[: DOMAINS - 1], names[DOMAINS - 1 :])
    rows = [[one_line(name, 80), list(domains[name])] for name in own]
    if rest:
        rows.append(
            [f"{len(rest)} others", [sum(counts) for counts in zip(*(domains[name] for name in rest), strict=True)]]
        )
    return {
        "rows": kept.rows,
        "levels": list(kept.levels),
        "domains": None if kept.domains is None else rows,
        "languages": None if kept.languages is None else largest(kept.languages, KINDS),
        "answers": None if kept.answers is None else largest(kept.answers, KINDS),
        "lengths": [list(one) for one in kept.lengths],
    }


def largest(counts: Mapping[str, int], limit: int) -> list[tuple[str, int]]:
    """Return (name, count), the largest first; where there are more than ``limit``, the others as one."""
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    if len(ordered) <= limit:
        return ordered
    rest = ordered[limit - 1 :]
    return [*ordered[: limit - 1], (f"{len(rest)} others", sum(count for _, count in rest))]
