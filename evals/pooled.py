"""Responses from the pool that training uses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from evals.evaluate import Ask, Done, Response
from rollout.engine import Delta, Request, Sampling
from rollout.pool.board import Completion
from rollout.types import Problem, StopReason


class Generator(Protocol):
    """What evaluation needs of the pool."""

    def generate(
        self, requests: Sequence[Request], on_progress: Callable[[list[Delta]], None] | None = None
    ) -> list[Completion]:
        """One completion per request, in order."""


@dataclass(frozen=True)
class PoolResponder:
    """Asks the pool, with prompts rendered by the model's own template."""

    pool: Generator
    render: Callable[[Problem], tuple[int, ...]]
    """Prompt tokens of a problem; at least one token must be left of the context."""
    graded: Callable[[Sequence[int], Sequence[int]], str]
    """Prompt and response tokens -> the text that is graded (``rollout.models.prompts.Transcript.graded``)."""
    sampling: Sampling
    max_tokens: int
    """Longest response."""
    context: int
    """The engines' limit on prompt and response."""

    def respond(self, asks: Sequence[Ask], done: Done) -> None:
        """See ``Responder``. Raises ``AllEnginesDead``; a response that failed too often is handed over aborted."""
        prompts = {ask.problem.id: self.render(ask.problem) for ask in asks}
        waiting = {f"{ask.problem.id}#{ask.sample}": ask for ask in asks}
        requests = [
            Request(
                key=key,
                token_ids=prompts[ask.problem.id],
                max_new_tokens=min(self.max_tokens, self.context - len(prompts[ask.problem.id])),
                sampling=self.sampling,
                seed=ask.seed,
            )
            for key, ask in waiting.items()
        ]
        drawn: dict[str, list[int]] = defaultdict(list)

        def finish(key: str, tokens: Sequence[int], stop: StopReason, error: str = "") -> None:
            ask = waiting.pop(key)
            text = self.graded(prompts[ask.problem.id], tokens)
            done(ask, Response(text, stop, len(tokens), tuple(tokens), error))

        def progress(deltas: list[Delta]) -> None:
            for delta in deltas:
                drawn[delta.key].extend(delta.token_ids)
                if delta.done and not delta.error:  # after an error the pool may go on elsewhere
                    finish(delta.key, drawn.pop(delta.key), delta.stop or StopReason.LENGTH)

        for completion in self.pool.generate(requests, progress):
            if completion.key in waiting:
                stop = StopReason.ABORTED if completion.error else completion.stop or StopReason.LENGTH
                finish(completion.key, completion.token_ids, stop, completion.error)
