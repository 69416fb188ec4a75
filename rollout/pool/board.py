"""The requests of one call to the pool: what waits, what is in flight, what has finished. Knows no engine."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from rewards.score import Score
from rollout.engine import NO_LOGPROBS, NO_TOKENS, Delta, EngineError, Request
from rollout.partial import Stretch
from rollout.tape import Tape
from rollout.types import Author, Segment, StopReason, TokenIds, WeightVersion, joined

Progress = Callable[[list[Delta]], None]


@dataclass(frozen=True)
class Reply:
    """An environment's answer to a turn of the policy: more tokens, or the end."""

    token_ids: TokenIds = field(default_factory=lambda: NO_TOKENS)
    """Tokens to feed; empty: the episode is over."""
    stop: StopReason = StopReason.EOS
    """Why it is over: EOS, or LENGTH where the answer to the policy does not fit the context."""
    score: Score | None = None
    """The environment's verdict; ``None``: the response is graded as any other."""


Turns = Callable[[str, Sequence[Segment], int], Awaitable[Reply]]
"""``(key, what this call has added so far, tokens of the context that are left)`` -> the environment's reply."""


@dataclass(frozen=True)
class Completion:
    """Everything that one call added to a request."""

    key: str
    segments: tuple[Segment, ...]
    stop: StopReason | None
    """Why the response ended; ``None`` when the budget was used up or the request was given up."""
    failures: int = 0
    """Engine failures on the way; the tokens before each were kept."""
    error: str = ""
    """Why it was given up; empty when it was not."""
    score: Score | None = None
    """The environment's verdict, where it gave one."""

    @cached_property
    def token_ids(self) -> TokenIds:
        """All tokens, the environment's included."""
        return joined([segment.token_ids for segment in self.segments], np.int32)


class _Track:
    """One request on its way."""

    __slots__ = ("error", "failures", "request", "score", "stop", "tape")

    def __init__(self, stretch: Stretch) -> None:
        self.request = stretch.request
        self.tape = Tape()
        self.stop: StopReason | None = None
        self.failures = 0
        self.error = ""
        self.score: Score | None = None

    def completion(self) -> Completion:
        segments = tuple(self.tape.segments())
        return Completion(self.request.key, segments, self.stop, self.failures, self.error, self.score)

    def left(self, context: int) -> int:
        """Number of tokens that the policy may still draw in this call."""
        return min(self.request.max_new_tokens - self.tape.drawn, context - len(self.request.prompt) - self.tape.size)

    def rest(self, context: int) -> Request:
        """Return the request for what is left."""
        prompt = self.request.prompt.followed_by(*self.tape.token_ids())
        return replace(self.request, prompt=prompt, max_new_tokens=self.left(context))


