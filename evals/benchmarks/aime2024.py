"""AIME 2024, both exams."""

from __future__ import annotations

from evals.benchmark import BOXED, Benchmark, Row, followed_by
from rollout.problems.config import HubSource


def convert(row: Row) -> Row:
    """Convert a row of HuggingFaceH4/aime_2024."""
    return {"id": f"aime2024-{row['id']}", "problem": row["problem"], "answer": row["answer"], "year": 2024}


BENCHMARK = Benchmark(
    name="aime2024",
    title="AIME 2024",
    published=(
        "k1.5: pass@1 averaged over 8 runs [2501.12599 §3.1], other settings not given (77.5 long, 60.8 short). "
        "DeepSeek-R1: temperature 0.6, top-p 0.95, 64 samples, 32,768 tokens. 30 problems: one run moves in steps "
        "of 3.3 points."
    ),
    file="aime2024.jsonl",
    hub=HubSource(path="HuggingFaceH4/aime_2024", split="train"),
    convert=convert,
    ask=followed_by(BOXED),
    samples=8,
    temperature=0.6,
    top_p=0.95,
    breakdown=("exam",),
)
