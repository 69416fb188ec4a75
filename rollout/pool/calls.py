"""Calls from other threads into the pool's event loop; they may be cut short at any time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE_S = 6.0
"""How long a call that was cut short is waited for."""


class Calls:
    """An event loop in a thread of its own. ``run`` blocks the caller, who may be interrupted (Ctrl-C,
    ``rl.stop.Interrupted``): the work is then cancelled.
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.closed = False
        self._running: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what ``work`` returns on the loop. Raises ``RuntimeError`` when it is closed."""
        if self.closed:
            work.close()
            raise RuntimeError("the pool is closed")
        ended = threading.Event()
        future = asyncio.run_coroutine_threadsafe(self._tracked(work, ended), self.loop)
        try:
            return future.result()
        finally:
            if not future.done():
                future.cancel()
                ended.wait(PATIENCE_S)

    async def _tracked(self, work: Coroutine[Any, Any, T], ended: threading.Event) -> T:
        call = asyncio.current_task()
        assert call is not None
        self._running.add(call)
        try:
            return await work
        finally:
            self._running.discard(call)
            ended.set()

    def close(self, last: Coroutine[Any, Any, None], seconds: float) -> None:
        """Cancel what runs, have ``last`` run for at most ``seconds``, and end the thread. Idempotent."""
        if self.closed:
            last.close()
            return
        self.closed = True
        future = asyncio.run_coroutine_threadsafe(self._end(last), self.loop)
        try:
            future.result(seconds)
        except TimeoutError:
            future.cancel()
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(1.0)
            if not self._thread.is_alive():
                self.loop.close()

    async def _end(self, last: Coroutine[Any, Any, None]) -> None:
        with contextlib.closing(last):  # type: ignore[type-var]
            for call in self._running:
                call.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            await last
