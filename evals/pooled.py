"""Responses from the pool that training uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from evals.evaluate import Ask, Done, Response, Spoke
from rollout.constraints import Constraint
from rollout.engine import Request, Sampling
from rollout.environments.episodes import Episodes
from rollout.evidence.config import MergingConfig
from rollout.evidence.windows import Evidence
from rollout.pool.board import Completion, Turns
from rollout.types import Pointers, Problem, Prompt, Rollout, StopReason, TokenIds, joined


class Generator(Protocol):
    """The part of the pool that evaluation uses."""

    def generate(
        self,
        requests: Sequence[Request],
        *,
        on_rest: Callable[[Completion], None] | None = None,
        turns: Turns | None = None,
    ) -> list[Completion]:
        """One completion per request, in order; each goes to ``on_rest`` as soon as it is there."""


@dataclass(frozen=True)
class Reading:
    """What is read for a problem."""

    prompt: Prompt
    evidence: Evidence | None = None
    """Windows beside the prompt."""
    holder: int = 0
    """The window that holds the answer, counted from 1; 0: not known."""

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        windows = self.evidence.windows if self.evidence else ()
        return max(map(len, (self.prompt, *windows)))


@dataclass(frozen=True)
class PoolResponder:
    """A ``Responder`` that asks the pool, with prompts rendered by the model's own template."""

    pool: Generator
    render: Callable[[Problem], Prompt | Reading]
    """The prompt of a problem, perhaps with windows beside it; at least one token must be left of the context."""
    graded: Callable[[TokenIds, TokenIds], str]
    """Tokens before a turn and of the turn -> the text that is graded
    (``rollout.models.prompts.Transcript.graded``)."""
    sampling: Sampling
    max_tokens: int
    """Longest response."""
    context: int
    """Most tokens of prompt and response together."""
    episodes: Episodes | None = None
    """Answers when the policy has ended a turn; ``None``: the end token ends the response."""
    constraint: Constraint | None = None
    """What a response may consist of; ``None``: anything."""
    merging: MergingConfig = field(default_factory=MergingConfig)
    """How the windows of a prompt that has some are merged."""

    def respond(self, asks: Sequence[Ask], done: Done) -> None:
        """See ``Responder``. Raises ``AllEnginesDead``; a response that failed too often is handed over aborted."""
        readings = {ask.problem.id: as_reading(self.render(ask.problem), self.merging) for ask in asks}
        waiting = {f"{ask.problem.id}#{ask.sample}": ask for ask in asks}
        requests = [self.request(key, readings[ask.problem.id], ask.seed) for key, ask in waiting.items()]

        def rest(completion: Completion) -> None:
            ask = waiting[completion.key]
            done(ask, self.response(readings[ask.problem.id], completion))

        turns = None
        if self.episodes is not None:
            begun = {key: (ask.problem, Rollout(key, readings[ask.problem.id].prompt)) for key, ask in waiting.items()}
            turns = self.episodes.turns_of(begun.__getitem__)
        self.pool.generate(requests, on_rest=rest, turns=turns)

    def request(self, key: str, reading: Reading, seed: int) -> Request:
        """Return the request for a response."""
        return Request(
            key=key,
            prompt=reading.prompt,
            max_new_tokens=min(self.max_tokens, self.context - reading.longest),
            sampling=self.sampling,
            seed=seed,
            evidence=reading.evidence,
            constraint=self.constraint,
        )

    def response(self, reading: Reading, completion: Completion) -> Response:
        """Return the response that a completion is."""
        stop = StopReason.ABORTED if completion.error else completion.stop or StopReason.LENGTH
        rollout = Rollout(completion.key, reading.prompt, completion.segments, stop)
        text = self.graded(rollout.before_last_turn(), rollout.last_turn())
        tokens = tuple(rollout.token_ids.tolist())
        spoke = spoke_of(reading, joined([segment.pointers for segment in completion.segments], np.int16))
        return Response(text, stop, rollout.length, tokens, completion.error, completion.score, spoke)


def as_reading(given: Prompt | Reading, merging: MergingConfig) -> Reading:
    """Return a prompt as a ``Reading``, with the windows that it has itself."""
    if isinstance(given, Reading):
        return given
    return Reading(given, Evidence(given.windows, merging) if given.windows else None)


def spoke_of(reading: Reading, pointers: Pointers) -> Spoke | None:
    """Return which windows spoke; ``None`` where there were not several, or no token was drawn from them."""
    windows = len(reading.evidence.windows) if reading.evidence else 0
    if windows < 2 or not len(pointers):
        return None
    counts = np.bincount(pointers, minlength=windows + 1)[1:]
    return Spoke(int(pointers[0]), tuple((counts / counts.sum()).tolist()), reading.holder)
