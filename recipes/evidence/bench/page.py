"""``evidence.html``, and the same as Markdown for the documentation."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.report.page import render, script_of
from recipes.evidence.bench.drawing import png
from recipes.evidence.bench.finding import Finding, Judgement, shown
from rollout.files import replace_file

INTRODUCTION = """\
The findings of the papers behind k15, each tried in small by the product's own recipes: `k15 evidence NAME` does one of
them again, `k15 evidence --all` all of them. Every arm is trained with at least three seeds; an interval is Student's
95 % over seeds. A finding **holds** if the whole interval says so, it **does not** if the whole interval says the
opposite, and otherwise the trials **cannot tell**. What holds for models of a few hundred thousand parameters need not
hold for large ones, and the reverse: each finding says what is smaller here.
"""


@dataclass(frozen=True)
class Entry:
    """A finding on the page."""

    name: str
    finding: Finding
    judgement: Judgement
    trials: int
    """Trials behind it."""
    minutes: float
    """Of processor time that they took, those that it shares with others included."""
    left: int = 0
    """Trials that are still to be done."""
    failed: tuple[str, ...] = ()
    """Arms with trials that came to no result."""


def write_page(path: Path, entries: Sequence[Entry], facts: Sequence[tuple[str, str]]) -> None:
    """Write the page, self-contained. Raises ``OSError``."""
    payload = {"findings": [_row(entry) for entry in entries], "facts": [list(fact) for fact in facts]}
    script = script_of("recipes.evidence.bench", "page.js")
    replace_file(path, render("The papers' findings \N{MIDDLE DOT} k15", payload, script, "findings").encode())


def _row(entry: Entry) -> dict[str, Any]:
    finding, judgement = entry.finding, entry.judgement
    picture = png(judgement, finding.TITLE)
    return {
        "name": entry.name,
        "title": finding.TITLE,
        "paper": finding.PAPER,
        "claim": finding.CLAIM,
        "published": finding.PUBLISHED,
        "scale": finding.SCALE,
        "ruling": judgement.ruling,
        "text": judgement.text,
        "rows": [[row.name, shown(row.estimate), row.unit, row.estimate.n] for row in judgement.rows],
        "trials": entry.trials,
        "minutes": entry.minutes,
        "left": entry.left,
        "failed": list(entry.failed),
        "plot": f"data:image/png;base64,{base64.b64encode(picture).decode()}" if picture else "",
    }


def write_docs(folder: Path, entries: Sequence[Entry], facts: Sequence[tuple[str, str]]) -> Path:
    """Write ``evidence.md`` and the plots beside it into ``folder``; returns the page. Raises ``OSError``."""
    plots = folder / "evidence"
    plots.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        if picture := png(entry.judgement, entry.finding.TITLE):
            replace_file(plots / f"{entry.name}.png", picture)
    page = folder / "evidence.md"
    replace_file(page, markdown(entries, facts).encode())
    return page


def markdown(entries: Sequence[Entry], facts: Sequence[tuple[str, str]]) -> str:
    """Return the page as Markdown."""
    parts = ["# Evidence\n", INTRODUCTION]
    parts.append("| finding | paper | verdict | published |\n| --- | --- | --- | --- |")
    parts += [
        f"| [{entry.finding.TITLE}](#{anchor(entry.finding.TITLE)}) | {entry.finding.PAPER} | "
        f"**{verdict_of(entry)}** | {entry.finding.PUBLISHED} |"
        for entry in entries
    ]
    for entry in entries:
        parts.append(_section(entry))
    told = "\n".join(f"- {name}: {value}" for name, value in facts)
    parts.append(f"\n## How it was made\n\n{told}\n")
    return "\n".join(parts)


def anchor(heading: str) -> str:
    """Return what links name a heading by, here and on code hosts."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def _section(entry: Entry) -> str:
    finding, judgement = entry.finding, entry.judgement
    lines = [
        f"\n## {finding.TITLE}\n",
        f"**Verdict: {verdict_of(entry)}.** {judgement.text}\n",
        f"- The paper ({finding.PAPER}): {finding.CLAIM} Published: {finding.PUBLISHED}",
        f"- Here: {finding.SCALE}",
        f"- `k15 evidence {entry.name}`: {entry.trials} trials, {entry.minutes:.0f} minutes of one core"
        + (f"; {entry.left} still to be done" if entry.left else ""),
    ]
    lines += [f"- Came to no result: {', '.join(entry.failed)}"] if entry.failed else []
    if judgement.rows:
        lines += ["\n| | mean and 95 % interval | unit | seeds |\n| --- | --- | --- | --- |"]
        lines += [f"| {row.name} | {shown(row.estimate)} | {row.unit} | {row.estimate.n} |" for row in judgement.rows]
    if judgement.draw is not None:
        lines.append(f"\n![{finding.TITLE}](evidence/{entry.name}.png)")
    return "\n".join(lines)


def ruling_of(entry: Entry) -> str:
    """Return the verdict, or how far a finding is: ``7 of 9 trials``; empty before its first one."""
    if not entry.left:
        return entry.judgement.ruling
    done = entry.trials - entry.left
    return f"{done} of {entry.trials} trials" if done > 0 else ""


def verdict_of(entry: Entry) -> str:
    """Return the verdict in words, for a finding that is not finished, too."""
    return "not finished" if entry.left else entry.judgement.ruling


def table(entries: Sequence[Entry]) -> str:
    """Return the verdicts for the terminal."""
    rows = [
        [one.name, ruling_of(one) or "not begun", str(one.trials), str(one.left), f"{one.minutes:.1f}"]
        for one in entries
    ]
    return columns([["finding", "verdict", "trials", "left", "minutes"], *rows], right=(2, 3, 4))


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return rows of cells as lines, each column as wide as its longest cell; ``right``: columns that end together."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        lines.append("  ".join(cell.rjust(width) if at in right else cell.ljust(width) for at, (cell, width) in cells))
    return "\n".join(line.rstrip() for line in lines)
