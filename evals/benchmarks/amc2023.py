"""AMC 12 2023: the usual 40 problems with a number as the answer."""

from __future__ import annotations

from evals.benchmark import BOXED, Benchmark, Row, followed_by
from rollout.problems.config import HubSource


def convert(row: Row) -> Row:
    """Convert a row of math-ai/amc23, whose answers are floats: 27.0 is 27."""
    answer = str(row["answer"]).removesuffix(".0")
    return {"id": f"amc2023-{row['id']}", "problem": row["question"], "answer": answer}


BENCHMARK = Benchmark(
    name="amc2023",
    title="AMC 2023",
    published=(
        "Qwen2.5-Math: the same 40 problems, greedy, one run. The defaults here draw 8 samples at temperature 0.6: "
        "with 40 problems one greedy run moves in steps of 2.5 points."
    ),
    file="amc2023.jsonl",
    hub=HubSource(path="math-ai/amc23", split="test"),
    convert=convert,
    ask=followed_by(BOXED),
    samples=8,
    temperature=0.6,
    top_p=0.95,
)
