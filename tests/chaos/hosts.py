"""The processes of engines and learners, without Ray: forked in no time, and they suffer whatever a call brings them.

The fault comes in the call itself: before its work is begun, or when it is done and the answer not sent yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import inspect
import os
import pickle
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from rollout.engine import Delta
from tests.chaos.strikes import FREEZE_S, PAUSE_S, SLOW_S, Fault
from tests.chaos.wire import HEAD, Answer, Call, pack, unpack

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have this process end when the one that has forked it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def stand_still(seconds: float) -> None:
    """SIGSTOP for this process; a child sends it SIGCONT after so long."""
    parent = os.getpid()
    thawer = os.fork()
    if thawer == 0:
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            if os.getppid() == parent:
                os.kill(parent, signal.SIGCONT)
        os._exit(0)
    os.kill(parent, signal.SIGSTOP)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(thawer, 0)


class Host:
    """Serves the methods of ``subject`` on a connection until that ends, coroutines side by side."""

    def __init__(self, connection: socket.socket, subject: Any) -> None:
        self.connection, self.subject = connection, subject
        self.delay = 0.0
        self.cut_off = False

    async def serve(self) -> None:
        """Answer calls; returns when the other side is gone."""
        reader, self.writer = await asyncio.open_connection(sock=self.connection)
        tasks: set[asyncio.Task[None]] = set()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (size,) = HEAD.unpack(await reader.readexactly(HEAD.size))
                task = asyncio.create_task(self.answer(pickle.loads(await reader.readexactly(size))))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        if self.cut_off:
            await asyncio.Event().wait()  # it lives: whoever has lost it has to end it

    async def answer(self, call: Call) -> None:
        """Do what is asked for, and suffer what comes with it."""
        struck = call.fault is not None and not call.done
        if struck:
            self.suffer(call.fault)
        time.sleep(self.delay)
        try:
            value = getattr(self.subject, call.method)(*call.args)
            good, value = True, await value if inspect.isawaitable(value) else value
        except Exception as error:  # noqa: BLE001 - the caller's
            good, value = False, error
        if call.fault is not None and call.done and meant(call, value):
            struck = True
            if call.part:
                self.writer.write(pack(Answer(call.number, good, [first_token(one) for one in value], struck)))
                await self.writer.drain()
            self.suffer(call.fault)
        if not self.cut_off and not (struck and call.part):
            self.writer.write(pack(Answer(call.number, good, value, struck)))

    def suffer(self, fault: Fault | None) -> None:
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


def meant(call: Call, value: Any) -> bool:
    """Return whether this is the answer that the call's fault was waiting for."""
    return call.version is None or any(len(one.token_ids) and one.version == call.version for one in value)


def first_token(delta: Delta) -> Delta:
    """Return the beginning of a piece of progress; an end comes with its token."""
    if len(delta.token_ids) < 2:
        return delta
    return replace(delta, token_ids=delta.token_ids[:1], logprobs=delta.logprobs[:1], done=False, stop=None)


def build(kind: str, args: tuple[Any, ...]) -> Any:
    """Return what is to be hosted: an engine, or a learner that loads in ``ready``."""
    if kind == "engine":
        from rollout.engines.actor import build_engine

        return build_engine(*args)
    from rl.learner.host import LearnerRank

    return LearnerRank(*args)


class Nursery:
    """A process of one thread that forks hosts for a run, with everything imported that they need.

    ``address``: the Unix socket where it listens; each connection to it is a host's.
    """

    def __init__(self, address: Path) -> None:
        self.address = address
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(address))
        listener.listen(64)
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            die_with_parent()
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            while True:
                connection, _ = listener.accept()
                if os.fork() == 0:
                    listener.close()
                    host(connection)
                connection.close()
        listener.close()

    def close(self) -> None:
        """End it; its hosts end with their connections."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def host(connection: socket.socket) -> NoReturn:
    """Be what the connection asks for first; the first answer is this process's id."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        kind, args = unpack(connection.recv)
        connection.sendall(pack(os.getpid()))
        asyncio.run(Host(connection, build(kind, args)).serve())
        code = 0
    finally:
        os._exit(code)
