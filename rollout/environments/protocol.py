"""The protocol of environments, which answer when the policy has ended a turn.

    problem -> policy's turn -> environment: more to read -> policy's turn -> ... -> environment: the end

A problem of one turn is the trivial case: nobody answers, and the end token ends the response. What an environment
writes is read by the policy and never trained on: it has no log-probs and no loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rewards.score import Score
from rollout.types import Message, Problem


@dataclass(frozen=True)
class Conversation:
    """The conversation so far."""

    problem: Problem
    said: tuple[str, ...]
    """The policy's turns, the newest last, as graders read them: hostile input."""
    fed: tuple[str, ...] = ()
    """What the environment answered to each turn before the last, as the policy read it, with the template's marks."""
    last: bool = False
    """True when the policy gets no further turn, whatever the answer."""

    @property
    def text(self) -> str:
        """The policy's newest turn."""
        return self.said[-1]


@dataclass(frozen=True)
class Feed:
    """Messages for the policy to read before its next turn."""

    messages: tuple[Message, ...]
    """Written by the chat template, as tokens; marks of the template inside of their texts are defused."""

    @classmethod
    def text(cls, content: str, role: str = "user") -> Feed:
        """Return one message as a ``Feed``."""
        return cls((Message(role, content),))


@dataclass(frozen=True)
class End:
    """The end of the episode."""

    score: Score | None = None
    """The verdict; ``None``: the run's grader judges the policy's last turn."""


class Environment(Protocol):
    """Answers turns, many conversations at one time. A new process may ask again about a turn whose answer was lost."""

    async def step(self, conversation: Conversation) -> Feed | End:
        """Return the answer to the newest turn. What it raises makes the rollout ungradable and is counted: never
        reward 0.
        """

    def close(self) -> None:
        """Release its resources."""
