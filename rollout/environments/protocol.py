"""The protocol of environments, which answer when the policy has ended a turn.

    problem -> policy's turn -> environment: more to read -> policy's turn -> ... -> environment: the end

A problem of one turn is the trivial case: nobody answers, and the end token ends the response. What an environment
writes is read by the policy and never trained on: it has no log-probs and no loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rewards.score import Score
from rollout.plain import lone_surrogate
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
    """At least one. Written by the chat template, as tokens; marks of the template inside of their texts are
    defused."""

    def __post_init__(self) -> None:
        if not isinstance(self.messages, tuple | list) or not self.messages:
            raise ValueError(f"Feed takes messages, got {self.messages!r:.80}; Feed.text('...') is one, End() the end")
        for message in self.messages:
            if not isinstance(message, Message):
                raise ValueError(f"Feed takes messages, got {type(message).__name__}; Feed.text('...') is one")
            for name, value in (("role", message.role), ("content", message.content)):
                if not isinstance(value, str):
                    raise ValueError(f"Feed: the {name} of a message is {type(value).__name__}, not text")
                if found := lone_surrogate(value):
                    raise ValueError(f"Feed: the {name} of a message has {found}, which no tokenizer takes")

    @classmethod
    def text(cls, content: str, role: str = "user") -> Feed:
        """Return one message as a ``Feed``."""
        return cls((Message(role, content),))


@dataclass(frozen=True)
class End:
    """The end of the episode."""

    score: Score | None = None
    """The verdict; ``None``: the run's grader judges the policy's last turn."""

    def __post_init__(self) -> None:
        if self.score is not None and not isinstance(self.score, Score):
            raise ValueError(f"End takes a Score or nothing, got {self.score!r:.80}; Score.right() is one")


class Environment(Protocol):
    """Answers turns, many conversations at one time. A new process may ask again about a turn whose answer was lost."""

    async def step(self, conversation: Conversation) -> Feed | End:
        """Return the answer to the newest turn. What it raises makes the rollout ungradable and is counted: never
        reward 0.
        """

    def close(self) -> None:
        """Release its resources."""
