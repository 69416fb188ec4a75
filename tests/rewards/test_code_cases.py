"""Programs after public reports of faults in other judges: each has the verdict that it deserves.

``data/code_cases.programs.jsonl``: ``id`` of a problem of ``data/code_cases.problems.jsonl``, ``code`` or ``response``,
and the ``expected`` verdict (or ``not AC``, for attacks: anything but accepted and ungradable).
"""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pytest
from paths import DATA

from recipes.commands.judge import Line, one
from rewards.code.languages import LANGUAGES
from rewards.code.problem import problem_of_row
from rewards.code.rules import DEFAULT
from rewards.code.sandbox import shared_sandbox
from rewards.code.verdict import Judgement, Verdict


def rows(name: str) -> list[dict[str, Any]]:
    text = (DATA / f"code_cases.{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


CASES = {row["case"]: row for row in rows("programs") if shutil.which(LANGUAGES[row["language"]].needs)}


@cache
def verdicts() -> dict[str, Judgement | None]:
    """All cases, as ``k15 judge`` judges them, side by side: several sleep for their whole limit."""
    problems = {row["id"]: problem_of_row(row) for row in rows("problems")}
    box = shared_sandbox()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        found = threads.map(lambda row: one(Line(0, row), problems, box, DEFAULT), CASES.values())
        return dict(zip(CASES, found, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_verdict(case: str) -> None:
    result, expected = verdicts()[case], CASES[case]["expected"]
    assert result is not None
    if expected == "not AC":
        assert result.verdict not in (Verdict.AC, Verdict.SE), result.reason
    else:
        assert result.verdict == expected, result.reason
