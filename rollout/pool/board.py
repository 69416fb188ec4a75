"""The requests of one stream: what waits, what is in flight, what has come to rest. Knows no engine."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

import numpy as np

from rewards.score import Score
from rollout.engine import NO_LOGPROBS, NO_TOKENS, Delta, Request
from rollout.partial import Stretch
from rollout.tape import Tape
from rollout.types import (
    NO_POINTERS,
    Author,
    LogProbs,
    Pointers,
    Segment,
    StopReason,
    TokenIds,
    WeightVersion,
    joined,
)

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
"""``(key, what was added to this request so far, tokens of the context that are left)`` -> the environment's reply."""


@dataclass(frozen=True)
class Completion:
    """Everything that was added to a request."""

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


News = list[Delta] | Completion
"""Progress on requests, or one that has come to rest."""


class _Track:
    """One request on its way."""

    __slots__ = ("error", "failures", "place", "request", "score", "stop", "tape", "version")

    def __init__(self, stretch: Stretch, place: int) -> None:
        self.request = stretch.request
        self.place = place
        """Its place in the queue, which it keeps."""
        self.tape = Tape()
        self.version: WeightVersion = 0
        """Newest weights that it has tokens of."""
        self.stop: StopReason | None = None
        self.failures = 0
        self.error = ""
        self.score: Score | None = None

    def add(
        self,
        version: WeightVersion,
        token_ids: TokenIds,
        logprobs: LogProbs,
        by: Author,
        pointers: Pointers = NO_POINTERS,
    ) -> None:
        """Add tokens."""
        self.tape.add(version, token_ids, logprobs, by, pointers)
        self.version = max(self.version, version)

    def completion(self) -> Completion:
        segments = tuple(self.tape.segments())
        return Completion(self.request.key, segments, self.stop, self.failures, self.error, self.score)

    def left(self, context: int) -> int:
        """Number of tokens that the policy may still draw."""
        return min(self.request.max_new_tokens - self.tape.drawn, context - len(self.request.prompt) - self.tape.size)

    def rest(self, context: int) -> Request:
        """Return the request for what is left."""
        if not self.tape.size:
            return self.request
        segments = self.tape.segments()
        prompt = self.request.prompt.followed_by(*(segment.token_ids for segment in segments))
        evidence = self.request.evidence and self.request.evidence.after(segments[-1].pointers)
        begun = self.request.begun + self.tape.size
        left = self.left(context)
        return replace(self.request, prompt=prompt, max_new_tokens=left, evidence=evidence, begun=begun)


