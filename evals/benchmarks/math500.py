"""MATH-500: the 500 test problems of MATH that PRM800K held out."""

from __future__ import annotations

from evals.benchmark import BOXED, Benchmark, Row, Shots, followed_by
from rollout.problems.config import HubSource


def convert(row: Row) -> Row:
    """Convert a row of HuggingFaceH4/MATH-500."""
    return {**row, "id": f"math500-{row['unique_id']}"}


BENCHMARK = Benchmark(
    name="math500",
    title="MATH-500",
    published=(
        "k1.5: exact match, settings not given (96.2 long, 94.6 short) [2501.12599 §3.1]. DeepSeek-R1: "
        "temperature 0.6, top-p 0.95, pass@1. "
        "Instruct models are mostly reported greedy: --n 1 --temperature 0 --top-p 1."
    ),
    file="math500.jsonl",
    hub=HubSource(path="HuggingFaceH4/MATH-500", split="test"),
    convert=convert,
    ask=followed_by(BOXED),
    samples=4,
    temperature=0.6,
    top_p=0.95,
    breakdown=("level", "subject"),
    shots=Shots(
        file="math_train.jsonl",
        hub=HubSource(path="DigitalLearningGmbH/MATH-lighteval", split="train"),
        solve=lambda row: str(row["solution"]),
    ),
)
