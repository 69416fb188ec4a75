"""One run in one slot, from its start to its outcome. Driven by the supervisor's loop; never waits for the program."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import struct
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from rewards.code.sandbox import spawn
from rewards.code.sandbox.backends import STATUS_FD, Backend
from rewards.code.sandbox.files import Place
from rewards.code.sandbox.groups import Group, asleep, kill_quietly
from rewards.code.types import Ending, Job, Outcome, ProgramMissing, SandboxFailure

_CHUNK = 1 << 18
_STATUS_CAP = 1 << 16
_LONGEST_PAUSE_S = 0.25
_POLLED_PAUSE_S = 0.02
_DEAD_WITHIN_S = 10.0
_SET_UP_WITHIN_S = 5.0
"""So long the kernel may take to make namespaces and mounts on a busy machine, and to read a program from a disk."""
_CORES = len(os.sched_getaffinity(0))


@dataclass
class Capture:
    """The supervisor's end of a pipe, and what came through it."""

    fd: int
    cap: int
    data: bytearray = field(default_factory=bytearray)
    overflow: bool = False
    closed: bool = False

    def read(self) -> None:
        """Take what is there. Past ``cap`` the rest is thrown away."""
        while not self.closed and not self.overflow:
            try:
                piece = os.read(self.fd, _CHUNK)
            except BlockingIOError:
                return
            if not piece:
                self.closed = True
                return
            room = self.cap - len(self.data)
            self.data += piece[:room]
            self.overflow = len(piece) > room

    def waiting(self) -> bool:
        """Return whether something is there that was not taken yet: who fills a pipe then waits for this process."""
        if self.closed or self.overflow:
            return False
        return struct.unpack("i", fcntl.ioctl(self.fd, termios.FIONREAD, bytes(4)))[0] > 0


@dataclass(frozen=True)
class Slot:
    """The state that runs of one slot share."""

    place: Place
    group: Group
    uid: int | None
    backend: Backend
    filter_path: str | None


def _pipe() -> tuple[int, int]:
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read, False)
    return read, write


