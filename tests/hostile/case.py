"""A case: a program, what it may use, and what must have come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rewards.code.types import MIB, Ending, Job, Limits, Outcome, SandboxFacts

LIMITS = Limits(
    cpu_s=0.6, wall_s=20.0, memory_bytes=128 * MIB, processes=32, output_bytes=MIB, disk_bytes=8 * MIB, files=200
)

PRELUDE = """
import ctypes, errno, os, signal, socket, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    '''Name of the error that a system call gets, or what it returns.'''
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    return errno.errorcode[ctypes.get_errno()] if result == -1 else result
def error(function, *arguments):
    '''Name of the error that a function raises, or "done".'''
    try:
        function(*arguments)
    except OSError as e:
        return errno.errorcode[e.errno]
    return "done"
"""

Check = Callable[[Outcome, SandboxFacts], bool]


@dataclass(frozen=True)
class Case:
    """One attack, or one right that a program has."""

    name: str
    program: str
    """Python, after ``PRELUDE``."""
    check: Check
    """Whether the outcome is as it must be."""
    limits: Limits = LIMITS
    stdin: bytes = b""
    collect: tuple[str, ...] = ()
    channel: bool = False

    def job(self) -> Job:
        """What the sandbox is given."""
        return Job(
            argv=("python3", "-I", "-S", "program.py"),
            files={"program.py": (PRELUDE + self.program).encode()},
            stdin=self.stdin,
            limits=self.limits,
            collect=self.collect,
            channel=self.channel,
        )


def prints(*words: str) -> Check:
    """It ends well and prints exactly these lines."""
    return lambda outcome, facts: outcome.ok and outcome.stdout.decode().split("\n") == [*words, ""]


def ends(*endings: Ending) -> Check:
    """It ends in one of these ways."""
    return lambda outcome, facts: outcome.ending in endings


def number(low: int, high: int) -> Check:
    """It ends well and prints a number in this range."""
    return lambda outcome, facts: outcome.ok and low <= int(outcome.stdout or -1) <= high
