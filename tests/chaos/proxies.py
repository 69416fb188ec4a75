"""Engines and learners in processes without Ray, as the run sees them: what fails is named as Ray's proxies name it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pickle
import signal
import socket
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from rl.actors import LearnerDead
from rl.learner.spec import LearnerSpec, Receivers
from rollout.config import EngineConfig
from rollout.engine import Delta, EngineDead, EngineError, EngineStats, EngineTimeout, Request, WeightUpdate
from rollout.models.attention import AttentionConfig
from tests.chaos.doom import Doom
from tests.chaos.strikes import Strike
from tests.chaos.wire import HEAD, Answer, Call, pack, unpack
from tests.processes import until_gone

CLOSE_S = 1.0
"""Seconds that an engine has for closing before it is killed."""
LOAD_S = 600.0
"""Limit for loading a model; bounds hangs only."""


def connect(address: Path, kind: str, args: tuple[Any, ...]) -> tuple[socket.socket, int]:
    """Have a host made; returns the connection to it and its process."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(address))
    connection.sendall(pack((kind, args)))
    return connection, unpack(connection.recv)


def stopped(pid: int) -> bool:
    """Return whether a process was stopped by a signal."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False


def end(pid: int) -> None:
    """SIGKILL, which the frozen heed, too."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    until_gone([pid])


def marked(doom: Doom, role: str, method: str, args: tuple[Any, ...]) -> tuple[Call, Strike | None]:
    """Return the call with what its receiver is to suffer in it, and the strike that only the receiver recognises."""
    call, own = Call(method, args), doom.ahead(f"{role}.{method}", role)
    doom.come(f"{role}.{method}", False)
    if own is not None:
        return replace(call, fault=own[0], done=own[1]), None
    for part in (False, True) if method == "poll" else ():
        if strike := doom.expected("engine.part" if part else "engine.tokens"):
            return replace(call, fault=strike.fault, done=True, version=strike.number, part=part), strike
    return call, None


class ProcessEngine:
    """An engine in a process of its own, as ``RayEngine``."""

    takes_in_flight = False

    def __init__(
        self,
        address: Path,
        doom: Doom,
        path: str,
        config: EngineConfig,
        seed: int,
        attention: AttentionConfig | None,
    ) -> None:
        self.address, self.doom = address, doom
        self.arguments = (path, config, seed, attention)
        self.limit = config.call_timeout_s
        self.pid = 0
        self._numbers = itertools.count()
        self._open: dict[int, asyncio.Future[Answer]] = {}
        self._gone = "not started"

    async def start(self) -> None:
        """See ``Engine``."""
        connection, self.pid = connect(self.address, "engine", self.arguments)
        self.doom.pids.setdefault("engine", []).append(self.pid)
        connection.setblocking(False)
        self._reader, self._writer = await asyncio.open_connection(sock=connection)
        self._gone = ""
        self._listener = asyncio.create_task(self._listen())
        await self._call("start", limit=LOAD_S)

    async def _listen(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (size,) = HEAD.unpack(await self._reader.readexactly(HEAD.size))
                answer: Answer = pickle.loads(await self._reader.readexactly(size))
                if (waiting := self._open.pop(answer.number, None)) and not waiting.done():
                    waiting.set_result(answer)
        self._gone = "engine process died"
        for waiting in self._open.values():
            if not waiting.done():
                waiting.set_exception(EngineDead(self._gone))

    async def _call(self, method: str, *args: Any, limit: float | None = None) -> Any:
        if self._gone:
            raise EngineDead(f"{self._gone}: {method}")
        call, strike = marked(self.doom, "engine", method, args)
        number = next(self._numbers)
        waiting = self._open[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(pack(replace(call, number=number)))
            answer = await asyncio.wait_for(waiting, limit or self.limit)
        except TimeoutError as error:
            raise EngineTimeout(f"engine process did not answer {method} in time") from error
        finally:
            if strike is not None and (self._gone or stopped(self.pid)):
                self.doom.over(strike)
        if strike is not None and answer.struck:
            self.doom.over(strike)
        self.doom.come(f"engine.{method}", True)
        if not answer.good:
            raise answer.value if isinstance(answer.value, EngineError | ValueError) else EngineDead(str(answer.value))
        return answer.value

    async def submit(self, requests: Sequence[Request]) -> None:
        """See ``Engine``."""
        await self._call("submit", list(requests))

    async def poll(self, wait_s: float) -> list[Delta]:
        """See ``Engine``."""
        return await self._call("poll", wait_s, limit=wait_s + self.limit)

    async def abort(self, keys: Sequence[str]) -> None:
        """See ``Engine``."""
        await self._call("abort", list(keys))

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See ``Engine``."""
        return await self._call("score", sequences)

    async def update_weights(self, update: WeightUpdate) -> None:
        """See ``Engine``."""
        await self._call("update_weights", update)

    async def stats(self) -> EngineStats:
        """See ``Engine``."""
        return await self._call("stats")

    async def sleep(self, level: int) -> None:
        """See ``Engine``."""
        await self._call("sleep", level)

    async def wake(self) -> None:
        """See ``Engine``."""
        await self._call("wake")

    async def close(self) -> None:
        """See ``Engine``."""
        if not self.pid:
            return
        with contextlib.suppress(EngineError):
            await self._call("close", limit=CLOSE_S)
        pid, self.pid = self.pid, 0
        end(pid)
        self._writer.close()
        self._gone = "closed"
        self._listener.cancel()


class ProcessPolicy:
    """A learner in a process of its own, as ``RayPolicy``: one call at a time, each with a limit and a named error."""

    def __init__(self, address: Path, doom: Doom, receivers: Receivers, spec: LearnerSpec, path: Any) -> None:
        self.address, self.doom, self.receivers = address, doom, receivers
        self.pid = 0
        self.limit = spec.learner.timeout_s
        self._lock = threading.Lock()
        self._start(spec, path)

    def _start(self, spec: LearnerSpec, path: Any) -> None:
        self._connection, self.pid = connect(self.address, "learner", (spec, path, self.receivers))
        self.doom.pids.setdefault("learner", []).append(self.pid)
        self._call("ready", limit=LOAD_S)

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)
        return lambda *args: self._call(method, *args)

    def replace(self, spec: LearnerSpec, path: Any) -> None:
        """See ``RayPolicy``."""
        if self.pid:
            self._call("replace", spec, path, limit=LOAD_S)
        else:
            self._start(spec, path)

    def _call(self, method: str, *args: Any, limit: float | None = None) -> Any:
        with self._lock:
            if not self.pid:
                raise LearnerDead("the learner has ended; the same command resumes the run")
            call, _ = marked(self.doom, "learner", method, args)
            self._connection.settimeout(limit or self.limit)
            try:
                self._connection.sendall(pack(call))
                answer: Answer = unpack(self._connection.recv)
            except (OSError, EOFError) as error:
                self.end()
                how = f"did not finish {method}" if isinstance(error, TimeoutError) else f"died during {method}"
                raise LearnerDead(f"the learner process {how}; the same command resumes the run") from error
            self.doom.come(f"learner.{method}", True)
        if not answer.good:
            raise answer.value
        return answer.value

    def end(self) -> None:
        """End the process."""
        pid, self.pid = self.pid, 0
        if pid:
            self._connection.close()
            end(pid)
