"""From messages between two turns of an assistant to the tokens that a model reads there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rollout.models.templates import MARK, QUESTION, text_of, turn_end
from rollout.types import Message, TokenIds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Feeder:
    """Writes messages as the chat template does behind an assistant's turn, generation prompt included."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any] | None = None) -> None:
        self.tokenizer = tokenizer
        self.arguments = dict(arguments or {})
        end = turn_end(tokenizer)
        self._end = "" if end is None else str(tokenizer.decode([end], skip_special_tokens=False))
        special = (token.content for token in tokenizer.added_tokens_decoder.values())
        self._special = sorted(special, key=len, reverse=True)

    def text(self, messages: Sequence[Message]) -> str:
        """Return what stands between the end token of the assistant's turn and its next turn.

        Raises ``PromptError`` when the template refuses the messages.
        """
        chat = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": MARK}]
        chat += [{"role": message.role, "content": self.defused(message.content)} for message in messages]
        after = text_of(self.tokenizer, chat, True, **self.arguments).rpartition(MARK)[2]
        return after.removeprefix(self._end)

    def tokens(self, messages: Sequence[Message]) -> TokenIds:
        """Return ``text`` as tokens."""
        found = self.tokenizer(self.text(messages), add_special_tokens=False)["input_ids"]
        return np.array(found, np.int32)

    def fitting(self, messages: Sequence[Message], most: int) -> TokenIds:
        """Return ``tokens``, with the texts clipped until they are at most ``most``; raises ``PromptError`` if none
        fits.
        """
        while len(found := self.tokens(messages)) > most and any(message.content for message in messages):
            kept = max(0.0, most / len(found) - 0.02)
            messages = [Message(one.role, one.content[: int(kept * len(one.content))]) for one in messages]
        return found

    def defused(self, text: str) -> str:
        """Return ``text`` without special tokens: a program's output must not begin a turn."""
        for special in self._special:
            text = text.replace(special, special[0] + " " + special[1:]) if len(special) > 1 else text
        return text
