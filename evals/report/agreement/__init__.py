"""The page on which rule and reward model disagree: how often, on what kind of response, and the responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from evals.agreement import Agreement, Verdicts, agreement
from evals.report.page import render, script_of
from evals.report.page.choice import choose
from rollout.files import replace_file
from rollout.plain import clip

FILE = "agreement.html"
SHOWN = 400
"""Most responses that the page holds."""
DISAGREEING = 300
"""Most of those on which rule and model disagree."""
TEXT_LIMIT = 12_000
"""Characters of one text; beyond it head and tail are shown."""
TEXT_BUDGET = 3_000_000
"""Characters of all of them together."""
PARTS = 5
"""Most parts that a number is cut into."""


@dataclass(frozen=True)
class Judgement:
    """One response with both verdicts on it."""

    id: str
    """Of the response."""
    verdicts: Verdicts
    question: str
    reference: str
    response: str
    """Hostile text."""
    verdict: str
    """The one that counted: correct, wrong, ungradable."""
    reason: str = ""
    opinion: str = ""
    """What the model wrote: hostile text."""
    source: str = ""
    difficulty: float | None = None
    tokens: int | None = None
    """Of the response; ``None``: unknown, its characters stand for them."""


Fill = Callable[[Sequence[Judgement]], Sequence[Judgement]]


def write_page(
    path: Path, title: str, facts: dict[str, Any], judgements: Sequence[Judgement], texts: Fill = lambda given: given
) -> None:
    """Write the page, one self-contained file; ``texts`` brings those of the responses that it holds, where
    ``judgements`` are without. Raises ``OSError``.
    """
    script = script_of("evals.report.agreement", "report.js")
    name = f"{title} \N{MIDDLE DOT} rule and model"
    replace_file(path, render(name, payload(title, facts, judgements, texts), script, "responses").encode())


def payload(
    title: str, facts: dict[str, Any], judgements: Sequence[Judgement], texts: Fill = lambda given: given
) -> dict[str, Any]:
    """Return everything that the page shows, as plain JSON data."""
    shown = texts(chosen(judgements))
    limit = min(TEXT_LIMIT, TEXT_BUDGET // max(1, 3 * len(shown)))
    return {
        "title": title,
        "facts": facts,
        "all": numbers(agreement([one.verdicts for one in judgements])),
        "slices": slices(judgements),
        "responses": [row(one, limit) for one in shown],
        "responses_total": len(judgements),
    }


def numbers(found: Agreement) -> dict[str, Any]:
    """Return an agreement as plain data."""
    return {**asdict(found), "compared": found.compared}


def chosen(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Return the responses that the page holds: those on which both disagree first, then some of every other kind."""

    def kind(one: Judgement) -> list[str]:
        return [one.verdicts.kind]

    differ = [one for one in judgements if one.verdicts.compared and one.verdicts.kind != "agree"]
    others = [one for one in judgements if not one.verdicts.compared or one.verdicts.kind == "agree"]
    first = choose(differ, kind, DISAGREEING)
    return [*first, *choose(others, kind, SHOWN - len(first))]


def row(one: Judgement, limit: int) -> dict[str, Any]:
    """Return one response as the page shows it, with its texts clipped."""
    return {
        "id": one.id,
        "problem": one.verdicts.problem,
        "kind": one.verdicts.kind,
        "rule": one.verdicts.rule,
        "model": one.verdicts.model,
        "probability": one.verdicts.probability,
        "question": clip(one.question, limit),
        "reference": clip(one.reference, 2000),
        "response": clip(one.response, limit),
        "verdict": one.verdict,
        "reason": clip(one.reason, 400),
        "opinion": clip(one.opinion, limit),
        "source": clip(one.source, 80),
        "difficulty": one.difficulty,
        "tokens": one.tokens,
    }


def slices(judgements: Sequence[Judgement]) -> list[dict[str, Any]]:
    """Return the agreement on parts of the compared responses: by source, difficulty and length."""
    both = [one for one in judgements if one.verdicts.compared]
    known = all(one.tokens is not None for one in both)
    unit = "tokens" if known else "characters"
    found = [
        *_slices("source", both, lambda one: one.source),
        *_ranges("difficulty", [one for one in both if one.difficulty is not None], lambda one: one.difficulty or 0.0),
        *_ranges(f"length ({unit})", both, lambda one: float((one.tokens or 0) if known else len(one.response))),
        *_ranges("probability", both, lambda one: one.verdicts.probability or 0.0),
    ]
    return [part for part in found if sum(other["field"] == part["field"] for other in found) > 1]


def _slices(
    field: str, both: Sequence[Judgement], value: Callable[[Judgement], str], order: Sequence[str] = ()
) -> list[dict[str, Any]]:
    parts: dict[str, list[Verdicts]] = {}
    for one in both:
        parts.setdefault(value(one), []).append(one.verdicts)
    names = order or sorted(parts)
    return [{"field": field, "value": name or "\N{EN DASH}", **numbers(agreement(parts[name]))} for name in names]


def _ranges(field: str, both: Sequence[Judgement], value: Callable[[Judgement], float]) -> list[dict[str, Any]]:
    """Cut a number into parts of about as many responses each; few values are parts of their own."""
    values = sorted(value(one) for one in both)
    if not values:
        return []
    if len(set(values)) <= PARTS:
        names = {number: f"{number:g}" for number in sorted(set(values))}
        return _slices(field, both, lambda one: names[value(one)], [*names.values()])
    edges = sorted({values[0], *(values[len(values) * i // PARTS] for i in range(1, PARTS))})
    bounds = [*pairwise(edges), (edges[-1], values[-1])]

    def name(number: float) -> str:
        low, high = next((low, high) for low, high in reversed(bounds) if number >= low)
        return f"{low:.3g} to {high:.3g}"

    order = list(dict.fromkeys(name(low) for low in edges))
    return _slices(field, both, lambda one: name(value(one)), order)
