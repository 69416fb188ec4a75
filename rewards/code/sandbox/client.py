"""The sandbox as its users see it: any thread asks for a run and gets its outcome."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from rewards.code.sandbox import wire
from rewards.code.sandbox.boot import Plan
from rewards.code.sandbox.cgroups import sweep_everywhere
from rewards.code.sandbox.files import relative_problem
from rewards.code.types import Job, Outcome, ProgramMissing, SandboxFacts, SandboxFailure

_PROGRAMS = {"bubblewrap": "bwrap", "crun": "crun"}
BACKENDS = ("auto", "bubblewrap", "crun", "unsafe")
_REPOSITORY = Path(__file__).resolve().parents[3]
_START_WITHIN_S = 60.0
_GRACE_S = 60.0
"""Beyond a run's wall limit; a supervisor that is silent for longer is replaced."""
_STOP_WITHIN_S = 30.0
_CODE = "import sys; sys.path.insert(0, sys.argv.pop(1)); from rewards.code.sandbox.boot import main; main()"


class _SupervisorEnded(SandboxFailure):
    """It ended while it had a job, which was not at fault: no program reaches it."""


class _Process:
    """One supervisor process and its connections."""

    def __init__(self, backend: str, program: str, slots: int) -> None:
        """Raises ``SandboxFailure`` when it cannot serve."""
        self.broken = False
        self._users = 0
        self._left = threading.Condition()
        self._errors = os.fdopen(os.memfd_create("k15-supervisor"), "w+b")
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(slots)]
        self.connections = [ours for ours, _ in pairs]
        theirs = [other for _, other in pairs]
        plan = Plan(backend, program, sys.base_prefix, _hidden(), [other.fileno() for other in theirs])
        self._popen = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _CODE, str(_REPOSITORY), json.dumps(asdict(plan)), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            pass_fds=plan.fds,
            start_new_session=True,
            cwd="/",
            env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
        )
        for other in theirs:
            other.close()
        self.facts = self._greeting()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def alive(self) -> bool:
        """Return whether it can serve."""
        return not self.broken and self._popen.poll() is None

    def _greeting(self) -> SandboxFacts:
        try:
            header, _ = wire.unpack(self._message(0, _START_WITHIN_S))
        except SandboxFailure:
            self.stop()
            raise
        if "failure" in header:
            self.stop()
            raise SandboxFailure(f"sandbox: {header['failure']}")
        facts = header["facts"]
        return SandboxFacts(**(facts | {"degraded": tuple(facts["degraded"])}))

    def ask(self, index: int, job: Job) -> Outcome:
        """Run a job in a slot. Raises ``SandboxFailure``."""
        with self._left:
            self._users += 1
        try:
            return self._ask(index, job)
        finally:
            with self._left:
                self._users -= 1
                self._left.notify_all()

    def _ask(self, index: int, job: Job) -> Outcome:
        request, stdin = wire.pack_job(job), wire.sealed(job.stdin)
        try:
            wire.send(self.connections[index], [request, stdin])
        except OSError as error:
            self.broken = True
            raise _SupervisorEnded(f"sandbox: {self._why()}") from error
        finally:
            os.close(request)
            os.close(stdin)
        fd = self._message(index, job.limits.wall_s + _GRACE_S)
        try:
            reply = wire.unpack_reply(fd)
        finally:
            os.close(fd)
        if isinstance(reply, Outcome):
            return reply
        kind, message = reply
        raise (ProgramMissing if kind == ProgramMissing.__name__ else SandboxFailure)(f"sandbox: {message}")

    def _message(self, index: int, within_s: float) -> int:
        connection = self.connections[index]
        connection.settimeout(within_s)
        try:
            fds = wire.receive(connection)
        except TimeoutError as error:
            self.broken = True
            self._popen.kill()
            raise SandboxFailure(f"sandbox: its supervisor was silent for {within_s:.0f} s") from error
        except OSError:
            fds = []
        if not fds:
            self.broken = True
            raise _SupervisorEnded(f"sandbox: {self._why()}")
        return fds[0]

    def _why(self) -> str:
        try:
            code = self._popen.wait(5)
        except subprocess.TimeoutExpired:
            return "its supervisor closed the connection"
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"its supervisor ended (exit {code}{', ' + said[-1] if said else ''})"

    def stop(self) -> None:
        """End it and all that it runs; threads that wait for an outcome get ``SandboxFailure``."""
        for connection in self.connections:
            with contextlib.suppress(OSError):  # the other side may be gone
                connection.shutdown(socket.SHUT_RDWR)
        try:
            self._popen.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        if self._popen.returncode:
            sweep_everywhere()
        with self._left:  # a descriptor must not be closed, and its number given away, while a thread reads from it
            self._left.wait_for(lambda: self._users == 0)
        for connection in self.connections:
            connection.close()
        self._errors.close()


