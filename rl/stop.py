"""Ctrl-C and SIGTERM: stop at a place from which the run can go on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """A stop signal arrived while waiting. Not an ``Exception``: nothing on the way may swallow it."""


class Halted(RuntimeError):
    """The run ends itself, in a state from which it can go on; one line: why, and what to do."""


class Stopper:
    """Turns the first stop signal into a flag, or into ``Interrupted`` where waiting can be cut short.

    A second signal raises ``KeyboardInterrupt`` at once, wherever the run is: nothing is checkpointed then, since the
    learner may be in the middle of a step; the last checkpoint and the journal stay.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        """Number of the signal received, if any."""
        self.why: Halted | None = None
        """Why the run ends itself, if it does."""
        self._waiting = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Stopper:
        self.claim()
        return self

    def claim(self) -> None:
        """Install the handlers; again after ``ray.init``, which puts its own in their place (SIGTERM would abort)."""
        for number in (signal.SIGINT, signal.SIGTERM):
            previous = signal.signal(number, self._handle)
            self._previous.setdefault(number, previous)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)  # type: ignore[arg-type]

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        if self._waiting:
            raise Interrupted(signal.Signals(number).name)

    @property
    def requested(self) -> bool:
        """True once a stop signal has arrived, or the run has begun to end itself."""
        return self.signal is not None or self.why is not None

    def halt(self, why: Halted) -> None:
        """Let the run end with a checkpoint after its iteration, as on a stop signal, and then raise ``why``."""
        self.why = why

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """In this block a stop signal raises ``Interrupted`` instead of waiting for the block to end."""
        if self.requested:
            raise Interrupted("stop requested")
        self._waiting = True
        try:
            yield
        except SystemError as error:  # how compiled code, Ray's say, passes on what the handler raised
            if isinstance(error.__cause__, Interrupted):
                raise error.__cause__ from None
            raise
        finally:
            self._waiting = False

    @contextmanager
    def sheltered(self) -> Iterator[None]:
        """In this block, within an interruptible one, a stop signal raises ``Interrupted`` at the end of the block."""
        waiting, self._waiting = self._waiting, False
        yield
        self._waiting = waiting
        if waiting and self.requested:
            raise Interrupted("stop requested")
