"""Limits and usage of one slot's processes together: the interface, and an implementation without control groups."""

from __future__ import annotations

import errno
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

from rewards.code.types import Limits

OWN_PROCESSES = 2
"""bubblewrap's monitor and the first process of the pid namespace, which count beside the program's own."""
_GONE_WITHIN_S = 10.0
_SETTLED_WITHIN_S = 5.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Group(ABC):
    """One slot's processes. Used by one run after the other."""

    counted: bool
    """Whether the kernel counts memory and processes of all of them together."""

    @abstractmethod
    def prepare(self, limits: Limits) -> None:
        """Set the limits of the next run and start its counts at zero."""

    @abstractmethod
    def enter(self) -> None:
        """Put the calling process in; called before it gives up the supervisor's rights."""

    @abstractmethod
    def watch(self, pid: int) -> None:
        """Learn the run's topmost process once it is known."""

    @abstractmethod
    def cpu_s(self) -> float:
        """CPU seconds of the run so far."""

    @abstractmethod
    def out_of_memory(self) -> bool:
        """Return whether the run has met its memory limit and lost a process for it, or (polled) is above it now."""

    @abstractmethod
    def peak_bytes(self) -> int | None:
        """Largest memory of the run so far; ``None`` when not known."""

    @abstractmethod
    def pids(self) -> list[int]:
        """Processes that are alive."""

    @abstractmethod
    def remove(self) -> None:
        """Give everything back; no process is left inside."""

    def kill(self) -> None:
        """End every process. Raises ``OSError`` when one survives."""
        deadline = time.monotonic() + _GONE_WITHIN_S
        while pids := self.pids():
            for pid in pids:
                kill_quietly(pid)
            if time.monotonic() > deadline:
                raise OSError(f"processes {pids[:5]} survive SIGKILL")
            time.sleep(0.001)


def kill_quietly(pid: int) -> None:
    """SIGKILL, to a process that may be gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def set_value(path: Path, value: str) -> None:
    """Write a control file. Raises ``OSError`` that names it, which the kernel's answer to a write does not.

    EBUSY says that a limit is below what is in use and that nothing could be reclaimed just then. No process is left in
    a group between two runs, so that what is in use is page cache, which may be busy for a moment, not for good.
    """
    deadline = time.monotonic() + _SETTLED_WITHIN_S
    while True:
        try:
            path.write_text(value)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise OSError(error.errno, error.strerror, str(path)) from error
        else:
            return
        time.sleep(0.002)


class Polled(Group):
    """No control groups: the supervisor looks through /proc at intervals. Between two looks a program may overshoot."""

    counted = False

    def __init__(self) -> None:
        self._top = 0
        self._memory_limit = 0
        self._cpu = 0.0
        self._peak = 0
        self._over = False

    def prepare(self, limits: Limits) -> None:
        self._top, self._cpu, self._peak, self._over = 0, 0.0, 0, False
        self._memory_limit = limits.memory_bytes

    def enter(self) -> None:
        """Nothing to enter."""

    def watch(self, pid: int) -> None:
        self._top = pid

    def look(self) -> None:
        """Add up what the processes use now."""
        cpu, resident = 0.0, 0
        pids = self.pids()
        for pid in pids:
            usage = _usage(pid)
            cpu, resident = cpu + usage[0], resident + usage[1]
        if resident > self._memory_limit:  # perhaps only because pages shared after a fork count for each process
            resident = sum(map(_proportional, pids))
        self._cpu, self._peak = max(self._cpu, cpu), max(self._peak, resident)
        self._over = self._over or resident > self._memory_limit

    def cpu_s(self) -> float:
        self.look()
        return self._cpu

    def out_of_memory(self) -> bool:
        return self._over

    def peak_bytes(self) -> int | None:
        return self._peak or None

    def pids(self) -> list[int]:
        return [*descendants(self._top)] if self._top else []

    def remove(self) -> None:
        """Nothing to give back."""


def _usage(pid: int) -> tuple[float, int]:
    """CPU seconds (with those of children it waited for) and resident bytes of one process; zeros when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0, 0
    return sum(map(int, fields[11:15])) / _TICKS, int(fields[21]) * _PAGE


def _proportional(pid: int) -> int:
    """Resident bytes of one process, shared pages divided among those that share them; slow. 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)


def asleep(pids: Iterable[int], awake: str = "R") -> bool:
    """Return whether no thread of these processes is in one of the states ``awake``: R runs or waits for a core, D
    waits for a disk or for the kernel. False when there is no thread (any more).
    """
    found = False
    for pid in pids:
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                if Path(f"/proc/{pid}/task/{task}/stat").read_text().rpartition(")")[2].split()[0] in awake:
                    return False
                found = True
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def descendants(pid: int) -> list[int]:
    """Return a process and all below it that are not zombies, topmost first."""
    found, todo = [], [pid]
    while todo:
        pid = todo.pop(0)
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                continue
            for task in os.listdir(f"/proc/{pid}/task"):
                todo += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
        found.append(pid)
    return found
