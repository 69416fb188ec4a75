"""From a problem to the conversation and its tokens, and the checks that a template is used as it must be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from evals.benchmark import Benchmark
from rollout.prompts import PromptError, render_chat
from rollout.types import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]
Thinking = Literal["default", "on", "off"]

_MARK = "k15marksthisanswer"
"""Stands for an assistant's turn when a template is looked at."""
_THOUGHT = re.compile(r"<think>.*?</think>|<think>", re.DOTALL)


@dataclass(frozen=True)
class Conversation:
    """How a benchmark's problems are put."""

    benchmark: Benchmark
    shots: tuple[tuple[str, str], ...] = ()
    """Solved examples before the problem, as turns: (user, assistant)."""
    thinking: Thinking = "default"
    """The template's switch ``enable_thinking``, where it has one."""

    def messages(self, problem: Problem) -> list[dict[str, str]]:
        """System message, solved examples, the problem."""
        chat = [{"role": "system", "content": self.benchmark.system}] if self.benchmark.system else []
        for user, assistant in self.shots:
            chat += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        return [*chat, {"role": "user", "content": self.benchmark.ask(problem)}]

    @property
    def arguments(self) -> dict[str, bool]:
        """Arguments of the chat template."""
        return {} if self.thinking == "default" else {"enable_thinking": self.thinking == "on"}


@dataclass
class Renderer:
    """Prompts by a tokenizer's own template; checked when it is first used. Prompts are rendered once."""

    tokenizer: PreTrainedTokenizerBase
    conversation: Conversation
    _known: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __call__(self, problem: Problem) -> tuple[int, ...]:
        """Prompt tokens of a problem. Raises ``PromptError`` when the template cannot be used."""
        if problem.id not in self._known:
            chat, arguments = self.conversation.messages(problem), self.conversation.arguments
            tokens = render_chat(self.tokenizer, chat, **arguments)
            if not self._known:
                check_template(self.tokenizer, chat, arguments)
                check_tokens(self.tokenizer, tokens)
            self._known[problem.id] = tokens
        return self._known[problem.id]

    def text(self, problem: Problem) -> str:
        """The prompt as text, special tokens shown."""
        return str(self.tokenizer.decode(list(self(problem)), skip_special_tokens=False))


def check_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> None:
    """Raises ``PromptError`` when a prompt begins with two BOS tokens: models are not trained on that."""
    bos = tokenizer.bos_token_id
    if bos is not None and list(tokens[:2]) == [bos, bos]:
        raise PromptError(
            f"tokenizer {tokenizer.name_or_path!r}: the prompt begins with two BOS tokens ({tokenizer.bos_token}): its "
            "chat template writes one and another is added; remove it from the chat template"
        )


def check_template(tokenizer: PreTrainedTokenizerBase, chat: Sequence[Message], arguments: Mapping[str, bool]) -> None:
    """Raises ``PromptError`` when the template has no generation prompt although assistants' turns have a head, drops
    the question, or has no thinking switch although one is asked for.
    """
    name = repr(tokenizer.name_or_path)

    def text(messages: Sequence[Message], generate: bool, **more: bool) -> str:
        rendered = tokenizer.apply_chat_template(
            [dict(m) for m in messages], add_generation_prompt=generate, tokenize=False, **more
        )
        return str(rendered)

    prompt = text(chat, True, **arguments)
    if chat[-1]["content"].strip() not in prompt:
        raise PromptError(f"tokenizer {name}: its chat template leaves out the user's message")
    if arguments and prompt == text(chat, True, **{key: not value for key, value in arguments.items()}):
        raise PromptError(f"tokenizer {name}: its chat template has no switch for thinking; leave out --thinking")
    if prompt != text(chat, False, **arguments):
        return
    answered = text([*chat, {"role": "assistant", "content": _MARK}], False, **arguments)
    head = _THOUGHT.sub("", answered.removeprefix(prompt).partition(_MARK)[0])
    if not answered.startswith(prompt) or head.strip():
        raise PromptError(
            f"tokenizer {name}: its chat template has no generation prompt: it begins an assistant's turn with "
            f"{head.strip()[:40]!r} but does not add that for add_generation_prompt, so the model would have to; "
            "mend the template"
        )


def longest(renderer: Renderer, problems: Sequence[Problem]) -> int:
    """Tokens of the longest prompt."""
    return max(len(renderer(problem)) for problem in problems)
