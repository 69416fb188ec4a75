"""What the sandbox's tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewards.code.sandbox import Sandbox, open_sandbox
from rewards.code.types import Job, Limits

ROOT = Path(__file__).resolve().parent.parent


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
