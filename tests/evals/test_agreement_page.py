"""The page on which rule and model disagree: what is on it, and that nothing that a model wrote acts there."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from browser_kit import body_of, drawn, needs_browser

from evals.agreement import Verdicts
from evals.report.agreement import DISAGREEING, SHOWN, Judgement, payload, write_page

HOSTILE = "</script><script>document.body.dataset.error='x'</script><img src=x onerror=alert(1)>\u202e{{7*7}}"


def judgement(i: int, rule: bool | None, model: bool | None, **changes: Any) -> Judgement:
    probability = None if model is None else 0.9 if model else 0.2
    return Judgement(
        **{
            "id": f"p{i}/0",
            "verdicts": Verdicts(f"p{i}", rule, model, probability),
            "question": f"What is {i} + 1?",
            "reference": str(i + 1),
            "response": f"It is {i + 1}.",
            "verdict": "correct",
            "opinion": f'The response says {i + 1}. {{"verdict": "correct"}}',
            "source": "sums" if i % 2 else "words",
            "difficulty": float(i % 3),
            "tokens": 5 + i,
            **changes,
        }
    )


@pytest.fixture
def judgements() -> list[Judgement]:
    draw = random.Random(0)
    found = []
    for i in range(600):
        rule = draw.random() < 0.6
        model = rule if draw.random() < 0.85 else not rule
        found.append(judgement(i, rule if i % 20 else None, model if i % 33 else None))
    return found


def test_the_numbers_are_those_of_all_responses(judgements: list[Judgement]) -> None:
    data = payload("outputs", {}, judgements)
    assert data["responses_total"] == 600
    both = [one.verdicts for one in judgements if one.verdicts.compared]
    assert data["all"]["compared"] == len(both)
    assert data["all"]["agreement"]["mean"] == pytest.approx(sum(one.rule == one.model for one in both) / len(both))
    fields = {part["field"] for part in data["slices"]}
    assert fields == {"source", "difficulty", "length (tokens)", "probability"}
    for field in fields:
        assert sum(part["compared"] for part in data["slices"] if part["field"] == field) == len(both), field


def test_disagreements_come_first_and_every_kind_is_there() -> None:
    many = [judgement(i, True, bool(i % 3)) for i in range(2000)] + [judgement(1, None, True), judgement(2, None, None)]
    shown = payload("outputs", {}, many)["responses"]
    assert len(shown) == SHOWN
    assert [row["kind"] for row in shown[:DISAGREEING]] == ["false wrong"] * DISAGREEING
    assert {row["kind"] for row in shown} == {"false wrong", "agree", "only model", "neither"}


def test_a_page_without_responses_or_comparisons_can_be_made(tmp_path: Path) -> None:
    for name, all_ in (("none", []), ("alone", [judgement(0, None, True)])):
        write_page(tmp_path / f"{name}.html", name, {}, all_)
        assert payload(name, {}, all_)["slices"] == []


def test_what_models_wrote_is_inert(tmp_path: Path) -> None:
    fields = ("id", "question", "reference", "response", "opinion", "reason", "source")
    one = judgement(0, True, False, **dict.fromkeys(fields, HOSTILE))
    write_page(tmp_path / "page.html", HOSTILE, {"model": HOSTILE}, [one])
    page = (tmp_path / "page.html").read_text()
    assert "<img src=x" not in page
    assert page.count("</script>") == 2, "the page's own"
    (embedded,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(embedded)["responses"][0]["response"].startswith("</script>"), "as text"


@needs_browser
def test_a_browser_shows_where_they_disagree(judgements: list[Judgement], tmp_path: Path) -> None:
    judgements[7] = judgement(7, False, True, response=HOSTILE, opinion=HOSTILE)
    write_page(tmp_path / "page.html", "outputs.jsonl", {"model": "runs/judge"}, judgements)
    document = drawn(tmp_path / "page.html", tmp_path / "profile")
    assert "data-error" not in document
    body = body_of(document)
    for text in (
        "Rule and model agree on",
        "kappa",
        "right by the model alone",
        "By source",
        "By difficulty",
        "P(right)",
    ):
        assert text in body
    assert 'aria-pressed="true">disagree' in body
    assert body.count('class="row"') == 25
