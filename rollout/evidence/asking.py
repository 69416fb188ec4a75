"""From texts of evidence to the questions that are asked with them. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rollout.evidence.windows import EvidenceError
from rollout.types import Problem, Prompt

FIELD = "evidence"
"""The field of a problem's row that holds its texts: a list, or an object by name."""


def named_texts(given: object) -> dict[str, str]:
    """Return the texts of a field ``evidence`` by name; those of a list are named by their numbers.

    Raises ``EvidenceError`` for what is neither a list of texts nor an object of texts by name.
    """
    found = {f"evidence {number}": text for number, text in enumerate(given, 1)} if isinstance(given, list) else given
    if not isinstance(found, Mapping) or not all(isinstance(text, str) for text in found.values()):
        raise EvidenceError(
            f"its field {FIELD!r} is neither a list of texts nor an object of texts by name: "
            '["...", "..."] or {"log": "..."}'
        )
    return dict(found)


def texts_of(problem: Problem) -> tuple[str, ...]:
    """Return the texts that a problem brings itself; none: it has no such field.

    Raises ``EvidenceError`` for a field that holds no texts, or an empty one.
    """
    if FIELD not in problem.extra:
        return ()
    try:
        found = named_texts(problem.extra[FIELD])
    except EvidenceError as error:
        raise EvidenceError(f"problem {problem.id!r}: {error}") from error
    if not found:
        raise EvidenceError(f"problem {problem.id!r}: its field {FIELD!r} is empty; leave it out")
    if empty := [name for name, text in found.items() if not text.strip()]:
        raise EvidenceError(f"problem {problem.id!r}: in its field {FIELD!r}, {empty[0]!r} is empty")
    return tuple(found.values())


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
