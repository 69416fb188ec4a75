"""Properties of a chat template: the start of an answer, the token that ends it, and whether it can be used."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Chat = Sequence[Mapping[str, str]]
"""A conversation as chat templates take it: messages with ``role`` and ``content``."""

QUESTION = "k15marksthisquestion"
MARK = "k15marksthisanswer"
"""Texts in place of a user's and an assistant's turn when a template is examined."""
_THOUGHT = re.compile(r"<think>.*?</think>|<think>", re.DOTALL)


class PromptError(ValueError):
    """A problem or a conversation cannot be asked of a model; one line: which model or row, what, what to do."""


def apply(tokenizer: PreTrainedTokenizerBase, chats: Any, **options: Any) -> Any:
    """Call ``tokenizer.apply_chat_template``; its errors become a ``PromptError`` that names the tokenizer."""
    from jinja2 import TemplateError

    name = repr(tokenizer.name_or_path)
    if not tokenizer.chat_template:
        raise PromptError(
            f"tokenizer {name} has no chat template; set tokenizer.chat_template and save it, or use an instruct model"
        )
    try:
        return tokenizer.apply_chat_template(chats, **options)
    except TemplateError as error:
        raise PromptError(f"tokenizer {name}: its chat template refuses the conversation: {error}") from error


def text_of(tokenizer: PreTrainedTokenizerBase, chat: Chat, generate: bool, **arguments: Any) -> str:
    """Return the conversation as the template writes it; ``generate``: with its generation prompt."""
    plain = [dict(message) for message in chat]
    return str(apply(tokenizer, plain, add_generation_prompt=generate, tokenize=False, **arguments))


def generation_prompt(tokenizer: PreTrainedTokenizerBase, system: str = "", **arguments: Any) -> str:
    """Return what the template writes in front of an answer, e.g. ``<|im_start|>assistant`` and perhaps ``<think>``;
    may be empty.
    """
    chat = [{"role": "user", "content": QUESTION}]
    chat = [{"role": "system", "content": system}, *chat] if system else chat
    with_it, without = (text_of(tokenizer, chat, generate, **arguments) for generate in (True, False))
    shared = next((i for i, (a, b) in enumerate(zip(with_it, without, strict=False)) if a != b), len(without))
    return with_it[shared:]


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token with which the template ends an assistant's turn; ``None`` where no token of its own does.

    Only added tokens count: a template that ends turns with a line break does not make line breaks an end.
    """
    if not tokenizer.chat_template:
        return None
    chat = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": MARK}]
    after = text_of(tokenizer, chat, False).rpartition(MARK)[2].lstrip()
    tokens = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    return int(tokens[0]) if tokens and tokens[0] in tokenizer.added_tokens_decoder else None


def check_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> None:
    """Raises ``PromptError`` when a prompt begins with two BOS tokens: models are not trained on that."""
    bos = tokenizer.bos_token_id
    if bos is not None and list(tokens[:2]) == [bos, bos]:
        raise PromptError(
            f"tokenizer {tokenizer.name_or_path!r}: the prompt begins with two BOS tokens ({tokenizer.bos_token}): its "
            "chat template writes one and another is added; remove it from the chat template"
        )


def check_question(tokenizer: PreTrainedTokenizerBase, chat: Chat, arguments: Mapping[str, Any]) -> None:
    """Raises ``PromptError`` when the template drops the last message, the question."""
    if chat[-1]["content"].strip() not in text_of(tokenizer, chat, True, **arguments):
        raise PromptError(f"tokenizer {tokenizer.name_or_path!r}: its chat template leaves out the user's message")


def heeds(tokenizer: PreTrainedTokenizerBase, chat: Chat, arguments: Mapping[str, Any], key: str) -> bool:
    """Return whether the template makes anything of the argument ``key``, one of ``arguments``: whether another value
    would give another prompt.
    """
    value = arguments[key]
    other = {**arguments, key: not value if isinstance(value, bool) else None}
    return text_of(tokenizer, chat, True, **arguments) != text_of(tokenizer, chat, True, **other)


def check_template(tokenizer: PreTrainedTokenizerBase, chat: Chat, arguments: Mapping[str, Any]) -> None:
    """Raises ``PromptError`` when the template has no generation prompt although assistants' turns have a head, or no
    thinking switch although one is asked for. ``chat`` may be any conversation that it is used for.
    """
    name = repr(tokenizer.name_or_path)
    prompt = text_of(tokenizer, chat, True, **arguments)
    for key in arguments:
        if not heeds(tokenizer, chat, arguments, key):
            what = "has no switch for thinking" if key == "enable_thinking" else f"makes nothing of {key!r}"
            raise PromptError(f"tokenizer {name}: its chat template {what}; leave it out")
    if prompt != text_of(tokenizer, chat, False, **arguments):
        return
    answered = text_of(tokenizer, [*chat, {"role": "assistant", "content": MARK}], False, **arguments)
    head = _THOUGHT.sub("", answered.removeprefix(prompt).partition(MARK)[0])
    if not answered.startswith(prompt) or head.strip():
        raise PromptError(
            f"tokenizer {name}: its chat template has no generation prompt: it begins an assistant's turn with "
            f"{head.strip()[:40]!r} but does not add that for add_generation_prompt, so the model would have to; "
            "mend the template"
        )
