"""Outcomes of responses to arithmetic, as a person would label them: right, slip, setup, format."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rollout.files import replace_file
from rollout.problems.arithmetic import parse
from rollout.reward_models.labelled import RIGHT, Labelled, read_labelled
from rollout.strict_json import dumps

EACH = 30
"""Labelled responses of each outcome."""
_STEP = re.compile(r"\n(?:wait, |or )?[a-z] ([+-])([0-9*]+)")
_ANSWER = re.compile(r"</think>\s*Answer: -?[0-9]+\s*")


def outcome(row: Labelled) -> str:
    """Return what became of a response: ``setup`` when its steps are not those of the question, ``slip`` when they are
    and something in them is wrong, and when it only states a number.
    """
    if row.label == RIGHT:
        return RIGHT
    if not _ANSWER.search(row.response):
        return "format"
    steps = _STEP.findall(row.response)
    return "slip" if not steps or steps == parse(row.question)[1:] else "setup"


def few_and_many(data: Path, folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Write two files of a run's responses into ``folder``: ``EACH`` of each outcome with their labels, of those
    outcomes that have twice as many, and the responses to all other questions without labels.
    """
    rows = [*read_labelled(data)]
    random.Random(seed).shuffle(rows)
    by_outcome: dict[str, list[Labelled]] = {}
    for row in rows:
        by_outcome.setdefault(outcome(row), []).append(row)
    chosen = {name: own[:EACH] for name, own in by_outcome.items() if len(own) >= 2 * EACH}
    asked = {row.question for own in chosen.values() for row in own}
    few = [_line(row, name) for name, own in sorted(chosen.items()) for row in own]
    many = [_line(row) for row in rows if row.question not in asked]
    return _written(folder / "few.jsonl", few), _written(folder / "many.jsonl", many)


def _line(row: Labelled, label: str = "") -> dict[str, Any]:
    own = {"question": row.question, "reference": row.reference, "response": row.response}
    return own | ({"label": label} if label else {})


def _written(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    replace_file(file, "".join(dumps(row) + "\n" for row in rows).encode())
    return file
