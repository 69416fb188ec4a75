"""Lets the strikes of a plan come in a run's own process, each in its moment, and notes what was on disk by then."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rl.state.journal import Journal
from rollout.engine import Delta
from tests.chaos.ledger import take
from tests.chaos.strikes import DRIVER, FREEZE_S, JUMP_S, PAUSE_S, SLOW_S, Fault, Strike
from tests.processes import until_gone


class Doom:
    """The strikes that are still to come in one process of a run; ``notes``: the folder for ledgers."""

    freeze_s = FREEZE_S
    """How long the frozen are."""

    def __init__(self, strikes: Sequence[Strike], run_dir: Path, notes: Path) -> None:
        self.left = [*strikes]
        self.run_dir, self.notes = run_dir, notes
        self.pids: dict[str, list[int]] = {}
        """Processes of the run's victims, the newest last."""
        self.carried: dict[str, list[Fault]] = {}
        """Faults that the next call to a victim takes there."""
        self.delay = 0.0
        """What each moment of this process takes longer."""
        self._calls: Counter[tuple[str, bool]] = Counter()
        self._lock = threading.RLock()

    def ahead(self, moment: str, role: str) -> tuple[Fault, bool] | None:
        """Return what ``role`` itself is to suffer in its call that is about to be sent, and whether when its work is
        done.
        """
        with self._lock:
            number = self._calls[moment, False] + 1
            now = [one for one in self.left if (one.victim, one.moment, one.number) == (role, moment, number)]
        for strike in now:
            self.over(strike)
            return strike.fault, strike.done
        carried = self.carried.get(role)
        return (carried.pop(0), False) if carried else None

    def come(self, moment: str, done: bool) -> None:
        """Count one more call of ``moment``, before it or when it is done, and strike whoever is to be struck."""
        with self._lock:
            self._calls[moment, done] += 1
            this = (moment, self._calls[moment, done], done)
            now = [one for one in self.left if (one.moment, one.number, one.done) == this]
        for strike in now:
            self.over(strike)
            self.suffer(strike)
        time.sleep(self.delay)

    def reach(self, moment: str, number: int, done: bool) -> None:
        """A moment has come that has its number from elsewhere."""
        for strike in [one for one in self.left if (one.moment, one.number, one.done) == (moment, number, done)]:
            self.over(strike)
            self.suffer(strike)

    def expected(self, moment: str) -> Strike | None:
        """Return the next strike of a moment that the victim itself recognises."""
        return next((one for one in self.left if one.moment == moment), None)

    def over(self, strike: Strike) -> None:
        """It comes now, or has come: a ledger is taken."""
        with self._lock:
            if strike in self.left:
                self.left.remove(strike)
                take(self.run_dir, self.notes / f"{len(list(self.notes.iterdir())):02d}", str(strike))

    def suffer(self, strike: Strike) -> None:
        """Do to a victim what this process can do to it."""
        match strike.victim, strike.fault:
            case "driver", _:
                self._driver(strike.fault)
            case "disk", "fill":
                fill(self.run_dir)
            case "clock", ("forwards" | "backwards"):
                jump(JUMP_S if strike.fault == "forwards" else -JUMP_S)
            case _, "kill":
                kill(self.victims(strike.victim))
            case _, ("freeze" | "pause"):
                self.stand_still(self.victims(strike.victim), strike.fault)
            case _:
                self.carried.setdefault(strike.victim, []).append(strike.fault)

    def stand_still(self, pids: Sequence[int], fault: Fault) -> None:
        """SIGSTOP for processes, and SIGCONT after a while for those that are still there."""
        handles = [os.pidfd_open(pid) for pid in pids]
        for handle in handles:
            signal.pidfd_send_signal(handle, signal.SIGSTOP)
        timer = threading.Timer(self.freeze_s if fault == "freeze" else PAUSE_S, thaw, [handles])
        timer.daemon = True
        timer.start()

    def _driver(self, fault: Fault) -> None:
        match fault:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "freeze" | "pause":  # whoever has started this process lets it go on
                os.kill(os.getpid(), signal.SIGSTOP)
            case "slow":
                self.delay = SLOW_S
            case "cut":
                hang_up()
            case _:
                raise ValueError(f"the driver does not suffer {fault!r}")

    def victims(self, name: str) -> list[int]:
        """Return the processes that go by this name, the newest of each kind."""
        match name:
            case "worker":
                from rewards.math.pool import shared_pool

                return [one.pid for one in shared_pool()._living if not one.closed]
            case "nursery":
                from rewards.math.pool import shared_pool

                nursery = shared_pool()._nursery
                return [nursery.process.pid] if nursery is not None else []
            case "sandbox":
                from rewards.code.sandbox import shared_sandbox

                return [shared_sandbox().supervisor_pid]
            case _:
                return self.pids[name][-1:]


def kill(pids: Sequence[int]) -> None:
    """SIGKILL, and wait for their end."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until_gone(pids)


def thaw(handles: Sequence[int]) -> None:
    """SIGCONT for the processes of these handles that are still there."""
    for handle in handles:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGCONT)
        os.close(handle)


FILLER = "filler"


def fill(run_dir: Path) -> None:
    """Leave no byte on the file system of the run, which is its own: a file beside it takes them all."""
    if not os.path.ismount(run_dir.parent):
        raise RuntimeError(f"{run_dir.parent} is no disk of the run's own")
    handle = os.open(run_dir.parent / FILLER, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for size in (65536, 4096, 256, 1):
        try:
            while True:
                os.write(handle, bytes(size))
        except OSError:
            continue
    os.close(handle)


def hang_up() -> None:
    """Put a pipe that nobody reads in the place of the terminal."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    os.close(writer)


def jump(seconds: float) -> None:
    """Set this process's wall clock forwards or backwards."""
    clock, clock_ns = time.time, time.time_ns
    time.time = lambda: clock() + seconds
    time.time_ns = lambda: clock_ns() + int(seconds * 1e9)


OURS = {"evals", "recipes", "rewards", "rl", "rollout", "tests"}
"""Packages that may have imported what is watched."""


def install(doom: Doom) -> None:
    """Let ``doom`` see every moment of this process."""
    watch_tokens(doom)
    for moment, where in DRIVER.items():
        module, _, path = where.partition(":")
        owner: Any = importlib.import_module(module)
        *way, last = path.split(".")
        for name in way:
            owner = getattr(owner, name)
        original = getattr(owner, last)
        seen = watched(doom, moment, original)
        setattr(owner, last, seen)
        if not way:  # others have imported it by name
            for other in [each for name, each in sys.modules.items() if name.partition(".")[0] in OURS]:
                for name, value in [*vars(other).items()]:
                    if value is original:
                        setattr(other, name, seen)


def watch_tokens(doom: Doom) -> None:
    """Make a moment of the first tokens of each version."""
    append = Journal.append

    def seen(self: Journal, deltas: Sequence[Delta]) -> None:
        versions = sorted({delta.version for delta in deltas if len(delta.token_ids)})
        for version in versions:
            doom.reach("tokens", version, False)
        append(self, deltas)
        for version in versions:
            doom.reach("tokens", version, True)

    Journal.append = seen  # type: ignore[method-assign]


def watched(doom: Doom, moment: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``call`` as a moment."""

    @functools.wraps(call)
    def seen(*args: Any, **named: Any) -> Any:
        doom.come(moment, False)
        value = call(*args, **named)
        doom.come(moment, True)
        return value

    return seen
