"""Calls of code of the user's own that may fail, hang or block, whatever they do to the thread or loop they run on."""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from rollout.grading import LoopThread
from rollout.user_code import named

MAX_HUNG = 8
"""Calls that may hang at one time; then further ones are not begun until one of them returns."""
ALIVE_S = 5.0
"""Within this time an event loop that nothing blocks answers."""


class TookTooLong(RuntimeError):
    """A call did not return in time, or was given up with the event loop that another one blocked.

    Not ``TimeoutError``, which a function may raise for reasons of its own.
    """


class TooManyHang(RuntimeError):
    """Calls that never return have used up their threads."""


async def within(future: Future[Any], seconds: float) -> Any:
    """Return what the call gives, or raise what it raises. Raises ``TookTooLong`` and cancels it."""
    waited = asyncio.wrap_future(future)
    _, late = await asyncio.wait([waited], timeout=seconds)
    if late or waited.cancelled():
        waited.cancel()
        raise TookTooLong
    return waited.result()


class Calls:
    """Calls on one thread, one after the other; a thread whose call hangs is left to itself and another begins."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] | None = None
        self._hung: list[threading.Thread] = []
        self._thread: threading.Thread | None = None

    def start(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Future[Outcome]:
        """Begin the call. Raises ``TooManyHang``."""
        self._hung = [thread for thread in self._hung if thread.is_alive()]
        if len(self._hung) >= MAX_HUNG:
            raise TooManyHang(f"{len(self._hung)} calls of the reward hang already; none is begun before one returns")
        if self._jobs is None:
            self._jobs = queue.SimpleQueue()
            self._thread = threading.Thread(target=_serve, args=(self._jobs,), name="user-reward", daemon=True)
            self._thread.start()
        future: Future[Outcome] = Future()
        self._jobs.put(functools.partial(_fulfil, future, call, arguments))
        return future

    async def leave(self) -> None:
        """Give up the call that hangs: the next one gets another thread."""
        self.close()
        if self._thread is not None:
            self._hung.append(self._thread)
        self._jobs = None

    def close(self) -> None:
        """End the thread after its call."""
        if self._jobs is not None:
            self._jobs.put(None)


def _serve(jobs: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (job := jobs.get()) is not None:
        job()


Outcome = tuple[Any, Exception | None]
"""What a call returned, or raised. As a value: of some exceptions a future keeps neither traceback nor type."""


def _fulfil(future: Future[Outcome], call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        outcome: Outcome = call(*arguments), None
    except BaseException as error:  # noqa: BLE001  whatever it is, it must not end the thread, and the caller is told
        outcome = None, tamed(error)
    future.set_result(outcome)


async def guarded(call: Callable[..., Any], arguments: tuple[Any, ...]) -> Outcome:
    """Return what a coroutine function gives, or the exception that it raises, whatever kind it is."""
    try:
        return await call(*arguments), None
    except BaseException as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
            raise  # by its time limit
        return None, tamed(error)


def tamed(error: BaseException) -> Exception:
    """Return the exception, or one in its place where it would end more than the call: ``SystemExit``,
    ``StopIteration``.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
        return error
    return RuntimeError(named(error)).with_traceback(error.__traceback__)


class AsyncCalls:
    """Calls of a coroutine function on an event loop of their own, which they may block without blocking others'.

    ``what`` is called, as messages name it: ``the reward``.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._loop: LoopThread | None = None
        self._hung: list[LoopThread] = []

    def start(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Future[Outcome]:
        """Begin the call. Raises ``TooManyHang``."""
        self._hung = [loop for loop in self._hung if loop.alive]
        if len(self._hung) >= MAX_HUNG:
            raise TooManyHang(
                f"{len(self._hung)} calls of {self._what} block their event loops; none is begun before one returns"
            )
        if self._loop is None:
            self._loop = LoopThread(self._what)
        return self._loop.start(guarded(call, arguments))

    async def leave(self) -> None:
        """Give up a call that took too long and was cancelled; if it blocks the loop, the next one gets another."""
        loop = self._loop
        if loop is None:
            return
        try:
            await within(loop.start(asyncio.sleep(0)), ALIVE_S)
        except TookTooLong:
            if self._loop is loop:  # not yet left by another call that waited with this one
                loop.close()
                self._hung.append(loop)
                self._loop = None

    def close(self) -> None:
        """Cancel what runs and end the thread."""
        if self._loop is not None:
            self._loop.close()
