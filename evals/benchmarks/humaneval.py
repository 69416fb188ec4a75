"""HumanEval: complete a Python function from its signature and docstring."""

from __future__ import annotations

from evals.benchmark import Benchmark, Row
from rollout.problems.config import HubSource


def convert(row: Row) -> Row:
    """Convert a row of openai/openai_humaneval."""
    return {
        "id": row["task_id"].replace("HumanEval/", "humaneval-"),
        "problem": row["prompt"],
        "answer": row["canonical_solution"],
        "entry_point": row["entry_point"],
        "test": row["test"],
    }


BENCHMARK = Benchmark(
    name="humaneval",
    title="HumanEval",
    published=(
        "Authors: pass@1, @10 and @100 from 200 samples at temperature 0.2 or 0.8, top-p 0.95. Instruct models: "
        "zero-shot chat, greedy, pass@1, as here. k1.5 reports HumanEval-Mul, eight languages "
        "[2501.12599 §3.1]; this is Python."
    ),
    file="humaneval.jsonl",
    hub=HubSource(path="openai/openai_humaneval", split="test"),
    convert=convert,
    verifier="code",
    same=None,
    max_tokens=8192,
)
