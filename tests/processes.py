"""Processes in tests: waiting for what they do, never for how long it takes.

The one time limit here is against hangs. It is far above what a slow machine with other work on it needs, so no test's
outcome depends on it; a test that waits gives up before pytest's own limit ends it, and says what it waited for.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

PATIENCE_S = 600.0


def until(ready: Callable[[], object], what: str, every_s: float = 0.05) -> None:
    """Return as soon as ``ready`` is true; ``AssertionError`` naming ``what`` after ``PATIENCE_S``."""
    end = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < end, f"still waiting after {PATIENCE_S:.0f} s for {what}"
        time.sleep(every_s)


def running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until_gone(pids: Iterable[int]) -> None:
    """Wait for the end of all of these processes."""
    left = list(pids)
    until(lambda: not any(map(running, left)), f"the end of the processes {left}")


def cpu_seconds() -> float:
    """CPU time of this process and of all that it started, in seconds: what work costs, whoever else is at work."""
    me = psutil.Process()
    total = 0.0
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
