"""From texts of evidence to the questions that are asked with them. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rollout.evidence.windows import EvidenceError
from rollout.types import Problem, Prompt

FIELD = "evidence"
"""The field of a problem's row that holds its texts."""


def texts_of(problem: Problem) -> tuple[str, ...]:
    """Return the texts that a problem brings itself; none: it has no such field.

    Raises ``EvidenceError`` for a field that is no list of texts, or has an empty one.
    """
    found = problem.extra.get(FIELD)
    if found is None:
        return ()
    if not isinstance(found, list) or not found or not all(isinstance(text, str) for text in found):
        raise EvidenceError(f"problem {problem.id!r}: its field {FIELD} is not a list of texts")
    if empty := [number for number, text in enumerate(found, 1) if not text.strip()]:
        raise EvidenceError(f"problem {problem.id!r}: text {empty[0]} of its {FIELD} is empty")
    return tuple(found)


def before(question: str, pieces: Sequence[str]) -> str:
    """Return a question with pieces of evidence before it, each on lines of its own."""
    return "\n\n".join(["\n".join(pieces), question] if pieces else [question])


def asked_with(problem: Problem, text: str) -> Problem:
    """Return the problem with a text of evidence before its question."""
    last = problem.messages[-1]
    return replace(problem, messages=(*problem.messages[:-1], replace(last, content=before(last.content, [text]))))


def windowed(problem: Problem, render: Callable[[Problem], Prompt]) -> Prompt:
    """Return the prompt of a problem with a window for each text of evidence that it brings itself.

    ``render``: the prompt of a problem as it stands. Raises ``EvidenceError``, see ``texts_of``.
    """
    windows = tuple(render(asked_with(problem, text)) for text in texts_of(problem))
    return replace(render(problem), windows=windows)