class Board:
    """Hands out requests and takes in progress. Used from one event loop.

    Every delta goes to ``emit`` before anything else happens with it, so that it is recorded even if the run ends now;
    then each request that has come to rest goes to ``rested``. A request whose engine failed, or from which it was
    recalled, goes back to its place in the queue, ahead of all younger ones, with the tokens it has and the budget
    left. With ``turns``, an end token ends the policy's turn, not the response: the environment is asked, and the
    request goes on behind what it answers; what goes wrong with that goes to ``failed``. ``version``: the weights that
    all engines have.
    """

    def __init__(
        self,
        version: Callable[[], WeightVersion],
        max_failures: int,
        context: int,
        emit: Progress,
        rested: Callable[[Completion], None],
        failed: Callable[[BaseException], None],
        turns: Turns | None = None,
    ) -> None:
        self.dropped: set[str] = set()
        """Requests that an engine still has, and nobody wants any more."""
        self._tracks: dict[str, _Track] = {}
        self._waiting: list[_Track] = []
        """By place."""
        self._flying: set[str] = set()
        self._recalled: set[str] = set()
        self._thinking: dict[str, asyncio.Task[None]] = {}
        self._places = 0
        self._version = version
        self._max_failures = max_failures
        self._context = context
        self._emit = emit
        self._rested = rested
        self._failed = failed
        self._turns = turns
        self._closed = False
        self._change = asyncio.get_running_loop().create_future()

    @property
    def unfinished(self) -> int:
        """Requests waiting, in flight, or with their environment."""
        return len(self._tracks)

    @property
    def waiting(self) -> int:
        """Requests not handed out."""
        return len(self._waiting)

    @property
    def change(self) -> asyncio.Future[None]:
        """Done as soon as there may be something new to do for those who work on the board."""
        return self._change

    def touch(self) -> None:
        """Wake those who work on the board."""
        change, self._change = self._change, asyncio.get_running_loop().create_future()
        if not change.done():
            change.set_result(None)

    def add(self, stretches: Sequence[Stretch]) -> None:
        """Take more requests, behind those that are here. Raises ``ValueError`` for a key that is on its way."""
        keys = [stretch.request.key for stretch in stretches]
        if len(set(keys)) < len(keys) or any(key in self._tracks for key in keys):
            raise ValueError("requests on their way at the same time must have different keys")
        for stretch in stretches:
            self._places += 1
            self._tracks[stretch.request.key] = track = _Track(stretch, self._places)
            if stretch.awaiting:
                self._ask(track)
            else:
                self._waiting.append(track)
        self.touch()

    def drop(self, keys: Iterable[str]) -> None:
        """Forget requests: nothing more comes of them. Keys that are not on their way are passed over."""
        gone = {key for key in keys if self._tracks.pop(key, None) is not None}
        self._waiting = [track for track in self._waiting if track.request.key not in gone]
        for key in gone & self._thinking.keys():
            self._thinking.pop(key).cancel()
        self.dropped |= gone & self._flying
        self._recalled -= gone
        self.touch()

    def take(self, count: int, version: WeightVersion) -> list[Request]:
        """Return up to ``count`` requests for an engine that serves ``version``, the oldest first: mostly siblings,
        which then share its prefix cache.

        Left out are requests with tokens of newer weights, since the versions of a response never decrease, and those
        whose name an engine still has from a request that was dropped.
        """
        fitting = (each for each in self._waiting if each.version <= version and each.request.key not in self._flying)
        taken = list(islice(fitting, max(count, 0)))
        keys = {track.request.key for track in taken}
        if taken == self._waiting[: len(taken)]:
            del self._waiting[: len(taken)]
        else:
            self._waiting = [track for track in self._waiting if track.request.key not in keys]
        self._flying |= keys
        return [track.rest(self._context) for track in taken]

    def recall(self, keys: Collection[str]) -> None:
        """Say that engines are asked to give these requests back: that they end then is no failure."""
        self._recalled |= self._flying & set(keys) - self.dropped

    def receive(self, deltas: Sequence[Delta]) -> None:
        """Take progress from an engine."""
        if told := [each for delta in deltas if (each := self._told(delta)) is not None]:
            self._emit(told)
        for delta in deltas:
            self._add(delta)

    def give_back(self, keys: Iterable[str], error: str) -> None:
        """Take back the requests of an engine that failed."""
        lost = [key for key in keys if key in self._flying]
        self.receive([Delta(key, NO_TOKENS, NO_LOGPROBS, self._version(), done=True, error=error) for key in lost])

    async def close(self) -> None:
        """Stop asking environments; what engines still give back is recorded, and no longer continued."""
        self._closed = True
        tasks = list(self._thinking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _told(self, delta: Delta) -> Delta | None:
        """Return an engine's delta as it is passed on; ``None`` where there is nothing to tell.

        Being recalled does not end a request, and with an environment the end of a turn does not end the response.
        """
        if delta.key in self.dropped:
            return None
        if delta.error and delta.key in self._recalled:
            return replace(delta, done=False, error="") if len(delta.token_ids) else None
        if self._turns is None or delta.stop is not StopReason.EOS:
            return delta
        return replace(delta, done=False, stop=None)

    def _add(self, delta: Delta) -> None:
        if delta.done:
            self._flying.discard(delta.key)
        if delta.key in self.dropped:
            if delta.done:
                self.dropped.discard(delta.key)
                self.touch()  # its name is free again
            return
        track = self._tracks[delta.key]
        track.add(delta.version, delta.token_ids, delta.logprobs, delta.by, delta.pointers)
        if not delta.done:
            return
        recalled = delta.key in self._recalled
        self._recalled.discard(delta.key)
        if delta.error:
            self._retry(track, "" if recalled else delta.error)
        elif delta.stop is StopReason.EOS and self._turns is not None:
            self._ask(track)
        else:
            track.stop = delta.stop
            self._rest(track)

    def _retry(self, track: _Track, error: str) -> None:
        """Back into the queue, unless ``error`` was one too many or nothing is left to draw."""
        track.failures += bool(error)
        if track.failures >= self._max_failures:
            track.error = error
            self._rest(track)
        else:
            self._go_on(track)

    def _go_on(self, track: _Track) -> None:
        if track.left(self._context) > 0:
            insort(self._waiting, track, key=lambda each: each.place)
            self.touch()
        else:
            self._rest(track)

    def _rest(self, track: _Track) -> None:
        del self._tracks[track.request.key]
        self._rested(track.completion())

    def _ask(self, track: _Track) -> None:
        """Ask the environment, whose turn it is."""
        if self._closed:
            return
        assert self._turns is not None
        key = track.request.key
        left = self._context - len(track.request.prompt) - track.tape.size
        reply = asyncio.ensure_future(self._turns(key, track.tape.segments(), left))
        self._thinking[key] = asyncio.create_task(self._hear(track, reply))

    async def _hear(self, track: _Track, reply: asyncio.Future[Reply]) -> None:
        key = track.request.key
        try:
            answer = await reply
            del self._thinking[key]
            self._answered(track, answer)
        except Exception as error:  # noqa: BLE001 - not lost in a task: who waits for the requests gets it
            self._failed(error)

    def _answered(self, track: _Track, reply: Reply) -> None:
        key, version = track.request.key, max(track.version, self._version())
        if len(reply.token_ids):
            self._emit([Delta(key, reply.token_ids, NO_LOGPROBS, version, by=Author.ENVIRONMENT)])
            track.add(version, reply.token_ids, NO_LOGPROBS, Author.ENVIRONMENT)
            self._go_on(track)
        else:
            track.stop, track.score = reply.stop, reply.score
            self._emit([Delta(key, NO_TOKENS, NO_LOGPROBS, version, True, reply.stop, score=reply.score)])
            self._rest(track)
