"""GSM8K: grade-school word problems."""

from __future__ import annotations

import re

from evals.benchmark import BOXED, Benchmark, Row, Shots, followed_by
from rewards.score import Score
from rollout.problems.config import HubSource
from rollout.types import Problem

_NOTE = re.compile(r"<<[^<>]*>>")


def convert(row: Row) -> Row:
    """Convert a row of openai/gsm8k, whose answer follows ``####``."""
    rationale, _, answer = row["answer"].rpartition("####")
    return {"problem": row["question"], "answer": answer.strip().replace(",", ""), "rationale": rationale.strip()}


def solve(row: Row) -> str:
    """Return the rationale without its calculator notes, and the answer in a box."""
    return f"{_NOTE.sub('', row['rationale'])}\nThe answer is \\boxed{{{row['answer']}}}."


def verify(problem: Problem, response: str) -> Score:
    r"""Judge by the last ``\boxed{}`` after the thinking if there is one, else the number after ``####``, after
    ``Answer:``, or
    the last number.
    """
    from rewards.math.extract import boxes
    from rewards.math.grade import grade
    from rewards.response import after_thinking

    rule = "boxed" if boxes(after_thinking(response)) else "gsm8k"
    gold = problem.answer.rpartition("####")[2].strip()
    return grade(gold, response, rule=rule)


BENCHMARK = Benchmark(
    name="gsm8k",
    title="GSM8K",
    published=(
        "Base and small models: 5-shot or 8-shot, greedy, last number of the text (SmolLM2's card: 5-shot). Instruct "
        "models: zero-shot with a box. The defaults are the latter; --shots 5 puts solved training problems first, as "
        "turns of the chat."
    ),
    file="gsm8k_test.jsonl",
    hub=HubSource(path="openai/gsm8k", name="main", split="test"),
    convert=convert,
    ask=followed_by(BOXED),
    verifier="gsm8k",
    verify=verify,
    max_tokens=4096,
    shots=Shots(
        file="gsm8k_train.jsonl",
        hub=HubSource(path="openai/gsm8k", name="main", split="train"),
        solve=solve,
        convert=convert,
    ),
)
