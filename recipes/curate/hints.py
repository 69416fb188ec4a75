"""What to change in a command whose source has no problem that can be used. Pure functions of its first such row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STATEMENTS = ("question", "prompt", "query", "instruction", "input", "text")
"""What other data sets call a statement, the likeliest first."""
ANSWERS = ("final_answer", "expected_answer", "ground_truth", "gold", "target", "label", "solution", "output")
"""What they call an answer."""
RATIONALE = "####"
"""Ends the rationale in GSM8K's answers; the number follows."""


def hint(row: Mapping[str, Any]) -> str:
    """Return the options that would make a problem of a row, as far as its fields tell; empty: they do not."""
    columns: dict[str, str] = {}
    if "problem" not in row and "messages" not in row:
        asked = next((name for name in STATEMENTS if row.get(name)), None)
        if asked is not None:
            columns["problem" if isinstance(row[asked], str) else "messages"] = asked
    if "answer" not in row:
        answered = next((name for name in ANSWERS if isinstance(row.get(name), str | int | float)), None)
        columns |= {} if answered is None else {"answer": answered}
    options = (
        [f"--columns '{{{', '.join(f'{ours}: {theirs}' for ours, theirs in columns.items())}}}'"] if columns else []
    )
    if RATIONALE in str(row.get(columns.get("answer", "answer"), "")):
        options.append("--verifier gsm8k")
    return " ".join(options)
