"""Responses with verdicts: what reward models are trained on, and compared with."""

from __future__ import annotations

from dataclasses import dataclass

RIGHT, WRONG = "right", "wrong"


@dataclass(frozen=True)
class Labelled:
    """One response to a question, and what is known of it."""

    id: str
    """Unique in its file."""
    question: str
    """The problem's text."""
    reference: str
    """Reference answer; may be empty."""
    response: str
    """What was answered, as graders see it (``rollout.models.prompts.Transcript.graded``): hostile text."""
    label: str
    """``right``, ``wrong``, another outcome (``rewards.models.outcomes``), or a class of one's own; empty: unknown."""
    place: str = ""
    """File and line, for messages."""
