"""Requests that come and go while engines sample without a pause, seen from the thread that asks for them."""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from types import TracebackType
from typing import Self

from rollout.engine import WeightUpdate
from rollout.partial import Stretch
from rollout.pool.board import Completion, News, Turns
from rollout.pool.calls import Calls
from rollout.pool.fleet import Fleet, PublishReport
from rollout.pool.parity import Limits
from rollout.pool.shift import Failed, Shift
from rollout.pool.slot import Publication

CLEAR_S = 3.0
"""Patience with engines that must drop their requests when the stream ends."""


class Stream:
    """A context in which the engines work on what is submitted. One at a time, unless it is held.

    Whatever ends the context, an interrupt in the middle of any call included: requests in flight are dropped, and
    ``rest`` has the tokens that were drawn meanwhile. ``most``: engine failures after which a request is given up.
    """

    def __init__(self, calls: Calls, fleet: Fleet, limits: Limits, turns: Turns | None, most: int) -> None:
        self._calls = calls
        self._fleet = fleet
        self._limits = limits
        self._turns = turns
        self._most = most
        self._shift: Shift | None = None
        self._come: deque[News | Failed] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        """Rung for everything that comes; whoever waits forgets how often."""
        self._in_hand: News | Failed | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        try:
            self._calls.run(self._open())
        except BaseException:
            self._close()
            raise
        return self

    async def _open(self) -> None:
        await self._fleet.idle()
        self._shift = Shift(self._fleet, self._put, self._turns, self._most)

    def _put(self, item: News | Failed) -> None:
        self._come.append(item)
        self._bell.put(None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        shift, self._shift = self._shift, None
        if shift is not None and not self._calls.closed:
            self._calls.run(shift.close(CLEAR_S))

    @property
    def _open_shift(self) -> Shift:
        if self._shift is None:
            raise RuntimeError("the stream is not open")
        return self._shift

    def submit(self, stretches: Sequence[Stretch]) -> None:
        """Add requests behind those that are there. Raises ``ValueError`` for a key that is still on its way."""
        self._calls.run(self._open_shift.add(stretches))

    def news(self, timeout_s: float | None = None) -> Iterator[News]:
        """Yield what has come, in order, until nothing more is there; wait for the first piece at most ``timeout_s``.

        Raises what ended the work, e.g. ``AllEnginesDead``, when nothing is left of what came before.
        """
        _ = self._open_shift
        found = 0
        for item in self._taken(0 if self._failure is not None else timeout_s):
            found += 1
            yield item
        if not found and self._failure is not None:
            raise self._failure

    def rest(self) -> list[News]:
        """Return what ``news`` has not yielded of what has come; also after the context, without waiting."""
        return list(self._taken(0))

    def behind_interrupt(self) -> list[News]:
        """Return ``rest`` after an interrupt, without the requests of the piece that was in hand just then: it may be
        lost, and nothing of theirs may follow on a gap.
        """
        doubtful = {delta.key for delta in self._in_hand} if isinstance(self._in_hand, list) else set()
        kept = [
            item if isinstance(item, Completion) else [delta for delta in item if delta.key not in doubtful]
            for item in self.rest()
        ]
        return [item for item in kept if item]

    def _taken(self, timeout_s: float | None) -> Iterator[News]:
        while not self._come and timeout_s != 0:
            try:
                self._bell.get(timeout=timeout_s)
            except queue.Empty:
                return
        while self._come:
            self._in_hand = item = self._come[0]  # before it is taken away: an interrupt may come in between
            self._come.popleft()
            if isinstance(item, Failed):
                self._failure = item.error
            else:
                yield item
            self._in_hand = None

    def wake(self) -> None:
        """Have ``news`` return without any; from any thread."""
        self._put([])

    def drop(self, keys: Collection[str]) -> None:
        """Forget requests: no news comes of them any more but what came already. Unknown keys are passed over, and all
        after the context, which has dropped everything.
        """
        if self._shift is not None:
            self._calls.run(self._shift.drop(keys))

    def publish(
        self, update: WeightUpdate, probe: Sequence[Sequence[int]], reference: Sequence[Sequence[float]]
    ) -> PublishReport:
        """Have the engines take new weights in flight and pass the probe, each by itself, while the others sample.

        An engine that cannot take them beneath its requests gives these back first: they go on from the tokens they
        have, on whichever engine is free, and that is no failure. Versions of one response never decrease. One that
        fails is replaced, and its successor takes the weights before it serves. See ``Pool.publish`` for the rest;
        after an error or an interrupt the stream can only be left.
        """
        publication = Publication(update, probe, reference, self._limits)
        return self._calls.run(self._open_shift.publish(publication))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Have the engines free for other work, for an evaluation say; then the requests go on from their tokens."""
        shift = self._open_shift
        try:
            self._calls.run(shift.hold())
            yield
        finally:
            if self._shift is not None and not self._calls.closed:
                self._calls.run(shift.resume())


def drawn(stream: Stream, stretches: Sequence[Stretch], take: Callable[[News], None]) -> None:
    """Have a stream draw all stretches until each rests, and nothing else; ``take`` gets all news, in this thread.

    If that is cut short, ``take`` still gets the last tokens, unless it was ``take`` that failed. Behind an interrupt
    no response has a gap.
    """
    left, failed = len(stretches), False
    try:
        with stream:
            stream.submit(stretches)
            while left:
                for item in stream.news():
                    left -= isinstance(item, Completion)
                    failed = True
                    take(item)
                    failed = False
    except BaseException as error:
        if not (failed and isinstance(error, Exception)):
            for item in stream.rest() if isinstance(error, Exception) else stream.behind_interrupt():
                if isinstance(item, list):
                    take(item)
        raise
