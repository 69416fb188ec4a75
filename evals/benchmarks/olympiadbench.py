"""OlympiadBench: open-ended maths problems in English, text only."""

from __future__ import annotations

from fractions import Fraction

from evals.benchmark import BOXED, Benchmark, Row
from rewards.score import Score
from rollout.problems.config import HubSource
from rollout.types import Problem

SEVERAL = "The problem has several answers: put all of them into the box, with commas between."


def convert(row: Row) -> Row:
    """Convert a row of Hothan/OlympiadBench, configuration OE_TO_maths_en_COMP."""
    return {
        "id": f"olympiadbench-{row['id']}",
        "problem": row["question"],
        "answer": ", ".join(row["final_answer"]),
        "subject": row["subfield"],
        "answer_type": row["answer_type"],
        "is_multiple_answer": row["is_multiple_answer"],
        "error": row["error"],
    }


def ask(problem: Problem) -> str:
    """Return the problem with the place to put the answer, or the answers."""
    several = f"\n{SEVERAL}" if problem.extra.get("is_multiple_answer") else ""
    return f"{problem.prompt}\n\n{BOXED}{several}"


def verify(problem: Problem, response: str) -> Score:
    """Judge exactly, except where the source gives a problem a tolerance."""
    from rewards.math.grade import grade

    error = problem.extra.get("error")
    tolerance = Fraction(str(error)) if error else None
    return grade(problem.answer, response, tolerance=tolerance)


BENCHMARK = Benchmark(
    name="olympiadbench",
    title="OlympiadBench (maths, English)",
    published=(
        "Authors: zero-shot, greedy, 2,048 tokens, their own judge. Qwen2.5-Math and after: 675 or 674 problems, one "
        "greedy run. Reasoning models: temperature 0.6, top-p 0.95, as here."
    ),
    file="olympiadbench_oe_maths_en.jsonl",
    hub=HubSource(path="Hothan/OlympiadBench", name="OE_TO_maths_en_COMP", split="train"),
    convert=convert,
    ask=ask,
    verify=verify,
    temperature=0.6,
    top_p=0.95,
    breakdown=("subject", "answer_type"),
)
