"""A few grading processes, shared by the threads of this process, each replaced when it had to be killed."""

from __future__ import annotations

import atexit
import json
import os
import queue
import select
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

START_TIMEOUT_S = 120.0
"""Limit for a worker's imports (1 s on an idle machine)."""
MAX_ITEMS = 5000
"""Items after which a worker is replaced, since SymPy's caches grow."""


class GraderFailure(Exception):
    """The grader gave no verdict on this item; the next item is served by a fresh worker."""


class Worker:
    """One grading process. Not thread-safe: the pool lends it to one thread at a time."""

    def __init__(self) -> None:
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        self.served = 0
        self._unread = b""
        with tempfile.TemporaryFile() as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rewards.math.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | {"PYTHONPATH": path},
            )
            try:
                self._line(START_TIMEOUT_S)
            except GraderFailure as failure:
                self.kill()
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip().splitlines()
                raise GraderFailure(f"math grader does not start: {said[-1] if said else failure}") from failure

    def ask(self, gold: str, candidate: str, limit_s: float) -> tuple[str, str]:
        """Verdict and reason. Raises ``GraderFailure`` on time-out or crash; then kill the worker."""
        self.served += 1
        request = json.dumps({"gold": gold, "candidate": candidate, "limit_s": limit_s}) + "\n"
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(request.encode())
            self.process.stdin.flush()
        except OSError as error:
            raise GraderFailure("math grader had died") from error
        reply = json.loads(self._line(limit_s))
        return reply["verdict"], reply["reason"]

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:  # an unsent request: nobody is left to read it
                continue

    def _line(self, limit_s: float) -> bytes:
        """The next line from the process, within ``limit_s`` seconds."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + limit_s
        poller = select.poll()
        poller.register(self.process.stdout, select.POLLIN | select.POLLHUP)
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not poller.poll(left * 1000):
                raise GraderFailure(f"math grader took longer than {limit_s:g} s")
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:
                raise GraderFailure(f"math grader crashed (exit {self.process.wait()})")
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return line


class GraderPool:
    """Up to ``size`` workers, started when first needed. Safe to use from any thread."""

    def __init__(self, size: int) -> None:
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(size):
            self._idle.put(None)
        self._size = size

    def ask(self, gold: str, candidate: str, limit_s: float) -> tuple[str, str]:
        """``("right" | "wrong", reason)``. Raises ``GraderFailure`` when no verdict could be had within ``limit_s``."""
        worker = self._idle.get()  # bounded: each holder is limited by limit_s
        try:
            if worker is not None and (worker.served >= MAX_ITEMS or worker.process.poll() is not None):
                worker.kill()
                worker = None
            if worker is None:
                worker = Worker()
            verdict, reason = worker.ask(gold, candidate, limit_s)
        except BaseException:
            if worker is not None:
                worker.kill()
            worker = None
            raise
        finally:
            self._idle.put(worker)
        if verdict == "failed":
            raise GraderFailure(reason)
        return verdict, reason

    def close(self) -> None:
        """End all workers; waits for items in progress."""
        for _ in range(self._size):
            worker = self._idle.get()
            if worker is not None:
                worker.kill()
        for _ in range(self._size):
            self._idle.put(None)


@cache
def shared_pool() -> GraderPool:
    """The pool of this process; it ends with the process."""
    pool = GraderPool(max(1, min(4, len(os.sched_getaffinity(0)))))
    atexit.register(pool.close)
    return pool


os.register_at_fork(after_in_child=shared_pool.cache_clear)  # a forked child must not share its parent's pipes
