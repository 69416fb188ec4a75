"""The supervisor: a small single-threaded process that starts, watches and clears away every sandboxed program.

It is the parent of all of them (a subreaper, so that no orphan escapes), owns slots, groups and mounts, and ends with
the process that started it. Clients reach it through one socket per slot.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from functools import partial

from rewards.code.sandbox import system, wire
from rewards.code.sandbox.run import Run, Slot
from rewards.code.types import Ending, Job, ProgramMissing, SandboxFailure


class Supervisor:
    """Slots, their connections and what runs in them."""

    def __init__(self, slots: list[Slot], connections: list[socket.socket], path: str) -> None:
        self.slots, self.connections, self.path = slots, connections, path
        self.runs: dict[int, Run] = {}
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self.closing = False
        for index, connection in enumerate(connections):
            self._watch(connection.fileno(), partial(self._on_request, index))

    def _watch(self, fd: int, handler: Callable[[], None]) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN)

    def _forget(self, fd: int) -> None:
        if self._handlers.pop(fd, None):
            self._epoll.unregister(fd)

    def serve(self, parent: int) -> None:
        """Until the client closes a connection or dies (``parent`` is its pidfd)."""
        self._watch(parent, self._close)
        while not self.closing:
            now = time.monotonic()
            for run in self.runs.values():
                if run.next_check <= now:
                    run.check(now)
            pause = min((run.next_check - now for run in self.runs.values()), default=None)
            ready = self._epoll.poll(None if pause is None else max(0.0, pause))
            for fd, handler in [(fd, self._handlers[fd]) for fd, _ in ready]:
                # one of the handlers before may have closed this descriptor, and another been given its number since:
                # a run that is thought to have ended would then be waited for until it does
                if self._handlers.get(fd) is handler:
                    handler()

    def _close(self) -> None:
        self.closing = True

    def _on_request(self, index: int) -> None:
        try:
            fds = wire.receive(self.connections[index])
        except ConnectionResetError:
            fds = []
        if not fds:
            self.closing = True
            return
        try:
            self._start(index, *fds)
        except ProgramMissing as failure:
            self._reply(index, wire.pack_failure("ProgramMissing", str(failure)))
        except (SandboxFailure, OSError, ValueError) as failure:
            self._reply(index, wire.pack_failure("SandboxFailure", str(failure)))
        finally:
            for fd in fds:
                os.close(fd)

    def _start(self, index: int, request: int, stdin: int) -> None:
        job = wire.unpack_job(request)
        slot = self.slots[index]
        if slot.backend.isolated:
            self._check_program(job)
        run = Run(slot, job, stdin)
        self.runs[index] = run
        for target, capture in run.captures.items():
            self._watch(capture.fd, partial(self._on_input, run, target))
        self._watch(run.pidfd, partial(self._on_end, index))

    def _check_program(self, job: Job) -> None:
        program = job.argv[0]
        if ("/" in program and not program.startswith("/")) or program.startswith(f"{system.DIRECTORY}/"):
            return  # one of the job's own files
        if not system.find(program, self.path):
            raise ProgramMissing(f"{program} is not installed in the sandbox (PATH there is {self.path})")

    def _on_input(self, run: Run, target: int) -> None:
        run.on_input(target)
        capture = run.captures[target]
        if capture.closed or capture.overflow:
            self._forget(capture.fd)

    def _on_end(self, index: int) -> None:
        run = self.runs.pop(index)
        for fd in (run.pidfd, *(capture.fd for capture in run.captures.values())):
            self._forget(fd)
        try:
            reply = wire.pack_outcome(run.finish())
        except ProgramMissing as failure:
            reply = wire.pack_failure("ProgramMissing", str(failure))
        except (SandboxFailure, OSError) as failure:
            reply = wire.pack_failure("SandboxFailure", str(failure))
        self._reap()
        self._reply(index, reply)

    def _reap(self) -> None:
        """Collect orphans, which nobody else waits for."""
        ours = {run.pid for run in self.runs.values()}
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in ours:
                return
            os.waitpid(found.si_pid, 0)

    def _reply(self, index: int, fd: int) -> None:
        try:
            wire.send(self.connections[index], [fd])
        except OSError:
            self.closing = True
        finally:
            os.close(fd)

    def close(self) -> None:
        """End what still runs."""
        for run in self.runs.values():
            run.kill(Ending.WALL)
            try:
                run.finish()
            except (SandboxFailure, OSError):
                continue  # nobody is left to tell
