"""``report.html`` and ``results.json`` of ``k15 shorten``: plot, table, findings, lengths, answers side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from evals.evaluate import Answer, by_problem
from evals.report.evaluation import histogram
from evals.report.page import render, script_of
from evals.report.page.choice import evenly
from recipes.shorten.efficiency import dominated_by, efficiency, token_change, verdict
from recipes.shorten.plot import limits
from recipes.shorten.results import TITLES, Variant
from rollout.files import replace_file
from rollout.plain import clip, one_line

SCHEMA = "k15.shorten/1"
PROBLEMS_SHOWN = 60
"""Most held-out problems that the page holds, an even spread."""
TEXT_LIMIT = 8_000
"""Characters of one text; beyond it head and tail are shown."""
TEXT_BUDGET = 3_000_000
"""Characters of all answers together."""


@dataclass(frozen=True)
class _File:
    """The contents of ``results.json``."""

    schema: str
    facts: dict[str, str]
    variants: list[Variant]


class ShortenResultsError(ValueError):
    """A results file cannot be read; one line."""


@dataclass(frozen=True)
class PageData:
    """Everything that the page shows."""

    title: str
    variants: tuple[Variant, ...]
    answers: Mapping[str, Sequence[Answer]]
    """Held-out answers, by variant."""
    facts: Mapping[str, str]
    """Settings and versions, for the last section."""


def write_report(path: Path, page: PageData) -> None:
    """Write the page, self-contained. Raises ``OSError``."""
    title = f"{one_line(page.title, 80)} \N{MIDDLE DOT} k15"
    replace_file(path, render(title, payload(page), page_script(), "problems").encode())


def page_script() -> str:
    """Return the script that draws ``payload`` with the parts of ``evals.report.page``."""
    return script_of("recipes.shorten.report", "plot.js", "report.js")


def payload(page: PageData) -> dict[str, Any]:
    """Return the plain JSON data for ``report.js``."""
    longest = max((a.response.tokens or 0 for own in page.answers.values() for a in own), default=0)
    return {
        "title": page.title,
        "variants": [_row(one, page, longest) for one in page.variants],
        "axes": {
            "tokens": limits([one.tokens for one in page.variants]),
            "accuracy": limits([one.accuracy for one in page.variants], 1.0),
        },
        "verdict": verdict(page.variants),
        "problems": _problems(page),
        "facts": [[name, value] for name, value in page.facts.items()],
    }


def _row(one: Variant, page: PageData, longest: int) -> dict[str, Any]:
    rivals = dominated_by(one, page.variants)
    long = next((other for other in page.variants if other.name == "long"), None)
    return {
        **asdict(one),
        "title": TITLES[one.name],
        "front": not rivals,
        "rivals": [TITLES[name] for name in rivals],
        "efficiency": asdict(efficiency(one)),
        "token_change": asdict(token_change(one, long)) if long and one.change else None,
        "histogram": histogram(page.answers.get(one.name, ()), longest),
    }


def _problems(page: PageData) -> list[dict[str, Any]]:
    """Return held-out problems with the first answer of each variant."""
    groups = {
        name: {group[0].problem.id: group for group in by_problem(answers)} for name, answers in page.answers.items()
    }
    first = next(iter(groups.values()), {})
    limit = min(TEXT_LIMIT, TEXT_BUDGET // max(1, PROBLEMS_SHOWN * len(groups)))
    return [
        {
            "id": key,
            "question": clip(first[key][0].problem.prompt, TEXT_LIMIT),
            "reference": clip(first[key][0].problem.answer, 2000),
            "answers": [_shown(name, own[key], limit) for name, own in groups.items() if key in own],
        }
        for key in evenly(list(first), PROBLEMS_SHOWN)
    ]


def _shown(name: str, group: Sequence[Answer], limit: int) -> dict[str, Any]:
    answer = group[0]
    graded = [one.score.correct for one in group if one.score.gradable]
    return {
        "variant": TITLES[name],
        "verdict": answer.score.verdict,
        "stop": answer.response.stop,
        "tokens": answer.response.tokens,
        "right": sum(graded),
        "of": len(graded),
        "response": clip(answer.response.text, limit),
    }


def write_results(path: Path, variants: Sequence[Variant], facts: Mapping[str, str]) -> None:
    """Write ``results.json``, atomically. Raises ``OSError``."""
    file = _File(SCHEMA, dict(facts), list(variants))
    replace_file(path, (json.dumps(asdict(file), indent=1, allow_nan=False) + "\n").encode())


def read_results(path: Path) -> tuple[list[Variant], dict[str, str]]:
    """Read what ``write_results`` wrote. Raises ``ShortenResultsError``."""
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise ShortenResultsError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ShortenResultsError(f"{path}: not JSON ({error})") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise ShortenResultsError(f"{path}: schema {schema!r}, this k15 reads {SCHEMA!r}; judge again")
    try:
        found = TypeAdapter(_File).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ShortenResultsError(f"{path}: not a complete results file: {where}: {first['msg']}") from error
    unknown = [one.name for one in found.variants if one.name not in TITLES]
    if unknown:
        raise ShortenResultsError(f"{path}: no such variant: {one_line(unknown[0], 40)!r}")
    return found.variants, found.facts
