"""``report.html`` and ``results.json`` of ``k15 shorten``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from evals.evaluate import Answer, by_problem
from evals.report import histogram
from recipes.shorten.efficiency import efficiency, pareto, verdict
from recipes.shorten.results import TITLES, Change, Variant
from rewards.stats import Estimate
from rollout.files import replace_file
from rollout.page import render
from rollout.plain import clip, one_line

SCHEMA = "k15.shorten/1"
PROBLEMS_SHOWN = 60
"""Held-out problems in the page at most, an even spread."""
TEXT_LIMIT = 8_000
"""Characters of one text; beyond it head and tail are shown."""


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
    script = (resources.files("recipes.shorten.report") / "report.js").read_text("utf-8")
    replace_file(
        path, render(f"{one_line(page.title, 80)} \N{MIDDLE DOT} k15", payload(page), script, "problems").encode()
    )


def payload(page: PageData) -> dict[str, Any]:
    """Plain JSON data for ``report.js``."""
    front = pareto(page.variants)
    rows = []
    for one in page.variants:
        row = asdict(one)
        row |= {"title": TITLES[one.name], "front": one.name in front, "efficiency": efficiency(one)}
        row["histogram"] = histogram(page.answers[one.name]) if one.name in page.answers else None
        rows.append(row)
    return {
        "title": page.title,
        "variants": rows,
        "verdict": verdict(page.variants),
        "problems": _problems(page),
        "facts": [[name, value] for name, value in page.facts.items()],
    }


def _problems(page: PageData) -> list[dict[str, Any]]:
    """Held-out problems with the first answer of each variant."""
    groups = {
        name: {group[0].problem.id: group for group in by_problem(answers)} for name, answers in page.answers.items()
    }
    first = next(iter(groups.values()), {})
    ids = list(first)
    chosen = ids if len(ids) <= PROBLEMS_SHOWN else [ids[i * len(ids) // PROBLEMS_SHOWN] for i in range(PROBLEMS_SHOWN)]
    return [
        {
            "id": key,
            "question": clip(first[key][0].problem.prompt, TEXT_LIMIT),
            "reference": clip(first[key][0].problem.answer, 2000),
            "answers": [_shown(name, own[key]) for name, own in groups.items() if key in own],
        }
        for key in chosen
    ]


def _shown(name: str, group: Sequence[Answer]) -> dict[str, Any]:
    answer = group[0]
    graded = [one.score.correct for one in group if one.score.gradable]
    return {
        "variant": TITLES[name],
        "verdict": answer.score.verdict,
        "stop": answer.response.stop,
        "tokens": answer.response.tokens,
        "right": sum(graded),
        "of": len(graded),
        "response": clip(answer.response.text, TEXT_LIMIT),
    }


def write_results(path: Path, variants: Sequence[Variant], facts: Mapping[str, str]) -> None:
    """Write ``results.json``, atomically. Raises ``OSError``."""
    data = {"schema": SCHEMA, "facts": dict(facts), "variants": [asdict(one) for one in variants]}
    replace_file(path, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())


def read_results(path: Path) -> tuple[list[Variant], dict[str, str]]:
    """Inverse of ``write_results``. Raises ``ShortenResultsError``."""
    try:
        data = json.loads(path.read_bytes())
        if data["schema"] != SCHEMA:
            raise ShortenResultsError(f"{path}: schema {data['schema']!r}, this k15 reads {SCHEMA!r}; judge again")
        return [_variant(row) for row in data["variants"]], data["facts"]
    except OSError as error:
        raise ShortenResultsError(f"{path}: cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ShortenResultsError(f"{path}: no results of `k15 shorten` ({error})") from error


def _variant(row: dict[str, Any]) -> Variant:
    change = row["change"] and Change(**row["change"])
    parts = {"accuracy": Estimate(**row["accuracy"]), "tokens": Estimate(**row["tokens"]), "change": change}
    return Variant(**{**row, **parts})
