"""The words of the code reward: what a sandbox is given and what it gives back. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

MIB = 1 << 20


class SandboxFailure(Exception):
    """The sandbox, not the program, failed: the run gives no verdict and is ungradable."""


class ProgramMissing(SandboxFailure):
    """``argv[0]`` is not installed in the sandbox's system or cannot be executed: no fault of what it was to run."""


@dataclass(frozen=True)
class Limits:
    """The limits of one program. Every limit is enforced from outside of the program."""

    cpu_s: float = 10.0
    """CPU seconds of all its processes together."""
    wall_s: float = 30.0
    """Wall seconds, whatever happens in them."""
    sleep_s: float = 30.0
    """Seconds in which all its processes sleep or wait for a disk. Unlike ``wall_s`` it says the same of a program on a
    busy machine as on an idle one: who waits for a core does not sleep."""
    memory_bytes: int = 512 * MIB
    """Memory of all its processes together, tmpfs and page cache of its own files included."""
    processes: int = 64
    """Processes and threads at one time."""
    cores: float = 1.0
    """Cores that all its processes together may use at one time, where control groups can say so."""
    output_bytes: int = 8 * MIB
    """Bytes kept of stdout, and of stderr; more ends the program."""
    disk_bytes: int = 64 * MIB
    """Size of its private directory."""
    files: int = 4096
    """Inodes of its private directory."""


@dataclass(frozen=True)
class Job:
    """One program to run in a fresh, empty directory."""

    argv: tuple[str, ...]
    """Command and arguments; looked up inside of the sandbox's read-only system. Its directory is ``/work``."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Relative path -> content, put into its directory first."""
    stdin: bytes = b""
    """Standard input; a program need not read it."""
    limits: Limits = Limits()
    collect: tuple[str, ...] = ()
    """Relative paths of regular files to bring back (no links followed), each up to ``limits.output_bytes``."""
    channel: bool = False
    """Open descriptor 3 for writing: a way out for results beside stdout. What a program writes there is a claim of the
    program, to be judged like its stdout."""


class Ending(StrEnum):
    """How a program ended."""

    EXIT = "exit"
    """By itself; see ``Outcome.exit_code``."""
    SIGNAL = "signal"
    """By a signal that it got or sent itself (``exit_code`` is 128 + signal)."""
    CPU = "cpu"
    """Used up ``cpu_s``."""
    WALL = "wall"
    """Used up ``wall_s``."""
    SLEEP = "sleep"
    """Used up ``sleep_s``."""
    MEMORY = "memory"
    """Used up ``memory_bytes``."""
    OUTPUT = "output"
    """Wrote more than ``output_bytes``."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a ``Job``. A failure of the sandbox itself is none: it raises ``SandboxFailure``."""

    ending: Ending
    exit_code: int
    """Exit status; 128 + signal when killed."""
    stdout: bytes
    """Up to ``output_bytes``."""
    stderr: bytes
    """Up to ``output_bytes``."""
    cpu_s: float
    wall_s: float
    memory_bytes: int | None
    """Peak; ``None`` where the machine cannot tell."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """The collected files that exist and are regular."""
    channel: bytes = b""
    """What came through descriptor 3, up to ``output_bytes``; more ends the program like too much stdout."""

    @property
    def ok(self) -> bool:
        """True when it ended by itself with status 0."""
        return self.ending is Ending.EXIT and self.exit_code == 0


@dataclass(frozen=True)
class SandboxFacts:
    """The limits that a sandbox on this machine enforces, and the means."""

    backend: str
    """``bubblewrap``, ``crun`` or ``unsafe``."""
    slots: int
    """Programs that run at one time."""
    cgroup: str
    """``v1``, ``v2`` or ``none``."""
    identity: str
    """What separates programs from the user that runs k15, and from each other."""
    enforced: Mapping[str, str]
    """Limit -> what enforces it."""
    degraded: tuple[str, ...] = ()
    """What is weaker here than it could be, and how to mend it; one sentence each."""
