"""AG News: the topic of a news text, one of four."""

from __future__ import annotations

from evals.benchmark import Benchmark, Row, Shots
from evals.labels import verify_label
from evals.votes import same_text
from rollout.problems.config import HubSource
from rollout.types import Problem

LABELS = ("World", "Sports", "Business", "Sci/Tech")


def convert(row: Row) -> Row:
    """Convert a row of fancyzhx/ag_news."""
    return {"problem": row["text"], "answer": LABELS[row["label"]], "label": row["label"]}


def ask(problem: Problem) -> str:
    """Return the text and what is asked of it."""
    return f"Article: {problem.prompt}\nTopic:"


BENCHMARK = Benchmark(
    name="agnews",
    title="AG News",
    published=(
        "Classifiers trained on all 120,000 texts reach 94 to 95 per cent of the 7,600. In context: accuracy with n "
        "examples before the question, answers restricted to the four labels, as here; PCW and NBCE report other sets "
        "of this kind [2212.10947, 2403.17552]. --shots draws examples in turn from the four classes."
    ),
    file="agnews_test.jsonl",
    hub=HubSource(path="fancyzhx/ag_news", split="test"),
    convert=convert,
    ask=ask,
    verifier="exact",
    verify=verify_label,
    same=same_text,
    labels=LABELS,
    max_tokens=16,
    breakdown=("label",),
    shots=Shots(
        file="agnews_dev.jsonl",
        hub=HubSource(path="fancyzhx/ag_news", split="train"),
        solve=lambda row: str(row["answer"]),
        convert=convert,
        balanced="answer",
    ),
)
