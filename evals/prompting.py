"""From a benchmark's problem to the conversation and its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from evals.benchmark import Benchmark
from rollout.evidence.asking import windowed
from rollout.models.framing import Framing
from rollout.models.prompts import render_chat
from rollout.models.templates import check_template
from rollout.types import Message, Problem, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Thinking = Literal["default", "on", "off"]
Chat = list[dict[str, str]]
"""A conversation as chat templates take it."""


@dataclass(frozen=True)
class Conversation:
    """How a benchmark's problems are asked: system message, examples, arguments of the template."""

    benchmark: Benchmark
    shots: tuple[tuple[str, str], ...] = ()
    """Solved examples before the problem, as turns: (user, assistant)."""
    thinking: Thinking = "default"
    """Value of the template's switch ``enable_thinking``, if it has one."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the chat template."""

    def messages(self, problem: Problem) -> Chat:
        """Return the conversation: system message, solved examples, the problem with all of its evidence."""
        if self.benchmark.evidence is None:
            return self.put(problem, problem.prompt)
        divided = self.benchmark.evidence(problem)
        return self.put(problem, divided.text(divided.pieces))

    def put(self, problem: Problem, text: str) -> Chat:
        """Return the conversation with ``text`` in the place of the problem's own."""
        if text != problem.prompt:
            last = Message("user", text)
            problem = replace(problem, messages=(*problem.messages[:-1], last))
        return Framing(self.benchmark.system, self.shots).messages(problem, self.benchmark.ask(problem))

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the chat template."""
        return {**self.template, **({} if self.thinking == "default" else {"enable_thinking": self.thinking == "on"})}


@dataclass
class Renderer:
    """Renders prompts by a tokenizer's own template, which is checked first. Each prompt is rendered once."""

    tokenizer: PreTrainedTokenizerBase
    conversation: Conversation
    windows: bool = False
    """Whether a problem's own evidence is read in windows, a text in each, as in a run with ``rollout.evidence``."""
    _known: dict[str, Prompt] = field(default_factory=dict)

    def __call__(self, problem: Problem) -> Prompt:
        """Return the prompt of a problem. Raises ``PromptError`` when the template cannot be used."""
        if problem.id not in self._known:
            if not self._known:
                check_template(self.tokenizer, self.conversation.messages(problem), self.conversation.arguments)
            self._known[problem.id] = windowed(problem, self._plain) if self.windows else self._plain(problem)
        return self._known[problem.id]

    def _plain(self, problem: Problem) -> Prompt:
        return render_chat(self.tokenizer, self.conversation.messages(problem), **self.conversation.arguments)

    def text(self, problem: Problem) -> str:
        """Return the prompt as text, with special tokens shown."""
        return str(self.tokenizer.decode(self(problem).token_ids.tolist(), skip_special_tokens=False))
