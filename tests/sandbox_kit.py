"""What the sandbox's tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewards.code.sandbox import Sandbox, open_sandbox
from rewards.code.types import Job, Limits
from tests.processes import PATIENCE_S, until


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A sandbox with one slot, so that runs follow each other in the same one."""
    with open_sandbox(slots=1) as opened:
        yield opened


def python(code: str, **fields: object) -> Job:
    """A job that runs Python code."""
    return Job(argv=("python3", "-I", "-S", "-c", code), **fields)  # type: ignore[arg-type]


def seconds(wall_s: float) -> Limits:
    """Limits with this wall time."""
    return Limits(wall_s=wall_s)


UNHURRIED = seconds(PATIENCE_S)


def marked(mark: str) -> list[int]:
    """Processes of this machine whose command line has ``mark``."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def asleep(mark: str) -> str:
    """A statement that sleeps until ``wake(mark)``, in a child process whose command line ``mark`` is part of."""
    program = f"import time; '{mark} asleep'; time.sleep(6000)"
    return f"import subprocess; subprocess.run(['python3', '-I', '-S', '-c', {program!r}])"


def sleepers(mark: str) -> list[int]:
    """Processes that sleep in ``asleep(mark)``, those above them not among them."""
    return [pid for pid in marked(f"'{mark} asleep'") if b"subprocess" not in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b"subprocess"


def wake(mark: str, count: int = 1) -> None:
    """Wait until so many programs are ``asleep(mark)``, then let them go on."""
    until(lambda: len(sleepers(mark)) >= count, f"{count} programs asleep")
    for pid in sleepers(mark):
        os.kill(pid, signal.SIGKILL)
