"""The languages that programs may be written in: how each is compiled and started, and what it is allowed more of."""

from __future__ import annotations

from dataclasses import dataclass

from rewards.code.types import MIB, Limits

COMPILING = Limits(
    cpu_s=30, wall_s=900, sleep_s=60, memory_bytes=1024 * MIB, processes=64, output_bytes=32 * MIB, disk_bytes=256 * MIB
)
"""What a compiler may use."""
_PYTHON = ("env", "PYTHONHASHSEED=0", "PYTHONDONTWRITEBYTECODE=1", "PYTHONINTMAXSTRDIGITS=0", "python3")
"""With a fixed hash seed: the same program gives the same output twice. Integers of any length may be printed and read:
time is limited here by itself.
"""


@dataclass(frozen=True)
class Language:
    """A programming language: how its programs are compiled and run."""

    source: str
    """File that the program is written to."""
    run: tuple[str, ...]
    """Command that runs it, in the directory of that file."""
    compiler: tuple[str, ...] = ()
    """Command that compiles it first; empty for an interpreted language."""
    built: str = ""
    """The one file that comes of compiling."""
    time_factor: float = 1.0
    """A problem's own time limit is meant for a compiled language on a fast judge; this multiplies it."""
    startup_s: float = 0.5
    """CPU seconds on top, for the start of an interpreter on a slow machine."""
    memory_extra: int = 64 * MIB
    """Bytes on top of a problem's own memory limit, for the run-time itself."""

    @property
    def needs(self) -> str:
        """The program that must be installed."""
        return self.compiler[0] if self.compiler else self.run[-2 if self.run[0] == "env" else 0]


LANGUAGES: dict[str, Language] = {
    "python": Language("main.py", (*_PYTHON, "main.py"), time_factor=5.0),
    "cpp": Language(
        "main.cpp", ("./main",), ("g++", "-std=gnu++20", "-O2", "-o", "main", "main.cpp"), "main", time_factor=2.0
    ),
    "c": Language(
        "main.c", ("./main",), ("gcc", "-std=gnu17", "-O2", "-o", "main", "main.c", "-lm"), "main", time_factor=2.0
    ),
    "javascript": Language("main.js", ("node", "main.js"), time_factor=3.0, memory_extra=128 * MIB),
    "bash": Language("main.sh", ("bash", "main.sh"), time_factor=5.0),
}
"""Name -> how it is run."""


def interpreter(name: str) -> tuple[str, ...]:
    """``python3`` as programs and test code are run with, followed by the name of a script or ``-c``."""
    return (*_PYTHON, name)
