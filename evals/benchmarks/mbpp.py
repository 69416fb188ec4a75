"""MBPP: short Python functions from a sentence and three asserts; the paper's 500 test problems."""

from __future__ import annotations

from evals.benchmark import Benchmark, Row
from rollout.problems.config import HubSource
from rollout.types import Problem


def convert(row: Row) -> Row:
    """Convert a row of google-research-datasets/mbpp, configuration full, whose test split is the paper's."""
    return {
        "id": f"mbpp-{int(row['task_id']):04d}",
        "problem": row["text"],
        "answer": row["code"],
        "split": "test",
        "test_setup_code": row["test_setup_code"],
        "test_list": list(row["test_list"]),
    }


def ask(problem: Problem) -> str:
    """Return the sentence and the asserts, without which the function's name would be unknown."""
    tests = "\n".join(problem.extra["test_list"])
    return (
        f"{problem.extra['statement']}\n\nThe code has to pass these tests:\n\n```python\n{tests}\n```\n\n"
        "Answer with one Python code block."
    )


BENCHMARK = Benchmark(
    name="mbpp",
    title="MBPP",
    published=(
        "Authors: task ids 11 to 510, 3-shot, temperature 0.5, the asserts in the prompt. Instruct models: zero-shot "
        "chat, greedy, pass@1, as here. Scores on MBPP+ or the sanitized set are others."
    ),
    file="mbpp.jsonl",
    hub=HubSource(path="google-research-datasets/mbpp", name="full", split="test"),
    convert=convert,
    keep=lambda row: row.get("split", "test") == "test",
    ask=ask,
    verifier="code",
    same=None,
    max_tokens=8192,
)
