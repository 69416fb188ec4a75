"""Engines and learners in processes of their own, without Ray: forked in no time, and they suffer whatever is asked.

Calls and answers are pickles on a socket pair. What a victim is told to suffer comes with the call in which it is to
happen, so it happens there: before the call is begun, or when it is done and the answer not sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import pickle
import signal
import socket
import struct
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.chaos.strikes import FREEZE_S, PAUSE_S, SLOW_S, Fault

HEAD = struct.Struct("!Q")
CLOSE_S = 1.0
"""Seconds that an engine has for closing, then it is killed; as ``rollout.engines.actor``, only shorter."""


@dataclass(frozen=True)
class Call:
    """A call on its way."""

    number: int
    method: str
    args: tuple[Any, ...]
    fault: Fault | None = None
    done: bool = False
    """Suffer it when the work is done."""
    version: int | None = None
    """Suffer it only when the answer has tokens of this version."""


@dataclass(frozen=True)
class Answer:
    """What came of it."""

    number: int
    good: bool
    value: Any
    struck: bool = False
    """Whether the fault came, which it outlived."""


def pack(message: object) -> bytes:
    data = pickle.dumps(message)
    return HEAD.pack(len(data)) + data


# ---- the victim's side ----


def thaw_in(seconds: float) -> None:
    """Let a child of this process send it SIGCONT then."""
    parent = os.getpid()
    if os.fork() == 0:
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            if os.getppid() == parent:
                os.kill(parent, signal.SIGCONT)
        os._exit(0)


def stand_still(seconds: float) -> None:
    """SIGSTOP for this process, and SIGCONT after so long."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    thaw_in(seconds)
    os.kill(os.getpid(), signal.SIGSTOP)


class Host:
    """Serves the methods of ``subject`` on a connection until that ends."""

    def __init__(self, connection: socket.socket, subject: Any) -> None:
        self.connection, self.subject = connection, subject
        self.delay = 0.0

    async def serve(self) -> None:
        """Answer every call, those of a coroutine function side by side."""
        reader, self.writer = await asyncio.open_connection(sock=self.connection)
        tasks = set()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (size,) = HEAD.unpack(await reader.readexactly(HEAD.size))
                call = pickle.loads(await reader.readexactly(size))
                task = asyncio.create_task(self.answer(call))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        if self.cut_off:
            await asyncio.sleep(3600)
        os._exit(0)

    cut_off = False

    async def answer(self, call: Call) -> None:
        """Do the call, and suffer what comes with it."""
        if call.fault and not call.done:
            self.suffer(call.fault)
        time.sleep(self.delay)
        try:
            value = getattr(self.subject, call.method)(*call.args)
            found = Answer(call.number, True, await value if inspect.isawaitable(value) else value)
        except Exception as error:  # noqa: BLE001 - the caller's
            found = Answer(call.number, False, error)
        if call.fault and call.done and self.meant(call, found.value):
            self.suffer(call.fault)
            found = replace(found, struck=True)
        if not self.cut_off:
            self.writer.write(pack(replace(found, struck=found.struck or bool(call.fault and not call.done))))

    def meant(self, call: Call, value: Any) -> bool:
        """Whether this is the answer that the fault was waiting for."""
        if call.version is None:
            return True
        return isinstance(value, list) and any(len(one.token_ids) and one.version == call.version for one in value)

    def suffer(self, fault: Fault) -> None:
        """The moment has come."""
        match fault:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "freeze":
                stand_still(FREEZE_S)
            case "pause":
                stand_still(PAUSE_S)
            case "slow":
                self.delay = SLOW_S
            case "cut":
                self.cut_off = True
                self.connection.shutdown(socket.SHUT_RDWR)
            case _:
                raise ValueError(f"no process suffers {fault!r}")


def build(kind: str, args: tuple[Any, ...]) -> Any:
    """Return what is to be hosted: an engine, or a learner that loads in ``ready``."""
    if kind == "engine":
        from rollout.engines.actor import build_engine

        return build_engine(*args)
    from rl.learner.host import LearnerRank

    return LearnerRank(*args)


class Nursery:
    """Forks hosts of engines and learners for a run: a process with one thread, which has imported what they need.

    ``address``: the Unix socket where it listens; each connection is a host.
    """

    def __init__(self, address: Path) -> None:
        self.address = address
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(address))
        listener.listen(64)
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            self._listen(listener)
        listener.close()

    def _listen(self, listener: socket.socket) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                self._host(connection)
            connection.close()

    def _host(self, connection: socket.socket) -> None:
        code = 1
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            (size,) = HEAD.unpack(connection.recv(HEAD.size, socket.MSG_WAITALL))
            kind, args = pickle.loads(connection.recv(size, socket.MSG_WAITALL))
            asyncio.run(Host(connection, build(kind, args)).serve())
            code = 0
        finally:
            os._exit(code)

    def close(self) -> None:
        """End it; its hosts end with their connections."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


# ---- the run's side ----


def connect(address: Path, kind: str, args: tuple[Any, ...]) -> tuple[socket.socket, int]:
    """Have a host made; returns the connection and its process."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(address))
    connection.sendall(pack((kind, args)))
    with contextlib.closing(socket.socket(fileno=os.dup(connection.fileno()))):
        pass
    pid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return connection, pid
