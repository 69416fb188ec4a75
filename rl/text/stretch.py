"""Parts of documents, so that no document has to be in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rollout.types import Message

STRETCH = 1 << 16
"""Characters of the longest stretch."""


class TextError(ValueError):
    """Text that cannot be used; one line: where, what, what to do."""


@dataclass(frozen=True)
class Stretch:
    """A document, or a part of one."""

    text: str
    ends: bool
    """Whether the document ends with it."""
    asked: tuple[Message, ...] = ()
    """Of a conversation, the messages that are answered; ``text`` is then what all turns of the answer say."""
    turns: tuple[Message, ...] = ()
    """Of a conversation, the answer: the assistant's turns, and what it reads in between."""

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the text and of what was asked."""
        return len(self.text.encode()) + sum(len(message.content.encode()) for message in self.asked)


def conversation(asked: Sequence[Message], answer: str | Sequence[Message]) -> Stretch:
    """Return a document that is a problem and its demonstration."""
    turns = (Message("assistant", answer),) if isinstance(answer, str) else tuple(answer)
    return Stretch("".join(message.content for message in turns), True, tuple(asked), turns)


def stretches(parts: Iterable[str]) -> Iterator[Stretch]:
    """Yield a document that comes in ``parts``, of any size each, as its stretches: cut at white space where there is
    any. One without a character is one stretch without text.
    """
    rest = ""
    for piece in (part[start : start + STRETCH] for part in parts for start in range(0, len(part), STRETCH)):
        rest += piece
        while len(rest) > STRETCH:
            cut = _cut(rest[:STRETCH])
            yield Stretch(rest[:cut], False)
            rest = rest[cut:]
    yield Stretch(rest, True)


def _cut(text: str) -> int:
    """Return where a text may be cut: behind its last white space, or at its end where its second half has none."""
    word = 0 if text[-1].isspace() else len(text.rsplit(None, 1)[-1])
    return len(text) - word if word < len(text) // 2 else len(text)
