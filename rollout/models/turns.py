"""From messages between two turns of an assistant to the tokens that a model reads there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rollout.models.templates import MARK, QUESTION, Chat, PromptError, text_of, turn_end
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
        self._spoken: set[str] = set()
        """Roles that the template is known to write."""
        added = [token.content for token in tokenizer.added_tokens_decoder.values()]
        special = (text for text in added if text.strip())  # some tokenizers add indentations, which begin no turn
        self._special = sorted(special, key=len, reverse=True)

    @cached_property
    def _longest(self) -> int:
        """Characters of the longest token."""
        return max(map(len, self.tokenizer.get_vocab()))

    def text(self, messages: Sequence[Message]) -> str:
        """Return what stands between the end token of the assistant's turn and its next turn.

        Raises ``PromptError`` when the template refuses the messages.
        """
        for message in messages:
            self.check(message.role)
        return self._behind([{"role": message.role, "content": self.defused(message.content)} for message in messages])

    def check(self, role: str) -> None:
        """Raises ``PromptError`` when the template refuses messages of ``role``, or leaves out what they say."""
        if role in self._spoken:
            return
        other = (
            f"choose another role than {role!r} for the environment's messages (of the Python tool: environment.role)"
        )
        try:
            said = self._behind([{"role": role, "content": QUESTION}])
        except PromptError as error:
            raise PromptError(f"{error}; {other}") from error
        if QUESTION not in said:
            name = self.tokenizer.name_or_path
            raise PromptError(
                f"tokenizer {name!r}: its chat template leaves out messages of the role {role!r}; {other}"
            )
        self._spoken.add(role)

    def _behind(self, messages: Chat) -> str:
        """Return what the template writes behind an answer's end token."""
        chat = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": MARK}, *messages]
        after = text_of(self.tokenizer, chat, True, **self.arguments).partition(MARK)[2]
        return after.removeprefix(self._end)

    def tokens(self, messages: Sequence[Message]) -> TokenIds:
        """Return ``text`` as tokens."""
        found = self.tokenizer(self.text(messages), add_special_tokens=False, verbose=False)["input_ids"]
        return np.array(found, np.int32)

    def fitting(self, messages: Sequence[Message], most: int) -> TokenIds:
        """Return ``tokens``, with the texts clipped until they are at most ``most``.

        Raises ``PromptError`` when the template alone writes more, or nothing at all.
        """
        chars = most * self._longest
        messages = [Message(one.role, one.content[:chars]) for one in messages]  # more is too long, and slow to encode
        while len(found := self.tokens(messages)) > most and any(message.content for message in messages):
            kept = max(0.0, most / len(found) - 0.02)
            messages = [Message(one.role, one.content[: int(kept * len(one.content))]) for one in messages]
        if not 0 < len(found) <= most:
            raise PromptError(
                f"the chat template takes {len(found)} tokens for {len(messages)} messages without their texts, and "
                f"environment.feed_tokens allows 1 to {most}"
            )
        return found

    def defused(self, text: str) -> str:
        """Return ``text`` without special tokens: a program's output must not begin a turn."""
        for special in self._special:
            text = text.replace(special, special[0] + " " + special[1:]) if len(special) > 1 else text
        return text
