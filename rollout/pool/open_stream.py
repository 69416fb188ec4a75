"""A stream that stays open: requests come from any thread, one by one, and each has its own end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

from rollout.engine import Request
from rollout.partial import Stretch
from rollout.pool.board import Completion, News
from rollout.pool.pool import Pool
from rollout.pool.stream import CLEAR_S, Stream

CLOSE_S = 2 * CLEAR_S
"""Patience with the thread when the stream is closed."""


@dataclass(frozen=True)
class Asked:
    """A request on its way. Its futures cannot be cancelled."""

    begun: Future[None] = field(default_factory=Future)
    """Done once its first tokens have come; never, where it ends without any."""
    ended: Future[Completion] = field(default_factory=Future)
    """How it ended."""


class OpenStream:
    """Keeps the engines of a pool at work on whatever is asked, all at once. Nothing else can be done with the pool.

    ``ask``, ``drop`` and the counts are for any thread. What ends the stream, e.g. ``AllEnginesDead``, is the end of
    all requests, of those that come later too. Raises what keeps it from being opened.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._new: dict[str, Request] = {}
        """Asked and not handed to the engines yet, by key."""
        self._dropped: list[str] = []
        self._open: dict[str, Asked] = {}
        self._stream: Stream | None = None
        self._failure: BaseException | None = None
        self._closing = False
        self._tokens = 0
        self._busy = 0.0
        self._since = 0.0
        """When the first of the requests that are open came; ``time.monotonic`` seconds."""
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="open-stream", daemon=True)
        self._thread.start()
        opened.result()

    def ask(self, request: Request) -> Asked:
        """Hand a request in; ``drop`` makes that it never ends.

        Raises ``ValueError`` for a key that is on its way, and what has ended the stream.
        """
        asked = Asked()
        asked.begun.set_running_or_notify_cancel()
        asked.ended.set_running_or_notify_cancel()
        with self._lock:
            if self._failure is not None:
                raise self._failure.with_traceback(None)  # else it would keep the frames of all who ever asked
            if request.key in self._open:
                raise ValueError(f"request {request.key!r} is on its way already")
            if not self._open:
                self._since = time.monotonic()
            self._open[request.key] = asked
            self._new[request.key] = request
        self._wake()
        return asked

    def drop(self, keys: Iterable[str]) -> None:
        """Forget requests; those that have ended are passed over."""
        with self._lock:
            gone = [key for key in keys if self._taken(key) is not None]
            self._dropped += [key for key in gone if self._new.pop(key, None) is None]
        if gone:
            self._wake()

    @property
    def waiting(self) -> int:
        """Requests that have not ended yet."""
        return len(self._open)

    @property
    def tokens(self) -> int:
        """Tokens drawn so far."""
        return self._tokens

    @property
    def busy_s(self) -> float:
        """Seconds with a request open so far."""
        with self._lock:
            return self._busy + (time.monotonic() - self._since if self._open else 0.0)

    def close(self) -> None:
        """Drop what is on its way and end the stream. Idempotent."""
        self._fail(RuntimeError("the stream was closed"))
        self._closing = True
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_S)

    def _taken(self, key: str) -> Asked | None:
        """Remove a request from those that are open; under the lock."""
        asked = self._open.pop(key, None)
        if asked is not None and not self._open:
            self._busy += time.monotonic() - self._since
        return asked

    def _wake(self) -> None:
        if (stream := self._stream) is not None:
            stream.wake()

    def _run(self, opened: Future[None]) -> None:
        try:
            with self._pool.stream() as stream:
                self._stream = stream
                opened.set_result(None)
                while not self._closing:
                    self._hand_in(stream)
                    for item in stream.news():
                        self._take(item)
                        self._hand_in(stream)
        except BaseException as error:  # noqa: BLE001  it reaches whoever asked
            self._fail(error)
            if not opened.done():
                opened.set_exception(error)

    def _hand_in(self, stream: Stream) -> None:
        """Hand over what was asked and dropped meanwhile, together."""
        if not (self._new or self._dropped):
            return
        with self._lock:
            new, self._new = list(self._new.values()), {}
            dropped, self._dropped = self._dropped, []
        if dropped:
            stream.drop(dropped)
        if new:
            stream.submit([Stretch(request) for request in new])

    def _take(self, item: News) -> None:
        if isinstance(item, Completion):
            with self._lock:
                asked = self._taken(item.key)
            if asked is not None:
                asked.ended.set_result(item)
            return
        for delta in item:
            self._tokens += len(delta.token_ids)
            if (asked := self._open.get(delta.key)) is not None and len(delta.token_ids) and not asked.begun.done():
                asked.begun.set_result(None)

    def _fail(self, error: BaseException) -> None:
        """End all requests with the error that ended the stream; the first counts."""
        with self._lock:
            self._failure = self._failure or error
            left = [asked for key in list(self._open) if (asked := self._taken(key)) is not None]
            self._new.clear()
        for asked in left:
            asked.ended.set_exception(error)