def _hidden() -> list[str]:
    """Directories that no program may see, should they lie inside of what is shown."""
    places = [str(_REPOSITORY), os.path.expanduser("~"), os.environ.get("K15_DATA", "")]
    return [os.path.realpath(place) for place in places if os.path.isabs(place)]


class Sandbox:
    """Runs programs in isolation, up to ``slots`` at one time. Safe to use from any thread; close it when done."""

    def __init__(self, backend: str, program: str, slots: int) -> None:
        self._arguments = (backend, program, slots)
        self._lock = threading.Lock()
        self._closed = False
        self._idle: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in range(slots):
            self._idle.put(index)
        self.owner = os.getpid()
        self._process = _Process(*self._arguments)
        self.restarts = 0

    def run(self, job: Job) -> Outcome:
        """Run one program, after waiting for a free slot, in a place that nobody used before and nobody will use again.

        One whose supervisor ended is run a second time, by another supervisor. Raises ``ProgramMissing`` when
        ``argv[0]`` is not there, ``SandboxFailure`` when the sandbox failed, and ``ValueError`` for a path that is not
        relative.
        """
        for path in (*job.files, *job.collect):
            problem = relative_problem(path)
            if problem:
                raise ValueError(f"a job's file {path!r} {problem}")
        if not job.argv or any("\0" in word for word in job.argv):
            raise ValueError("a job's argv must have words, without NUL")
        if os.getpid() != self.owner:
            raise SandboxFailure("sandbox: opened by another process; a forked one has to open its own")
        index = self._idle.get()
        try:
            try:
                return self._live().ask(index, job)
            except _SupervisorEnded:  # nothing of the first run is left: its programs have ended, too
                return self._live().ask(index, job)
        finally:
            self._idle.put(index)

    def _live(self) -> _Process:
        """Return the supervisor; a new one when the last has died."""
        with self._lock:
            if self._closed:
                raise SandboxFailure("sandbox: closed")
            if not self._process.alive():
                self._process.stop()
                self._process = _Process(*self._arguments)
                self.restarts += 1
            return self._process

    @property
    def supervisor_pid(self) -> int:
        """Process id of the supervisor."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the supervisor lives; the next run replaces one that does not."""
        return not self._closed and self._process.alive()

    def describe(self) -> SandboxFacts:
        """Return what is enforced here, and by what."""
        return self._process.facts

    def close(self) -> None:
        """End all runs; their callers get ``SandboxFailure``. Does nothing in a forked child of the owner."""
        if os.getpid() != self.owner:
            return
        with self._lock:
            if not self._closed:
                self._closed = True
                self._process.stop()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_sandbox(kind: str = "auto", slots: int | None = None) -> Sandbox:
    """Return a sandbox; ``slots`` defaults to the number of cores.

    ``auto`` takes the first of bubblewrap and crun that works and never ``unsafe``, which must be asked for. Raises
    ``SandboxFailure`` that says what is missing and what to do.
    """
    if kind not in BACKENDS:
        raise ValueError(f"no sandbox {kind!r}: one of {', '.join(BACKENDS)}")
    count = slots or len(os.sched_getaffinity(0))
    failures = []
    for backend in ("bubblewrap", "crun") if kind == "auto" else (kind,):
        try:
            return _open(backend, count)
        except SandboxFailure as failure:
            failures.append(str(failure))
    raise SandboxFailure("; ".join(failures))


def _open(backend: str, slots: int) -> Sandbox:
    """Return a sandbox of one kind that has run a program."""
    program = ""
    if backend != "unsafe":
        found = shutil.which(_PROGRAMS[backend])
        if found is None:
            raise SandboxFailure(f"sandbox: {backend} is not installed: sudo apt-get install {backend}")
        program = os.path.realpath(found)
    sandbox = Sandbox(backend, program, slots)
    try:
        outcome = sandbox.run(Job(argv=("true",)))
    except SandboxFailure:
        sandbox.close()
        raise
    if not outcome.ok:
        sandbox.close()
        raise SandboxFailure(f"sandbox: {backend} does not work here: {outcome}")
    return sandbox


_shared_lock = threading.Lock()
_shared: list[Sandbox] = []


def shared_sandbox() -> Sandbox:
    """This process's sandbox, opened when first asked for and closed at exit; a forked child gets one of its own.

    $K15_SANDBOX names another kind than ``auto``. Raises ``SandboxFailure``.
    """
    with _shared_lock:
        if _shared and _shared[0].owner != os.getpid():
            _shared.clear()
        if not _shared:
            _keep(open_sandbox(os.environ.get("K15_SANDBOX", "auto")))
        return _shared[0]


def share(sandbox: Sandbox) -> None:
    """Make ``sandbox`` this process's own, closed at exit. Raises ``RuntimeError`` when there is one already."""
    with _shared_lock:
        if _shared and _shared[0].owner == os.getpid():
            raise RuntimeError("this process shares a sandbox already")
        _keep(sandbox)


def _keep(sandbox: Sandbox) -> None:
    _shared[:] = [sandbox]
    atexit.register(sandbox.close)
