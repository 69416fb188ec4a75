"""From held-out answers to variants, and to the files of the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evals.evaluate import Answer, by_problem, result_of
from evals.stats import paired
from recipes.shorten.efficiency import table, verdict
from recipes.shorten.plot import write_png
from recipes.shorten.report import PageData, write_report, write_results
from recipes.shorten.results import Change, Variant


def change(long: Sequence[Answer], other: Sequence[Answer]) -> Change | None:
    """Compare ``other`` with the long model on the problems on which both have a graded response; ``None``
    without any.
    """
    rows = {
        name: {group[0].problem.id: [a.score.correct for a in group if a.score.gradable] for group in by_problem(own)}
        for name, own in (("long", long), ("other", other))
    }
    shared = [key for key, row in rows["long"].items() if row and rows["other"].get(key)]
    if not shared:
        return None
    compared = paired([rows["long"][key] for key in shared], [rows["other"][key] for key in shared])
    before, after = (sum(a.response.tokens or 0 for a in own) / len(own) for own in (long, other))
    return Change(compared.difference, compared.low, compared.high, compared.p, after / before - 1 if before else 0.0)


def judged(
    models: Mapping[str, Path], answers: Mapping[str, Sequence[Answer]], notes: Mapping[str, str], samples: int
) -> list[Variant]:
    """Return one variant per model, in the order of ``models``; ``long`` is what the others are compared with."""
    found = []
    for name, model in models.items():
        result = result_of(answers[name], samples)
        found.append(
            Variant(
                name=name,
                model=str(model),
                accuracy=result.accuracy,
                tokens=result.tokens,
                median_tokens=result.median_tokens,
                truncated=result.truncated,
                ungradable=result.ungradable,
                samples=samples,
                change=None if name == "long" else change(answers["long"], answers[name]),
                note=notes[name],
            )
        )
    return found


def report(
    out: Path, variants: Sequence[Variant], answers: Mapping[str, Sequence[Answer]], facts: Mapping[str, str]
) -> str:
    """Write ``results.json``, ``report.html`` and ``efficiency.png``, and return the text for the terminal."""
    title = f"long2short: {out.name}"
    write_results(out / "results.json", variants, facts)
    write_report(out / "report.html", PageData(title, tuple(variants), dict(answers), dict(facts)))
    write_png(out / "efficiency.png", variants, title)
    files = f"results  {out / 'results.json'}\nreport   {out / 'report.html'}\nplot     {out / 'efficiency.png'}"
    return "\n".join([table(variants), "", *verdict(variants), "", files])
