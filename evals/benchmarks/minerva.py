"""Minerva's undergraduate problems from MIT OpenCourseWare: physics and maths with units and large numbers."""

from __future__ import annotations

from evals.benchmark import BOXED, Benchmark, Row, followed_by
from rollout.problems.config import HubSource


def convert(row: Row) -> Row:
    """Convert a row of math-ai/minervamath."""
    return {"problem": row["question"], "answer": row["answer"]}


BENCHMARK = Benchmark(
    name="minerva",
    title="Minerva (OCW courses)",
    published=(
        "Minerva: 4-shot, maj@k, answers within 1 per cent. Qwen2.5-Math: zero-shot, greedy, relative error 1e-4. Here "
        "values are compared exactly, so rounded answers that those accept are wrong: expect a lower score."
    ),
    file="minerva_math.jsonl",
    hub=HubSource(path="math-ai/minervamath", split="test"),
    convert=convert,
    ask=followed_by(BOXED),
    temperature=0.6,
    top_p=0.95,
    breakdown=("subject",),
)
