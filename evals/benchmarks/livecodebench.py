"""LiveCodeBench, code generation: contest problems by date, so that a window after a model's training can be chosen."""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from typing import Any, NoReturn

from evals.benchmark import Benchmark, Row
from rollout.problems.config import HubSource

_RELEASES = (("2024-04", "v1"), ("2024-06", "v2"), ("2024-08", "v3"), ("2024-10", "v4"), ("2025-02", "v5"))
"""First month that is no longer in a release."""


class _TextOnly(pickle.Unpickler):
    """Private tests are a pickled string; nothing else is unpickled, so no code of the data set runs."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"private tests ask for {module}.{name}; they should be text")


def private_tests(packed: str) -> list[dict[str, Any]]:
    """Return the hidden tests of a row of the hub's data set: JSON, or JSON pickled, deflated and in base64."""
    if packed.lstrip().startswith("["):
        found: list[dict[str, Any]] = json.loads(packed)
        return found
    text = _TextOnly(io.BytesIO(zlib.decompress(base64.b64decode(packed)))).load()
    hidden: list[dict[str, Any]] = json.loads(text)
    return hidden


def convert(row: Row) -> Row:
    """Convert a row of livecodebench/code_generation_lite."""
    public, private = json.loads(row["public_test_cases"]), private_tests(row["private_test_cases"])
    name = json.loads(row["metadata"] or "{}").get("func_name")
    tests = [
        {"input": test["input"], "output": test["output"], "public": shown}
        for group, shown in ((public, True), (private, False))
        for test in group
    ]
    date = str(row["contest_date"])
    return {
        "id": f"lcb-{row['question_id']}",
        "problem": row["question_content"],
        "answer": "<graded by tests>",
        "platform": str(row["platform"]),
        "date": date,
        "release": next((release for before, release in _RELEASES if date < before), "v6"),
        "difficulty": str(row["difficulty"]),
        "testtype": "functional" if name else "stdin",
        "starter_code": row["starter_code"],
        "fn_name": name,
        "tests": tests,
    }


BENCHMARK = Benchmark(
    name="livecodebench",
    title="LiveCodeBench",
    published=(
        "Leaderboard: 10 samples, temperature 0.2, top-p 0.95, pass@1 over a window of dates. k1.5: short model v4 "
        "from 2024-08 to 2024-11 (47.3), long model v5 from 2024-12 to 2025-02 (62.5) [2501.12599 §3.1]: "
        "--from 2024-12 --until 2025-02. The local file has public tests only: passing them proves little."
    ),
    file="livecodebench_v5_v6.jsonl",
    hub=HubSource(path="hf://datasets/livecodebench/code_generation_lite/test*.jsonl", split="train"),
    convert=convert,
    verifier="code",
    same=None,
    samples=10,
    temperature=0.2,
    top_p=0.95,
    breakdown=("difficulty", "platform", "testtype", "release"),
    dated="date",
)
