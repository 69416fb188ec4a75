"""How to add a benchmark: copy this file to ``evals/benchmarks/<name>.py`` and change it. Nothing else is needed.

Names that begin with ``_`` are no benchmarks, so this file is none. ``tests/evals/test_eval_benchmarks.py`` copies it,
runs it on a small file and checks every benchmark in the folder: name, settings, local file, prompt.

Data: a JSON Lines file, one problem a line, with ``problem`` and ``answer`` (texts), perhaps ``id`` and ``source``, and
any further fields, which ``breakdown`` may name and ``verify`` finds in ``problem.extra``. A data set of the hub has
other columns: ``convert`` turns its rows into such rows.
"""

from __future__ import annotations

from evals.benchmark import BOXED, Benchmark, Row, followed_by
from rollout.problems.config import HubSource


def convert(row: Row) -> Row:
    """Return the hub's columns under our names."""
    return {"id": f"template-{row['number']}", "problem": row["question"], "answer": row["gold"], "level": row["level"]}


BENCHMARK = Benchmark(
    name="template",  # the name of this file
    title="Template",
    published="Say here how published numbers were drawn and judged, and how the settings below relate to them.",
    file="template.jsonl",  # looked for in --data, $K15_DATA and ./data
    hub=HubSource(path="organisation/data-set", split="test"),
    convert=convert,
    ask=followed_by(BOXED),
    verifier="math",  # see rewards/verify.py; or give ``verify`` a function (problem, response) -> Score
    samples=4,
    temperature=0.6,
    top_p=0.95,
    max_tokens=32_768,
    breakdown=("level",),
)
