"""``report.html`` of an evaluation: scores with intervals, breakdown, lengths, and answers to look through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evals.agreement import of_score
from evals.evaluate import Answer, Spoke
from evals.report.page import render, script_of
from evals.report.page.choice import choose
from evals.results import Results
from rollout.files import replace_file
from rollout.plain import clip, one_line
from rollout.strict_json import dumps

SHOWN = 400
"""Most answers that the page holds, over all benchmarks."""
TEXT_LIMIT = 12_000
"""Characters of one text; beyond it head and tail are shown."""
TEXT_BUDGET = 3_000_000
"""Characters of all answers together."""
BINS = 24
"""Most bars of a length histogram."""


def write_report(path: Path, results: Results, answers: Sequence[tuple[str, Sequence[Answer]]]) -> None:
    """Write the page for ``results``; ``answers`` are those behind it, by benchmark. Raises ``OSError``."""
    script = script_of("evals.report.evaluation", "report.js")
    title = f"{one_line(results.model, 80)} \N{MIDDLE DOT} k15 eval"
    replace_file(path, render(title, payload(results, answers), script, "answers").encode())


def payload(results: Results, answers: Sequence[tuple[str, Sequence[Answer]]]) -> dict[str, Any]:
    """Return everything that the page shows, as plain JSON data."""
    total = sum(len(own) for _, own in answers)
    share = SHOWN // max(1, len(answers))
    chosen = [(name, answer) for name, own in answers for answer in choose(own, _kind, share)]
    limit = min(TEXT_LIMIT, TEXT_BUDGET // max(1, len(chosen)))
    lengths = {name: histogram(own) for name, own in answers}
    data = asdict(results)
    for row in data["benchmarks"]:
        del row["problems"]
        row["settings"].pop("prompt", None)
        row["first_prompt"] = clip(row["first_prompt"], TEXT_LIMIT)
        row["histogram"] = lengths.get(row["name"])
        row["problem_count"] = row["score"]["problems"] if row["score"] else 0
    return {
        "model": results.model,
        "facts": results.facts,
        "benchmarks": data["benchmarks"],
        "answers": [shown(name, answer, limit) for name, answer in chosen],
        "answers_total": total,
    }


def _kind(answer: Answer) -> list[tuple[str, str]]:
    both = of_score("", answer.score)
    return [(answer.score.verdict, str(answer.response.stop)), *([("judge", both.kind)] if both.compared else [])]


def shown(benchmark: str, answer: Answer, limit: int) -> dict[str, Any]:
    """Return one answer as the page shows it, with its texts clipped."""
    problem, response, score = answer.problem, answer.response, answer.score
    small = {k: v for k, v in problem.extra.items() if isinstance(v, str | int | float) and 0 < len(str(v)) <= 80}
    return {
        "benchmark": benchmark,
        "id": problem.id,
        "sample": answer.sample,
        "question": clip(problem.prompt, limit),
        "reference": clip(problem.answer, 2000),
        "response": clip(response.text, limit),
        "extracted": clip(score.extracted, 2000),
        "verdict": score.verdict,
        "score": score.reward,
        "parts": dict(score.parts),
        "opinion": clip(score.opinion, limit),
        "both": of_score(problem.id, score).kind if "model" in score.parts else "",
        "reason": clip(score.reason or response.error, 400),
        "stop": response.stop,
        "tokens": response.tokens,
        "window": windows_of(response.spoke) if response.spoke else "",
        "fields": dumps(small, default=str) if small else "",
    }


def windows_of(spoke: Spoke) -> str:
    """Return in words which windows of evidence spoke in a response."""
    shares = sorted(((share, k) for k, share in enumerate(spoke.shares, 1) if share), key=lambda one: (-one[0], one[1]))
    said = ", ".join(f"{k} for {100 * share:.0f} %" for share, k in shares[:8])
    holder = f"; {spoke.holder} holds the answer" if spoke.holder else ""
    return f"{spoke.first} spoke first; of the tokens {said}{holder}"


def histogram(answers: Sequence[Answer], longest: int = 0) -> dict[str, Any] | None:
    """Count response lengths by verdict; in characters when the tokens are not known.

    The bins reach up to ``longest`` at least, so that histograms of several models can have the same ones.

    ``edges`` [b + 1] bound the bins, ``right``, ``wrong`` and ``ungradable`` [b] count. ``None`` without answers.
    """
    known = all(answer.response.tokens is not None for answer in answers)
    lengths = [answer.response.tokens or 0 if known else len(answer.response.text) for answer in answers]
    if not lengths:
        return None
    reach = max(longest, *lengths)
    width = _nice(reach / BINS)
    bins = reach // width + 1
    counts = {verdict: [0] * bins for verdict in ("correct", "wrong", "ungradable")}
    for answer, length in zip(answers, lengths, strict=True):
        counts[answer.score.verdict][length // width] += 1
    edges = [width * i for i in range(bins + 1)]
    return {"unit": "tokens" if known else "characters", "edges": edges, **counts}


def _nice(width: float) -> int:
    """Return the first of 1, 2, 5, 10, 20, ... that is at least ``width``."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power >= width:
                return factor * power
        power *= 10
