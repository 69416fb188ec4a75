"""A clock that goes on only when nobody in this process has anything to do: simulated time, whatever the machine does.

Who has work for some time waits for the clock. Everything else, threads, event loops and disks of the real system
included, takes no time on it. It knows by the operating system that all threads sleep: /proc names the state of each,
and how often it was put on a processor; if all sleep twice in a row and none ran in between, nothing can happen any
more until time goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

TASKS = Path("/proc/self/task")
PAUSE_S, LONGEST_PAUSE_S = 0.0002, 0.01
"""Real seconds between two looks at threads that are at work; twice as long after each look."""


class Alarm:
    """Something to be done at a time, unless it is called off."""

    __slots__ = ("off", "ring")

    def __init__(self, ring: Callable[[], object]) -> None:
        self.ring = ring
        self.off = False


class Clock:
    """Simulated seconds. Use as a context manager: within it time can go on."""

    def __init__(self) -> None:
        self._now = 0.0
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)

    @property
    def now(self) -> float:
        """Seconds since the clock was made."""
        return self._now

    def at(self, when: float, ring: Callable[[], object]) -> Alarm:
        """Call ``ring`` when it is that time; it must not wait for anything."""
        alarm = Alarm(ring)
        with self._lock:
            heapq.heappush(self._alarms, (max(when, self._now), next(self._numbers), alarm))
        return alarm

    def sleep(self, seconds: float) -> None:
        """Let a thread be at work for so long."""
        over = threading.Event()
        self.at(self._now + seconds, over.set)
        over.wait()

    async def until(self, when: float, sooner: asyncio.Event | None = None) -> None:
        """Wait for a time, or for the event."""
        loop, rung = asyncio.get_running_loop(), sooner or asyncio.Event()
        alarm = self.at(when, lambda: loop.call_soon_threadsafe(rung.set))
        try:
            await rung.wait()
        finally:
            alarm.off = True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        own, pause = str(threading.get_native_id()), PAUSE_S
        while not self._over.is_set():
            seen = _asleep(own)
            if seen is not None and seen == _asleep(own) and self._go_on():
                pause = PAUSE_S
            else:
                self._over.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)

    def _go_on(self) -> bool:
        """Ring the next alarm, if there is one."""
        with self._lock:
            while self._alarms and self._alarms[0][2].off:
                heapq.heappop(self._alarms)
            if not self._alarms:
                return False
            when, _, alarm = heapq.heappop(self._alarms)
            self._now = when
        with contextlib.suppress(RuntimeError):  # an event loop that has ended waits for nothing
            alarm.ring()
        return True


def _asleep(own: str) -> dict[str, tuple[str, ...]] | None:
    """Return how often each other thread was put on a processor, if all of them sleep."""
    found = {}
    for folder in TASKS.iterdir():
        if folder.name == own:
            continue
        try:
            lines = (folder / "status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            return None
        state = next(line for line in lines if line.startswith("State:"))
        if "S" not in state.split()[1]:
            return None
        found[folder.name] = tuple(line for line in lines[-2:])
    return found
