"""Evidence of a problem spread over windows, each a conversation of its own (``k15 eval --nbce``) [2403.17552]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from evals.prompting import Chat, Conversation
from rollout.models.prompts import render_chat
from rollout.models.templates import check_template
from rollout.types import Problem, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Sizes = Callable[[Sequence[str]], Sequence[int]]
"""Tokens of each text."""


class WindowError(ValueError):
    """Evidence that cannot be spread as asked; one line."""


def evenly(count: int, windows: int) -> list[range]:
    """Spread ``count`` examples over windows in order; sizes differ by at most one, the larger ones first."""
    least, more = divmod(count, windows)
    ends = list(accumulate(least + (k < more) for k in range(windows)))
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def by_size(sizes: Sequence[int], windows: int) -> list[range]:
    """Spread pieces over windows in order, about equally by size: each cut is the one nearest to its share of the
    whole that leaves no window empty. At least as many pieces as windows.
    """
    before = [0, *accumulate(sizes)]
    cuts = [0]
    for k in range(1, windows):
        share = before[-1] * k / windows
        possible = range(cuts[-1] + 1, len(sizes) - (windows - k) + 1)
        cuts.append(min(possible, key=lambda cut, share=share: (abs(before[cut] - share), cut)))  # type: ignore[misc]
    return [range(start, end) for start, end in zip(cuts, [*cuts[1:], len(sizes)], strict=True)]


@dataclass(frozen=True)
class Chats:
    """The conversations that put one problem."""

    question: Chat
    """Without evidence: row 0."""
    windows: tuple[Chat, ...]
    holder: int = 0
    """The window, counted from 1, that holds the answer; 0: not known."""


@dataclass(frozen=True)
class Spread:
    """How a benchmark's evidence is spread over so many windows: what a problem brings itself, else the solved
    examples.
    """

    conversation: Conversation
    windows: int
    sizes: Sizes

    @property
    def own(self) -> bool:
        """Whether the problems bring their evidence themselves; solved examples then stand in every window."""
        return self.conversation.benchmark.evidence is not None

    def parts(self, problem: Problem) -> list[range]:
        """Return which pieces of a problem's evidence each window holds. Raises ``WindowError`` for an empty one."""
        divide = self.conversation.benchmark.evidence
        pieces: Sequence[object] = self.conversation.shots if divide is None else divide(problem).pieces
        if len(pieces) < self.windows:
            what, more = ("solved examples", "more --shots") if divide is None else ("pieces of evidence", "more of it")
            of = "" if divide is None else f" of problem {problem.id!r}"
            raise WindowError(
                f"{self.conversation.benchmark.name}: {len(pieces)} {what}{of} leave some of {self.windows} windows "
                f"empty; --nbce {max(1, len(pieces))} or fewer, or {more}"
            )
        if divide is None:
            return evenly(len(pieces), self.windows)
        return by_size(self.sizes(divide(problem).pieces), self.windows)

    def chats(self, problem: Problem) -> Chats:
        """Return the conversations that put a problem. Raises ``WindowError``."""
        asked, parts = self.conversation, self.parts(problem)
        divide = asked.benchmark.evidence
        if divide is None:
            alone, *windows = (replace(asked, shots=asked.shots[p.start : p.stop]) for p in (range(0), *parts))
            return Chats(alone.messages(problem), tuple(window.messages(problem) for window in windows))
        divided = divide(problem)
        texts = [divided.text(divided.pieces[part.start : part.stop]) for part in (range(0), *parts)]
        question, *chats = (asked.put(problem, text) for text in texts)
        holder = next((k for k, part in enumerate(parts, 1) if divided.holder in part), 0)
        return Chats(question, tuple(chats), holder)


@dataclass(frozen=True)
class Windowed:
    """The prompts that put one problem."""

    question: Prompt
    windows: tuple[Prompt, ...]
    holder: int = 0
    """See ``Chats``."""

    @property
    def longest(self) -> int:
        """Number of the window with the most tokens, counted from 1."""
        return max(range(len(self.windows)), key=lambda k: len(self.windows[k])) + 1


@dataclass
class WindowRenderer:
    """Renders a problem's windows by a tokenizer's own template, which is checked first. Each problem once."""

    tokenizer: PreTrainedTokenizerBase
    spread: Spread
    _known: dict[str, Windowed] = field(default_factory=dict)

    def __call__(self, problem: Problem) -> Windowed:
        """Return the prompts of a problem. Raises ``PromptError``, ``WindowError``."""
        if problem.id not in self._known:
            chats, arguments = self.spread.chats(problem), self.spread.conversation.arguments
            if not self._known:
                check_template(self.tokenizer, chats.windows[0], arguments)
            question, *windows = (
                render_chat(self.tokenizer, chat, **arguments) for chat in (chats.question, *chats.windows)
            )
            self._known[problem.id] = Windowed(question, tuple(windows), chats.holder)
        return self._known[problem.id]

    def text(self, problem: Problem, window: int = 0) -> str:
        """Return the prompts as text, with special tokens shown, each under its number; or that of one window alone,
        counted from 1.
        """
        found = self(problem)
        if window:
            return self._decoded(found.windows[window - 1])
        names = ["question alone", *(f"window {k}" for k in range(1, len(found.windows) + 1))]
        prompts = zip(names, (found.question, *found.windows), strict=True)
        return "\n\n".join(f"[{name}]\n{self._decoded(prompt)}" for name, prompt in prompts)

    def _decoded(self, prompt: Prompt) -> str:
        return str(self.tokenizer.decode(prompt.token_ids.tolist(), skip_special_tokens=False))
