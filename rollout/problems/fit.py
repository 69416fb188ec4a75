"""The limits of prompts and demonstrations: the context, with room for a response, and the embedding.

Checked by tokens, on every row, before anything is spent; problems of streams as they come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from rollout.models.templates import PromptError
from rollout.problems.source import ProblemSource, asked
from rollout.types import Problem, Prompt, Tokens

DROP = "set problems.overlong to drop"
Render = Callable[[Problem], Prompt]


@dataclass(frozen=True)
class Limits:
    """The limits of a model, in tokens."""

    context: int
    """``engine.max_model_len``: prompt and response together."""
    response: int
    """What a prompt must leave for its response (``rollout.min_response_tokens``)."""
    vocabulary: int
    """Rows of the embedding; token ids lie below."""
    model: str
    """The model's name, for messages."""

    @property
    def prompt(self) -> int:
        """Tokens of the longest prompt that fits."""
        return self.context - self.response

    @property
    def room(self) -> str:
        """``prompt`` in words: a clause for messages."""
        return (
            f"the context leaves room for {self.prompt} (engine.max_model_len {self.context} less "
            f"rollout.min_response_tokens {self.response})"
        )

    def check_vocabulary(self, tokens: Tokens, what: str) -> None:
        """Raises ``PromptError`` for a token that the model has no embedding for. ``what`` begins the message."""
        largest = int(np.max(tokens)) if len(tokens) else 0
        if largest >= self.vocabulary:
            raise PromptError(
                f"{what} has token {largest}, but {self.model} has an embedding of {self.vocabulary} rows: its "
                "tokenizer knows texts that the weights do not; use the tokenizer that belongs to the weights, or mark "
                'such rows with "defect": true'
            )


@dataclass
class Screen:
    """Decides which problems of a source fit. Others are refused or, if configured so, left out."""

    source: ProblemSource
    render: Render
    limits: Limits
    refuse: bool
    """True when an overlong prompt is an error."""
    left_out: frozenset[int] = frozenset()
    """Problems that are not wanted any more, whether they fit or not."""
    held_out: frozenset[str] = frozenset()
    """Texts that the run is judged on (``asked``): problems of a stream with one of them are left out as they come."""
    lengths: dict[int, int] = field(default_factory=dict)
    """Index -> prompt tokens of the overlong problems met so far."""
    _measured: set[int] = field(default_factory=set)

    def check(self, size: int) -> None:
        """Look at the first ``size`` problems. Raises ``PromptError`` for the first that cannot be used."""
        for index in range(size):
            self._measure(index)
        if self.refuse and self.lengths:
            raise PromptError(self._refusal(min(self.lengths)))

    def fits(self, index: int) -> bool:
        """Return whether problem ``index`` fits. Raises ``PromptError`` where overlong prompts are refused, or for a
        problem that cannot be asked at all.
        """
        self._measure(index)
        if self.refuse and index in self.lengths:
            raise PromptError(self._refusal(index))
        if index in self.lengths or index in self.left_out:
            return False
        return not self.held_out or asked(self.source[index]) not in self.held_out

    def note(self, what: str) -> str:
        """Return one line on what was left out; empty when all fit. ``what``: the kind of problems, for people."""
        if not self.lengths:
            return ""
        return (
            f"left out {len(self.lengths)} of {len(self._measured)} {what}: their prompts have up to "
            f"{max(self.lengths.values())} tokens, but {self.limits.room} (first: "
            f"{self.source.place(min(self.lengths))})"
        )

    def _measure(self, index: int) -> None:
        if index in self._measured or index in self.left_out:
            return
        problem, place = self.source[index], self.source.place(index)
        try:
            tokens = self.render(problem)
        except PromptError as error:
            raise PromptError(f"{place}: {error}") from error
        for row in (tokens, *tokens.windows):
            self.limits.check_vocabulary(row.token_ids, f"{place}: the prompt of problem {problem.id!r}")
        if tokens.longest > self.limits.prompt:
            self.lengths[index] = tokens.longest
        self._measured.add(index)

    def _refusal(self, index: int) -> str:
        others = len(self.lengths) - 1
        more = f"; so do {others} more with up to {max(self.lengths.values())}" if others else ""
        remedy = DROP if self.source.size is None else f"raise engine.max_model_len, mend the data, or {DROP}"
        return (
            f"{self.source.place(index)}: the prompt of problem {self.source[index].id!r} has {self.lengths[index]} "
            f"tokens{more}, but {self.limits.room}; {remedy}"
        )
