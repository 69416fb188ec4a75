"""A lock that lets one process at a time work on a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def locked(folder: Path, error: type[Exception], option: str) -> Iterator[None]:
    """Hold ``folder``, which is made if need be, as long as the block takes; a killed process holds it no longer.

    Raises ``error`` with one line when another process holds it or it cannot be written; the line says to choose
    another ``option``, e.g. ``--out``.
    """
    with _held(folder, error, option, blocking=False):
        yield


@contextmanager
def taking_turns(folder: Path, error: type[Exception], option: str) -> Iterator[None]:
    """Hold ``folder`` as ``locked`` does, but wait while another process holds it."""
    with _held(folder, error, option, blocking=True):
        yield


@contextmanager
def _held(folder: Path, error: type[Exception], option: str, blocking: bool) -> Iterator[None]:
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=blocking)
    except Timeout:
        raise error(f"another process is working on {folder}; wait for it or choose another {option}") from None
    except OSError as reason:
        why = reason.strerror or reason
        raise error(f"{folder} cannot be written: {why}; choose another {option}") from reason
    try:
        yield
    finally:
        lock.release()
