"""AIME 2025, both exams."""

from __future__ import annotations

from evals.benchmark import BOXED, Benchmark, Row, followed_by
from rollout.problems.config import HubSource


def convert(row: Row) -> Row:
    """Convert a row of MathArena/aime_2025."""
    return {"id": f"aime2025-{row['problem_idx']}", "problem": row["problem"], "answer": row["answer"], "year": 2025}


BENCHMARK = Benchmark(
    name="aime2025",
    title="AIME 2025",
    published=(
        "Published after k1.5. Usual: temperature 0.6, top-p 0.95, 32 or 64 samples, 32,768 tokens; the defaults here "
        "draw 8, as k1.5 does for AIME 2024 [2501.12599 §3.1]."
    ),
    file="aime2025.jsonl",
    hub=HubSource(path="MathArena/aime_2025", split="train"),
    convert=convert,
    ask=followed_by(BOXED),
    samples=8,
    temperature=0.6,
    top_p=0.95,
)
