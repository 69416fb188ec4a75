"""From a problem to its prompt, and from a prompt's and a response's tokens to the text that is graded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rewards.response import is_opening_tag, unended_thinking
from rollout.models.templates import Chat, PromptError, apply, check_question, check_tokens, generation_prompt
from rollout.plain import lone_surrogate
from rollout.types import Prompt, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PromptError", "Transcript", "render_chat"]


def render_chat(tokenizer: PreTrainedTokenizerBase, chat: Chat, **arguments: Any) -> Prompt:
    """Return the prompt: the model's own chat template with its generation prompt; never a doubled BOS.

    ``arguments`` are the template's own, e.g. ``enable_thinking``. Raises ``PromptError`` when the tokenizer has no
    chat template, its template refuses the conversation, or a message cannot be encoded.
    """
    for message in chat:
        if found := lone_surrogate(message["content"]):
            raise PromptError(f"the {message['role']}'s message has {found}, which no tokenizer takes")
    check_question(tokenizer, chat, arguments)
    plain = [dict(message) for message in chat]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    quiet = {"verbose": False}  # whoever limits the length says so
    encoded = apply(tokenizer, plain, **options, tokenizer_kwargs=quiet, **arguments)
    check_tokens(tokenizer, encoded["input_ids"])
    return Prompt(encoded["input_ids"])


@dataclass(frozen=True)
class Transcript:
    """Decodes prompts and responses.

    ``graded`` is the only way from tokens to a text that a verifier gets: in training, in evaluation and in whatever
    they store, so that the same tokens get the same verdict everywhere (invariant 10).
    """

    tokenizer: PreTrainedTokenizerBase
    end: tuple[int, ...]
    """Tokens that end a response (``rollout.models.endings.end_tokens``)."""
    system: str = ""
    """System message of the prompts; templates may look at it."""
    arguments: Mapping[str, Any] | None = None
    """The template's own arguments in the prompts, e.g. ``enable_thinking``."""

    @cached_property
    def _head(self) -> str:
        return generation_prompt(self.tokenizer, self.system, **(self.arguments or {}))

    @cached_property
    def _tail(self) -> int:
        """Tokens at the end of a prompt that hold the generation prompt, or a tag; a token is at least a byte."""
        return 64 + len(self._head.encode())

    def opening(self, prompt: Tokens) -> str:
        """Return the thinking that the prompt begins on the model's behalf, from its tag on; empty when it begins none.

        Only what the template writes in front of the answer counts, not a tag in somebody's question; of a prompt that
        ends otherwise (a text to be continued), a tag at its very end.
        """
        text = self._text(prompt[-self._tail :])
        if self._head.strip() and text.endswith(self._head):
            return unended_thinking(self._head)
        opened = unended_thinking(text)
        while opened and not is_opening_tag(opened):
            opened = unended_thinking(opened[1:])
        return opened

    def begun(self) -> str:
        """Return the thinking that the template begins in front of every answer; empty when it begins none."""
        return unended_thinking(self._head) if self._head.strip() else ""

    def decode(self, response: Tokens) -> str:
        """Return what the model said, without the end token. Other special tokens stay visible: a policy must not be
        able to hide text from the grader or to glue it together.
        """
        return self._text(response[:-1] if len(response) and int(response[-1]) in self.end else response)

    def graded(self, prompt: Tokens, response: Tokens) -> str:
        """Return the text of a response as verifiers get it: with the thinking's tag where the prompt ends in an opened
        one.

        Then a response without the closing tag has no answer, wherever the opening tag was written.
        """
        return self.opening(prompt) + self.decode(response)

    def _text(self, tokens: Tokens) -> str:
        text = self.tokenizer.decode(
            np.asarray(tokens).tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(text)
