"""A run's private files: written before it starts, read after every process of it is gone."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rewards.code.sandbox import kernel
from rewards.code.types import Limits

_PAGE = os.sysconf("SC_PAGE_SIZE")
_OWN_INODES, _OWN_BYTES = 16, 16 * _PAGE  # the folders themselves, and what a backend keeps beside them


def relative_problem(path: str) -> str:
    """Return why a path is not one of a job's files; empty when it is."""
    parts = path.split("/")
    if not path or "\0" in path or len(path) > 1000:
        return "must be 1 to 1000 characters without NUL"
    if any(part in ("", ".", "..") for part in parts):
        return "must be relative, without '.' and '..'"
    return ""


@dataclass(frozen=True)
class Place:
    """The place of a slot's files on this side. ``work``, ``tmp`` and ``shm`` below it are what the program sees."""

    root: Path
    mounts: int | None
    """Descriptor of the mount namespace in which ``root`` is a tmpfs with limits of its own for every run; ``None``: a
    plain folder.

    It is this slot's alone. A backend starts with a copy of all mounts that it finds: would it find those of another
    slot, files discarded there would stay in memory, and count in that slot's group, until this copy is gone."""

    def _enter(self) -> None:
        if self.mounts is not None:
            kernel.enter_mounts(self.mounts)

    def create(self, files: Mapping[str, bytes], limits: Limits, uid: int) -> None:
        """An empty place with these files in ``work``, all owned by ``uid``. Raises ``OSError``.

        The process is in the slot's mounts afterwards, where the run has to be started.
        """
        self._enter()
        self.root.mkdir(mode=0o700, exist_ok=True)
        if self.mounts is not None:
            given = sum((len(content) // _PAGE + 1) * _PAGE for content in files.values())
            inodes = limits.files + _OWN_INODES + sum(path.count("/") + 1 for path in files)
            options = f"size={limits.disk_bytes + given + _OWN_BYTES},nr_inodes={inodes},mode=711"
            kernel.mount("none", str(self.root), "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
        for name in ("work", "tmp", "shm", "oci"):
            _make_directory(self.root / name, uid)
        for path, content in files.items():
            target = self.root / "work" / path
            for parent in reversed(target.relative_to(self.root / "work").parents):
                if not (self.root / "work" / parent).is_dir():
                    _make_directory(self.root / "work" / parent, uid)
            fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o755)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
            if os.geteuid() == 0:
                os.chown(target, uid, uid)

    def collect(self, paths: Iterable[str], cap: int) -> dict[str, bytes]:
        """Regular files below ``work``, each up to ``cap`` bytes; what is missing, a link or no file is left out."""
        self._enter()
        found = {}
        for path in paths:
            content = _read_regular(self.root / "work", path.split("/"), cap)
            if content is not None:
                found[path] = content
        return found

    def discard(self) -> None:
        """Everything in it is gone, its memory free again."""
        self._enter()
        if self.mounts is not None and os.path.ismount(self.root):
            kernel.unmount(str(self.root))
        elif self.mounts is None:
            shutil.rmtree(self.root, ignore_errors=True)


def _make_directory(path: Path, uid: int) -> None:
    path.mkdir(mode=0o755)
    if os.geteuid() == 0:
        os.chown(path, uid, uid)


def _read_regular(top: Path, parts: list[str], cap: int) -> bytes | None:
    """Content of a regular file; no component may be a link, and opening never waits for a reader or writer."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    at = os.open(top, flags | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            below = os.open(part, flags | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
        fd = os.open(parts[-1], flags, dir_fd=at)
    except OSError:
        return None
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    with os.fdopen(fd, "rb") as file:
        return file.read(cap)
