"""The requests of one call to the pool: what waits, what is in flight, what has finished. Knows no engine."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from rollout.engine import Delta, EngineError, Request
from rollout.types import StopReason, WeightVersion

Progress = Callable[[list[Delta]], None]


@dataclass(frozen=True)
class Completion:
    """Everything drawn for one request."""

    key: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    version: WeightVersion
    stop: StopReason | None
    """EOS or REPETITION; ``None`` when the budget was used up or the request was given up."""
    failures: int = 0
    """Engine failures on the way; the tokens before each were kept."""
    error: str = ""
    """Why it was given up; empty when it was not."""


class Board:
    """Hands out requests and takes in progress.

    Every delta goes to ``emit`` before anything else happens with it, so that it is recorded even if the run ends now.
    A request whose engine failed goes back to the front of the queue with the tokens it has and the budget left.
    """

    def __init__(self, requests: Sequence[Request], version: WeightVersion, max_failures: int, emit: Progress) -> None:
        self._order = [request.key for request in requests]
        if len(set(self._order)) != len(self._order):
            raise ValueError("requests of one call must have different keys")
        self._budgets = {request.key: request.max_new_tokens for request in requests}
        self._state = {request.key: Completion(request.key, (), (), version, None) for request in requests}
        self._waiting = deque(requests)
        self._flying: dict[str, Request] = {}
        self._version = version
        self._max_failures = max_failures
        self._emit = emit
        self._changed = asyncio.Event()

    @property
    def unfinished(self) -> int:
        """Requests waiting or in flight."""
        return len(self._waiting) + len(self._flying)

    @property
    def waiting(self) -> int:
        """Requests not handed out."""
        return len(self._waiting)

    async def changed(self) -> None:
        """Return when there is work to hand out, or none left at all."""
        while self.unfinished and not self._waiting:
            self._changed.clear()
            await self._changed.wait()

    def take(self, count: int) -> list[Request]:
        """Up to ``count`` requests from the front: mostly siblings, which then share one engine's prefix cache."""
        taken = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        self._flying.update((request.key, request) for request in taken)
        return taken

    def receive(self, deltas: list[Delta]) -> None:
        """Progress from an engine. Raises ``EngineError`` when it was drawn under other weights than asked for."""
        wrong = next((delta for delta in deltas if delta.version != self._version), None)
        if wrong is not None:
            raise EngineError(
                f"engine drew tokens under version {wrong.version} while version {self._version} is served"
            )
        if deltas:
            self._emit(deltas)
        for delta in deltas:
            self._add(delta)
        self._changed.set()

    def _add(self, delta: Delta) -> None:
        state = self._state[delta.key]
        self._state[delta.key] = state = replace(
            state, token_ids=state.token_ids + delta.token_ids, logprobs=state.logprobs + delta.logprobs
        )
        if not delta.done:
            return
        request = self._flying.pop(delta.key)
        if delta.error:
            self._retry(request, delta.error)
        else:
            self._state[delta.key] = replace(state, stop=delta.stop)

    def _retry(self, request: Request, error: str) -> None:
        """One more failure: back into the queue, unless it was one too many or nothing is left to draw."""
        state = replace(self._state[request.key], failures=self._state[request.key].failures + 1)
        left = self._budgets[request.key] - len(state.token_ids)
        if state.failures >= self._max_failures:
            state = replace(state, error=error)
        elif left > 0:
            drawn = state.token_ids[len(state.token_ids) - (request.max_new_tokens - left) :]
            self._waiting.appendleft(replace(request, token_ids=request.token_ids + drawn, max_new_tokens=left))
        self._state[request.key] = state

    def give_back(self, keys: Iterable[str], error: str) -> None:
        """The engine that had these requests failed."""
        lost = [key for key in keys if key in self._flying]
        self.receive([Delta(key, (), (), self._version, done=True, error=error) for key in lost])

    def salvage(self, deltas: list[Delta]) -> None:
        """Tokens that arrive after the call was cancelled: recorded, and nothing is concluded from them."""
        tokens = [replace(delta, done=False, stop=None, error="") for delta in deltas if delta.token_ids]
        if tokens:
            self._emit(tokens)

    def completions(self) -> list[Completion]:
        """In the order of the requests."""
        return [self._state[key] for key in self._order]
