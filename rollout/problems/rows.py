"""From one row of a data set to a ``Problem``. Pure functions."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from typing import Any

from rewards.reference import Reference
from rewards.verify import question
from rollout.plain import lone_surrogate, one_line
from rollout.types import Message, Problem

_DIFFICULTY_FIELDS = ("difficulty", "level", "grade")
_RATING = re.compile(r"(?:level\s*)?(\d+(?:\.\d+)?)", re.IGNORECASE)
ROLES = ("system", "user", "assistant", "tool")
"""Who may speak in a conversation."""
_NAMED = {"easy": 1.0, "medium": 2.0, "hard": 3.0}


def difficulty_of(row: Mapping[str, Any]) -> float | None:
    """Return the row's ``difficulty``, ``level`` or ``grade`` as a number: ``3``, ``"Level 3"``, ``"hard"``."""
    for name in _DIFFICULTY_FIELDS:
        value = row.get(name)
        if isinstance(value, str):
            match = _RATING.fullmatch(value.strip())
            value = float(match.group(1)) if match else _NAMED.get(value.strip().lower())
        # Neither NaN, nor an infinity, nor a whole number beyond what a float holds.
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
            return float(value)
    return None


def pass_rate_of(row: Mapping[str, Any]) -> float | None:
    """Return the row's ``pass_rate``; ``None`` without one. Raises ``ValueError`` unless it is a number from 0 to 1."""
    value = row.get("pass_rate")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(
            f"pass_rate is {one_line(repr(value), 40)}, not a number from 0 to 1; mend it, or give the field another "
            "name"
        )
    return float(value)


def text_of(row: Mapping[str, Any], name: str) -> str:
    """Return a text field; numbers are written out. Raises ``ValueError`` when it is missing, empty or
    something else.
    """
    value = row.get(name)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}, no number")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if value is None or value == "":
        raise ValueError(f"no {name}")
    if not isinstance(value, str):
        raise ValueError(f"{name} is {type(value).__name__}, not text")
    if not value.strip():
        raise ValueError(f"{name} is blank")
    if found := lone_surrogate(value):
        raise ValueError(f'{name} has {found}: no tokenizer takes it; mend the row, or give it "defect": true')
    return value


def conversation_of(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return the row's ``messages``, whoever speaks last. Raises ``ValueError``."""
    given = row["messages"]
    if not isinstance(given, list) or not given or not all(isinstance(message, dict) for message in given):
        raise ValueError("messages is no list of objects with role and content")
    found = []
    for number, message in enumerate(given, 1):
        role, content = (_inner(message, name, number) for name in ("role", "content"))
        if role not in ROLES:
            raise ValueError(f"messages: the role of message {number} is {role!r}, not one of {', '.join(ROLES)}")
        found.append(Message(role, content))
    return tuple(found)


def _asked(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return the row's conversation, which ends with the question. Raises ``ValueError``."""
    found = conversation_of(row)
    if found[-1].role != "user":
        raise ValueError(f"messages: the last one must be the user's, the question; it is the {found[-1].role}'s")
    return found


def _inner(message: Mapping[str, Any], name: str, number: int) -> str:
    try:
        return text_of(message, name)
    except ValueError as error:
        raise ValueError(f"messages: message {number}: {error}") from error


def problem_of(row: Mapping[str, Any], verifier: str, default_id: str, default_source: str) -> Problem:
    """Return a problem from a row with ``problem``, ``answer``, perhaps ``id``, ``source``, ``difficulty``,
    ``pass_rate``; the rest is extra. Without a verifier the answer may be missing.

    Instead of the ``problem`` there may be ``messages``, a conversation that ends with the question. The question is
    put as it stands, or as the verifier makes it; ``extra`` then holds the original as ``statement``. Raises
    ``ValueError`` naming the field at fault, without the place: the caller knows it.
    """
    used = {"id", "problem", "messages", "answer", "source"}
    before = _asked(row) if "problem" not in row and "messages" in row else ()
    statement = before[-1].content if before else text_of(row, "problem")
    answer = text_of(row, "answer") if verifier or "answer" in row else ""
    extra = {key: value for key, value in row.items() if key not in used}
    prompt = question(verifier, Reference(answer, statement, extra))
    return Problem(
        id=text_of(row, "id") if row.get("id") not in (None, "") else default_id,
        messages=(*before[:-1], Message("user", prompt)),
        answer=answer,
        verifier=verifier,
        source=text_of(row, "source") if row.get("source") not in (None, "") else default_source,
        difficulty=difficulty_of(row),
        extra=extra if prompt == statement else {**extra, "statement": statement},
        pass_rate=pass_rate_of(row),
    )


def demonstration_of(row: Mapping[str, Any], name: str) -> tuple[Problem, str | tuple[Message, ...]]:
    """Return the problem of a row, called ``name``, and the response that is to be learnt.

    The row has a ``problem``, or ``messages`` that end with the question, and a ``response``; or ``messages`` alone, of
    which everything behind the user's last one is the response: the assistant's turns, and what tools answer between
    them. Raises ``ValueError`` naming the field at fault.
    """
    if "problem" in row or "messages" not in row:
        return Problem.ask(name, text_of(row, "problem")), text_of(row, "response")
    if "response" in row:
        return Problem(name, _asked(row)), text_of(row, "response")
    messages = conversation_of(row)
    asked = max((index for index, message in enumerate(messages, 1) if message.role == "user"), default=0)
    if not asked or messages[-1].role != "assistant":
        raise ValueError("messages: without a response they have to hold a user's message and end with the assistant's")
    return Problem(name, messages[:asked]), messages[asked:]
