"""From a problem to the conversation that asks it. Imports no torch, and no numpy: configurations hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rollout.types import Problem


RESERVED = frozenset(
    {
        *("messages", "conversation", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize"),
        *("padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
        "tokenizer_kwargs",
    }
)
"""Names that no argument of a chat template can have: they are ours to set."""


@dataclass(frozen=True)
class Framing:
    """How a run, or a benchmark, asks its problems."""

    system: str = ""
    """System message, where the problem has none of its own; empty: none."""
    shots: tuple[tuple[str, str], ...] = ()
    """Solved examples before the problem, as turns: (user, assistant)."""
    instruction: str = ""
    """Text behind every question, e.g. where to put the answer."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """The chat template's own arguments, e.g. ``enable_thinking`` or ``tools``."""

    def question(self, problem: Problem) -> str:
        """Return the user's last turn."""
        return f"{problem.prompt}\n\n{self.instruction}" if self.instruction else problem.prompt

    def messages(self, problem: Problem, question: str | None = None) -> list[dict[str, str]]:
        """Return the conversation that asks the problem: system message, solved examples, its own messages.

        ``question`` stands in the place of the last one's text.
        """
        own = [{"role": message.role, "content": message.content} for message in problem.messages]
        own[-1]["content"] = self.question(problem) if question is None else question
        head = own[:1] if own[0]["role"] == "system" else []
        if not head and self.system:
            head = [{"role": "system", "content": self.system}]
        for user, assistant in self.shots:
            head += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        return head + own[own[0]["role"] == "system" :]
