"""Responses from the pool that training uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from evals.evaluate import Ask, Done, Response
from rollout.engine import Request, Sampling
from rollout.environments.episodes import Episodes
from rollout.pool.board import Completion, Turns
from rollout.types import Problem, Prompt, Rollout, StopReason, TokenIds


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
class PoolResponder:
    """A ``Responder`` that asks the pool, with prompts rendered by the model's own template."""

    pool: Generator
    render: Callable[[Problem], Prompt]
    """The prompt of a problem; at least one token must be left of the context."""
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

    def respond(self, asks: Sequence[Ask], done: Done) -> None:
        """See ``Responder``. Raises ``AllEnginesDead``; a response that failed too often is handed over aborted."""
        prompts = {ask.problem.id: self.render(ask.problem) for ask in asks}
        waiting = {f"{ask.problem.id}#{ask.sample}": ask for ask in asks}
        requests = [
            Request(
                key=key,
                prompt=prompts[ask.problem.id],
                max_new_tokens=min(self.max_tokens, self.context - len(prompts[ask.problem.id])),
                sampling=self.sampling,
                seed=ask.seed,
            )
            for key, ask in waiting.items()
        ]

        def rest(completion: Completion) -> None:
            ask = waiting[completion.key]
            stop = StopReason.ABORTED if completion.error else completion.stop or StopReason.LENGTH
            rollout = Rollout(completion.key, prompts[ask.problem.id], completion.segments, stop)
            text = self.graded(rollout.before_last_turn(), rollout.last_turn())
            tokens = tuple(rollout.token_ids.tolist())
            done(ask, Response(text, stop, rollout.length, tokens, completion.error, completion.score))

        turns = None
        if self.episodes is not None:
            begun = {key: (ask.problem, Rollout(key, prompts[ask.problem.id])) for key, ask in waiting.items()}
            turns = self.episodes.turns_of(begun.__getitem__)
        self.pool.generate(requests, on_rest=rest, turns=turns)
