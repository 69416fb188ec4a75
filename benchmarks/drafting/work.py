"""What is drawn: conversations that ask for text of theirs again, and ones that do not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.engine import Request, Sampling
from rollout.models.prompts import render_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """A data set, what is asked about a row of it, and how that is answered."""

    data: str
    ask: Callable[[Row], str]
    answer: Callable[[Row], str]


def _function(row: Row) -> str:
    return f"```python\n{row['answer']}\n```"


_REPEAT = Task(
    "gsm8k_test", lambda row: f"Repeat this text word for word:\n\n{row['problem']}", lambda row: row["problem"]
)
_RESTATE = Task(
    "gsm8k_test",
    lambda row: f"Repeat the problem, then solve it.\n\n{row['problem']}",
    lambda row: f"Problem: {row['problem']}\n\nSolution: {row['rationale']}",
)
_COPY = Task("mbpp", lambda row: f"Copy this function exactly as it is:\n\n{_function(row)}", _function)
_SOLVE = Task(
    "gsm8k_test", lambda row: f"Solve this problem step by step.\n\n{row['problem']}", lambda row: row["rationale"]
)
TEXTS = {"quoting": (_REPEAT, _COPY, _RESTATE), "solving": (_SOLVE,)}
"""For each kind of text what is asked for, in turn. A small model needs an answered example to do what it is told."""


def _short(path: Path) -> list[Row]:
    """Return the rows of a data set that are worth quoting and leave room to."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    text = "answer" if path.stem == "mbpp" else "problem"
    return [row for row in found if 150 <= len(row[text]) <= 260]


def conversations(folder: Path, text: str, count: int) -> list[list[dict[str, str]]]:
    """Return ``count`` conversations of the kind ``text``: an answered example, and a question of its own each."""
    tasks = TEXTS[text]
    sets = {task.data: _short(folder / f"{task.data}.jsonl") for task in tasks}
    made = []
    for index in range(count):
        task, number = tasks[index % len(tasks)], index // len(tasks)
        example, row = sets[task.data][-1], sets[task.data][number + 20 * (index % len(tasks))]
        turns = (("user", task.ask(example)), ("assistant", task.answer(example)), ("user", task.ask(row)))
        made.append([{"role": role, "content": content} for role, content in turns])
    return made


def requests(
    tokenizer: PreTrainedTokenizerBase, folder: Path, text: str, count: int, tokens: int, temperature: float
) -> list[Request]:
    """Return ``count`` requests of the kind ``text``, of at most ``tokens`` tokens, each with a seed of its own."""
    sampling = Sampling(temperature=temperature, stop_token_ids=(tokenizer.eos_token_id,))
    return [
        Request(f"r{index}", render_chat(tokenizer, chat), tokens, sampling, 1000 + index)
        for index, chat in enumerate(conversations(folder, text, count))
    ]