class Board:
    """Hands out requests and takes in progress.

    Every delta goes to ``emit`` before anything else happens with it, so that it is recorded even if the run ends now;
    then each request that has come to rest goes to ``rested``. A request whose engine failed goes back to the front of
    the queue with the tokens it has and the budget left. With ``turns``, an end token ends the policy's turn, not the
    response: the environment is asked, and the request goes on behind what it answers.
    """

    def __init__(
        self,
        stretches: Sequence[Stretch],
        version: WeightVersion,
        max_failures: int,
        context: int,
        emit: Progress,
        rested: Callable[[Completion], None],
        turns: Turns | None,
    ) -> None:
        self._tracks = {stretch.request.key: _Track(stretch) for stretch in stretches}
        if len(self._tracks) != len(stretches):
            raise ValueError("requests of one call must have different keys")
        self._waiting = deque(stretch.request for stretch in stretches if not stretch.awaiting)
        self._flying: set[str] = set()
        self._thinking: dict[str, asyncio.Task[None]] = {}
        self._version = version
        self._max_failures = max_failures
        self._context = context
        self._emit = emit
        self._rested = rested
        self._turns = turns
        self._fault: BaseException | None = None
        self._changed = asyncio.Event()
        for stretch in stretches:
            if stretch.awaiting:
                self._ask(stretch.request.key)

    @property
    def unfinished(self) -> int:
        """Requests waiting, in flight, or with their environment. Raises what went wrong with an environment."""
        if self._fault is not None:
            raise self._fault
        return len(self._waiting) + len(self._flying) + len(self._thinking)

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
        """Return up to ``count`` requests from the front: mostly siblings, which then share one engine's prefix
        cache.
        """
        taken = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        self._flying.update(request.key for request in taken)
        return taken

    def receive(self, deltas: list[Delta]) -> None:
        """Progress from an engine. Raises ``EngineError`` when it was drawn under other weights than asked for."""
        wrong = next((delta for delta in deltas if delta.version != self._version), None)
        if wrong is not None:
            raise EngineError(
                f"engine drew tokens under version {wrong.version} while version {self._version} is served"
            )
        if deltas:
            self._emit([self._told(delta) for delta in deltas])
        for delta in deltas:
            self._add(delta)
        self._changed.set()

    def _told(self, delta: Delta) -> Delta:
        """Return an engine's delta as it is passed on. With an environment, the end of a turn does not end the
        response.
        """
        if self._turns is None or delta.stop is not StopReason.EOS:
            return delta
        return replace(delta, done=False, stop=None)

    def _add(self, delta: Delta) -> None:
        track = self._tracks[delta.key]
        track.tape.add(delta.version, delta.token_ids, delta.logprobs)
        if not delta.done:
            return
        self._flying.discard(delta.key)
        if delta.error:
            self._retry(track, delta.error)
        elif delta.stop is StopReason.EOS and self._turns is not None:
            self._ask(delta.key)
        else:
            track.stop = delta.stop
            self._rested(track.completion())

    def _retry(self, track: _Track, error: str) -> None:
        """One more failure: back into the queue, unless it was one too many or nothing is left to draw."""
        track.failures += 1
        if track.failures >= self._max_failures:
            track.error = error
            self._rested(track.completion())
        elif track.left(self._context) > 0:
            self._waiting.appendleft(track.rest(self._context))
        else:
            self._rested(track.completion())

    def _ask(self, key: str) -> None:
        """Ask the environment, whose turn it is."""
        assert self._turns is not None
        track = self._tracks[key]
        left = self._context - len(track.request.prompt) - track.tape.size
        task = asyncio.ensure_future(self._turns(key, track.tape.segments(), left))
        self._thinking[key] = asyncio.create_task(self._hear(key, task))

    async def _hear(self, key: str, reply: asyncio.Future[Reply]) -> None:
        try:
            self._answered(key, await reply)
        except Exception as error:  # noqa: BLE001 - not lost in a task: whoever looks at the board next gets it
            self._fault = error
        finally:
            self._thinking.pop(key, None)
            self._changed.set()

    def _answered(self, key: str, reply: Reply) -> None:
        track = self._tracks[key]
        if len(reply.token_ids):
            self._emit([Delta(key, reply.token_ids, NO_LOGPROBS, self._version, by=Author.ENVIRONMENT)])
            track.tape.add(self._version, reply.token_ids, NO_LOGPROBS, Author.ENVIRONMENT)
            if track.left(self._context) > 0:
                self._waiting.append(track.rest(self._context))
                return
        else:
            track.stop, track.score = reply.stop, reply.score
            done = Delta(key, NO_TOKENS, NO_LOGPROBS, self._version, True, reply.stop, score=reply.score)
            self._emit([done])
        self._rested(track.completion())

    def give_back(self, keys: Iterable[str], error: str) -> None:
        """Take back the requests of an engine that failed."""
        lost = [key for key in keys if key in self._flying]
        self.receive([Delta(key, NO_TOKENS, NO_LOGPROBS, self._version, done=True, error=error) for key in lost])

    def salvage(self, deltas: list[Delta]) -> None:
        """Record progress that arrives after the call was cancelled; failures of what was dropped do not count."""
        kept = [replace(delta, done=False, error="") if delta.error else self._told(delta) for delta in deltas]
        if kept := [delta for delta in kept if len(delta.token_ids) or delta.stop]:
            self._emit(kept)

    async def close(self) -> None:
        """Stop asking environments."""
        tasks = list(self._thinking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
