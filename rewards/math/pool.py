"""A few grading processes, shared by the threads of this process, each replaced when it had to be killed."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

from rewards.math.verdict import Verdict, differs

START_TIMEOUT_S = 120.0
"""Limit for the imports of the nursery (0.2 s on an idle machine)."""
MAX_ITEMS = 2000
"""Items after which a worker is replaced, since caches grow."""
PATIENCE = 120
"""Wall seconds that a worker gets for each processor second of its limit. A machine that leaves it less than a
hundredth of a core makes the item ungradable; short of that, verdicts do not depend on load."""


class GraderFailure(Exception):
    """The grader gave no verdict on this item; the next item is served by a fresh worker."""


class Nursery:
    """The process that forks workers. Its pool calls it from one thread at a time."""

    def __init__(self) -> None:
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        self._control, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as errors, theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rewards.math.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": path},
                start_new_session=True,  # signals to our terminal or process group are not for it
            )
            theirs.close()
            self._control.settimeout(START_TIMEOUT_S)
            try:
                ready = self._control.recv(6)
            except OSError as error:
                ready = str(error).encode()
            if ready != b"ready\n":
                self.close()
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip().splitlines()
                raise GraderFailure(f"math grader does not start: {said[-1] if said else ready.decode()}")
        self._control.settimeout(10)

    def fork(self) -> Worker:
        """Return a fresh worker. Raises ``GraderFailure``."""
        try:
            self._control.sendall(b"f")
            message, handles, _, _ = socket.recv_fds(self._control, 32, 2)
        except OSError as error:
            raise GraderFailure(f"math grader cannot start a worker: {error}") from error
        if len(handles) != 2:
            for handle in handles:
                os.close(handle)
            raise GraderFailure("math grader cannot start a worker: its parent process ended")
        return Worker(int(message), socket.socket(fileno=handles[0]), handles[1])

    @property
    def alive(self) -> bool:
        """Whether it can still fork."""
        return self.process.poll() is None

    def close(self) -> None:
        """End it, and its workers with it."""
        self._control.close()
        self.process.kill()
        self.process.wait()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's process without touching it."""
        self._control.close()
        self.process.returncode = 0


@dataclass(frozen=True)
class Outcome:
    """The result of one request to a worker."""

    reply: dict | None
    """The verdict or failure; ``None`` when the worker crashed or ran out of time."""
    reference_done: bool
    """Whether the reference alone had been worked out by then."""
    spent: bool = False
    """Whether there is no reply because the worker used up its processor time."""
    starved: bool = False
    """Whether there is none because it got no processor for so long."""


def _readable(descriptor: int, wait_s: float) -> bool:
    """Return whether a descriptor becomes readable, or its other end is gone, within the time."""
    poller = select.poll()  # select() knows no descriptors above 1023, of which a server may have many
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(max(0.0, wait_s) * 1000))