class Run:
    """A program that runs. ``captures`` are to be watched for input, ``pidfd`` for its end."""

    def __init__(self, slot: Slot, job: Job, stdin: int) -> None:
        """Start it. Raises ``OSError`` when the machine refuses."""
        self.slot, self.job, self.limits = slot, job, job.limits
        self.killed: Ending | None = None
        self._top = 0
        self._uid = slot.uid if slot.uid is not None else os.geteuid()
        pipes = {target: _pipe() for target in ((1, 2, 3, STATUS_FD) if job.channel else (1, 2, STATUS_FD))}
        try:
            self._give(pipes)
            slot.group.prepare(job.limits)
            slot.place.create(job.files, job.limits, self._uid)
            start = self._start(stdin, pipes)
            self.started = time.monotonic()
            self.pid = os.fork()
        except OSError:
            for ends in pipes.values():
                os.close(ends[0])
                os.close(ends[1])
            slot.place.discard()
            raise
        if self.pid == 0:
            spawn.become(start)
        for _, write in pipes.values():
            os.close(write)
        self.pidfd = os.pidfd_open(self.pid)
        cap = job.limits.output_bytes
        self.captures = {
            target: Capture(read, _STATUS_CAP if target == STATUS_FD else cap) for target, (read, _) in pipes.items()
        }
        self._slept = self._cpu_before = 0.0
        self._checked = self.started
        self.next_check = self.started + 0.01

    def _give(self, pipes: Mapping[int, tuple[int, int]]) -> None:
        """Make the program the owner of its streams: only who may open a pipe can open /dev/stdout."""
        for target, (_, write) in pipes.items():
            if self.slot.uid is not None and target != STATUS_FD:
                os.fchown(write, self.slot.uid, self.slot.uid)

    def _start(self, stdin: int, pipes: Mapping[int, tuple[int, int]]) -> spawn.Start:
        slot = self.slot
        return spawn.Start(
            command=slot.backend.command(slot.place.root, self._uid, self.job),
            environment=slot.backend.outer,
            directory="/" if slot.backend.isolated else str(slot.place.root / "work"),
            uid=slot.uid,
            group=slot.group,
            limits=self.limits,
            fds={0: stdin} | {target: write for target, (_, write) in pipes.items()},
            filter_path=slot.filter_path,
            own_session=not slot.backend.isolated,
            supervisor=os.getpid(),
        )

    def on_input(self, target: int) -> None:
        """One of the pipes has something."""
        capture = self.captures[target]
        capture.read()
        if target == STATUS_FD and not self._top:
            top = self._status().get("child-pid", 0)
            if isinstance(top, int) and top:
                self._top = top
                self.slot.group.watch(top)
        elif capture.overflow:
            self.kill(Ending.OUTPUT)

    def check(self, now: float) -> None:
        """Compare use with limits, and say when to do so again."""
        used = self.slot.group.cpu_s()
        wall_left = self.started + self.limits.wall_s - now
        cpu_left = self.limits.cpu_s - used
        if self.slot.group.out_of_memory():
            self.kill(Ending.MEMORY)
        elif cpu_left < 0:
            self.kill(Ending.CPU)
        elif self._sleep_left(now, used) < 0:
            self.kill(Ending.SLEEP)
        elif wall_left < 0:
            self.kill(Ending.WALL)
        longest = _LONGEST_PAUSE_S if self.slot.group.counted else _POLLED_PAUSE_S
        pause = min(longest, max(0.005, min(wall_left, cpu_left / _CORES)))
        # at random: a program that knew the moment could be awake just then
        self.next_check = now + pause * random.uniform(0.5, 1.0)

    def _sleep_left(self, now: float, used: float) -> float:
        """Return the seconds that the program may still sleep. The time since the last look, less its CPU time, was
        slept when nothing of it runs or waits for a core now, and nothing that it wrote waits for this process. Waiting
        for the kernel is sleep too, once all is set up: a program can bring that about by itself, e.g. with vfork.
        """
        idle = now - self._checked - (used - self._cpu_before)
        self._checked, self._cpu_before = now, used
        awake = "R" if now - self.started > _SET_UP_WITHIN_S else "RD"
        if idle > 0 and asleep(self.slot.group.pids(), awake) and not any(map(Capture.waiting, self.captures.values())):
            self._slept += idle
        return self.limits.sleep_s - self._slept

    def kill(self, why: Ending) -> None:
        """End it; its exit is then noticed like any other."""
        if self.killed is None:
            self.killed = why
            kill_quietly(self.pid)
            if self._top:
                kill_quietly(self._top)

    def _status(self) -> dict[str, object]:
        """Return what the backend has reported so far: JSON documents, the last of them perhaps not complete."""
        text = self.captures[STATUS_FD].data.decode()
        said: dict[str, object] = {}
        while text := text.lstrip():
            try:
                document, end = json.JSONDecoder().raw_decode(text)
            except json.JSONDecodeError:
                break
            said |= document
            text = text[end:]
        return said

    def finish(self) -> Outcome:
        """Its outcome, once ``pidfd`` says that it has ended: nothing of it is left after this.

        Raises ``SandboxFailure`` when the backend failed, ``OSError`` when something cannot be cleared away.
        """
        try:
            _, status, usage = os.wait4(self.pid, 0)
            wall = time.monotonic() - self.started
            self.captures[STATUS_FD].read()
            said = self._status()
            if self.slot.backend.isolated:
                self._end_namespace(int(str(said.get("child-pid", 0))))
            self.slot.group.kill()
            for capture in self.captures.values():
                capture.read()
            ending, code = self._ending(said, os.waitstatus_to_exitcode(status))
            cpu = max(self.slot.group.cpu_s(), usage.ru_utime + usage.ru_stime)
            return Outcome(
                ending=ending,
                exit_code=code,
                stdout=bytes(self.captures[1].data),
                stderr=bytes(self.captures[2].data),
                channel=bytes(self.captures[3].data) if 3 in self.captures else b"",
                cpu_s=round(cpu, 6),
                wall_s=round(wall, 6),
                memory_bytes=self.slot.group.peak_bytes(),
                files=self.slot.place.collect(self.job.collect, self.limits.output_bytes),
            )
        finally:
            os.close(self.pidfd)
            for capture in self.captures.values():
                os.close(capture.fd)
            self.slot.place.discard()

    def _end_namespace(self, top: int) -> None:
        """The pid namespace's first process is dead, and with it, by the kernel's word, all others of the namespace.

        It is a child of this process by now, so that its number cannot have been given to another one.
        """
        deadline = time.monotonic() + _DEAD_WITHIN_S
        while top:
            try:
                if os.waitpid(top, os.WNOHANG)[0]:
                    return
            except ChildProcessError:
                return
            kill_quietly(top)
            if time.monotonic() > deadline:
                raise OSError(f"process {top} survives SIGKILL")
            time.sleep(0.0005)

    def _ending(self, said: dict[str, object], waited: int) -> tuple[Ending, int]:
        if "error" in said:
            if not self.slot.backend.isolated and str(said["error"]).startswith(
                ("FileNotFoundError", "PermissionError")
            ):
                raise ProgramMissing(f"{self.job.argv[0]} cannot be executed: {said['error']}")
            raise SandboxFailure(f"cannot start a program: {said['error']}")
        if any(self.captures[target].overflow for target in self.captures if target != STATUS_FD):
            return Ending.OUTPUT, 128 + signal.SIGKILL
        if self.killed is not None:
            return self.killed, 128 + signal.SIGKILL
        if self.slot.group.out_of_memory():
            return Ending.MEMORY, 128 + signal.SIGKILL
        exit_code = self.slot.backend.exit_code(said, waited)
        if exit_code is None:
            raise self._failure()
        if exit_code <= 128:
            return Ending.EXIT, exit_code
        timed_out = exit_code in (128 + signal.SIGXCPU, 128 + signal.SIGKILL)
        if timed_out and self.slot.group.cpu_s() >= self.limits.cpu_s:
            return Ending.CPU, exit_code
        return Ending.SIGNAL, exit_code

    def _failure(self) -> SandboxFailure:
        """Return the failure of a backend that ended without having run the program."""
        words = bytes(self.captures[2].data).decode(errors="replace").strip().splitlines()
        last = words[-1] if words else "it said nothing"
        if "execvp" in last:
            return ProgramMissing(f"{self.job.argv[0]} cannot be executed in the sandbox: {last.rpartition(': ')[2]}")
        return SandboxFailure(f"the sandbox did not start: {last}")