class Worker:
    """One grading process. Not thread-safe: the pool lends it to one thread at a time."""

    def __init__(self, pid: int, connection: socket.socket, handle: int) -> None:
        self.pid = pid
        self.served = 0
        self.closed = False
        self._connection = connection
        self._handle = handle
        self._unread = b""

    def ask(self, request: bytes, limit_s: float) -> Outcome:
        """Return what came of one request within ``limit_s`` processor seconds. Without a reply the worker is
        done for.
        """
        self.served += 1
        began, before = time.monotonic(), self.cpu_s()
        reference_done = False
        try:
            self._connection.settimeout(limit_s * PATIENCE)
            self._connection.sendall(request)
            while True:
                left = limit_s - (self.cpu_s() - before)
                if left <= 0:
                    return Outcome(None, reference_done, spent=True)
                if time.monotonic() - began > limit_s * PATIENCE:
                    return Outcome(None, reference_done, starved=True)
                line = self._line(time.monotonic() + left)
                if line is not None:
                    reply = json.loads(line)
                    if "phase" not in reply:
                        return Outcome(reply, reference_done)
                    reference_done = True
        except OSError:
            return Outcome(None, reference_done)

    def _line(self, deadline: float) -> bytes | None:
        """Return the next line; ``None`` at the deadline. Raises ``OSError`` when the process has ended."""
        while b"\n" not in self._unread:
            if not _readable(self._connection.fileno(), deadline - time.monotonic()):
                return None
            piece = self._connection.recv(65536)
            if not piece:
                raise ConnectionResetError
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return not _readable(self._handle, 0.0)

    def cpu_s(self) -> float:
        """Processor seconds used so far; 0 when the process has ended."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        if self.closed:
            return
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        self.abandon()

    def abandon(self) -> None:
        """Close our ends; an idle worker then ends by itself."""
        if not self.closed:
            self.closed = True
            self._connection.close()
            os.close(self._handle)


class GraderPool:
    """Up to ``size`` workers, started when first needed. Safe to use from any thread."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._nursery: Nursery | None = None
        self._living: list[Worker] = []  # all of them, lent or idle
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(size):
            self._idle.put(None)

    def ask(self, gold: str, answer: str, limit_s: float, tolerance: Fraction | None = None) -> Verdict:
        """Return the verdict on one answer within ``limit_s`` seconds of processor time, start-up of the pool aside.

        Raises ``GraderFailure`` when the grader or the reference is at fault. The answer is at fault, and wrong, when
        the reference alone was worked out and the answer then used up the limit, its memory, or ended two workers.
        """
        worker = self._idle.get()  # bounded: each holder is limited by limit_s
        request = json.dumps({"gold": gold, "answer": answer, "tolerance": str(tolerance) if tolerance else ""})
        try:
            for last in (False, True):
                worker = self._fit(worker)
                outcome = worker.ask(request.encode() + b"\n", limit_s)
                if outcome.reply is not None:
                    return _verdict(outcome.reply)
                worker.kill()
                worker = None
                if outcome.spent and outcome.reference_done:
                    return differs(f"cannot be worked out within {limit_s:g} s")
                if outcome.spent or outcome.starved:
                    raise GraderFailure(f"math grader took longer than {limit_s:g} s")
                if last and outcome.reference_done:
                    return differs("cannot be worked out: it ends the grading process")
            raise GraderFailure("math grader crashed")
        except BaseException:
            if worker is not None:
                worker.kill()
            worker = None
            raise
        finally:
            self._idle.put(worker)

    def _fit(self, worker: Worker | None) -> Worker:
        """Return the worker itself, or a fresh one in place of one that is dead or old."""
        if worker is not None:
            if worker.served < MAX_ITEMS and worker.alive:
                return worker
            worker.kill()
        with self._lock:
            if self._nursery is None or not self._nursery.alive:
                if self._nursery is not None:
                    self._nursery.close()
                self._nursery = None
                self._nursery = Nursery()
            fresh = self._nursery.fork()
            self._living = [one for one in self._living if not one.closed] + [fresh]
        return fresh

    def close(self) -> None:
        """End all processes; waits for items in progress."""
        for _ in range(self._size):
            worker = self._idle.get()
            if worker is not None:
                worker.kill()
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None
        for _ in range(self._size):
            self._idle.put(None)

    def abandon(self) -> None:
        """In a forked child: close the copies of the parent's sockets, so that its processes still see it end."""
        for worker in self._living:  # without locks: a thread that the child lacks may have held them
            worker.abandon()
        if self._nursery is not None:
            self._nursery.abandon()


def _verdict(reply: dict) -> Verdict:
    if "failed" in reply:
        raise GraderFailure(reply["failed"])
    return Verdict(reply["same"], reply["reason"])


_pools: list[GraderPool] = []


@cache
def shared_pool() -> GraderPool:
    """Return the pool of this process; it ends with the process."""
    pool = GraderPool(max(1, min(4, len(os.sched_getaffinity(0)))))
    _pools.append(pool)
    atexit.register(pool.close)
    return pool


def _after_fork() -> None:
    """A forked child has its own pools: its parent's sockets are not for it."""
    for pool in _pools:
        atexit.unregister(pool.close)
        pool.abandon()
    _pools.clear()
    shared_pool.cache_clear()


os.register_at_fork(after_in_child=_after_fork)
