"""The small read-only system that a program sees, built once by the supervisor in mounts of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rewards.code.sandbox import kernel

BASE = Path("/mnt")
"""An existing directory that the supervisor covers with a tmpfs, visible to it alone and gone with it."""
IMAGE = BASE / "image"
DEVICES = BASE / "dev"
FILTER = BASE / "filter"
USER = 1000
"""User and group id inside."""
DIRECTORY = "/work"

_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = ("ld.so.cache", "alternatives")
_PACKAGES = ("lib/python3*/site-packages", "lib/python3*/dist-packages", "local/lib/python3*/dist-packages")
"""Below an interpreter's prefix, and hidden: verdicts must not depend on what is installed on one machine, and start-up
hooks in there would run before the program."""
_DEVICES = ("null", "zero", "full", "random", "urandom")
_DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
_ETC_TEXT = {
    "passwd": f"root:x:0:0:root:/:/bin/false\njudge:x:{USER}:{USER}:judge:{DIRECTORY}:/bin/sh\n",
    "group": f"root:x:0:\njudge:x:{USER}:\n",
    "hosts": "127.0.0.1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


def own_mounts() -> None:
    """Give this process mounts of its own, as root directly, as another user in a user namespace."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        kernel.unshare(kernel.CLONE_NEWNS)
    else:
        kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)


def fork_mounts() -> int:
    """Return a descriptor of a new copy of this process's mounts, which the process is in from now on."""
    kernel.unshare(kernel.CLONE_NEWNS)
    return os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def _part_of_system(python: str) -> bool:
    return python == "/usr" or python.startswith("/usr/")


def _python_inside(python: str) -> str:
    """Return where the interpreter's prefix is seen: at its own place, unless a program's private folders cover
    that.
    """
    covered = python.split("/")[1] in ("work", "tmp", "dev", "proc")
    return "/opt/python" if covered else python


def environment(python: str) -> dict[str, str]:
    """Return all that a program finds in its environment."""
    moved = {"LD_LIBRARY_PATH": f"{_python_inside(python)}/lib"} if _python_inside(python) != python else {}
    return {"PATH": search_path(python), "HOME": DIRECTORY, "TMPDIR": "/tmp", "LANG": "C.UTF-8"} | moved


def search_path(python: str) -> str:
    """PATH inside; ``python`` is the prefix of the interpreter that runs k15."""
    places = [] if _part_of_system(python) else [f"{_python_inside(python)}/bin"]
    return ":".join([*places, "/usr/local/bin", "/usr/bin", "/bin"])


def _show(source: str, at: str) -> None:
    """Make a directory or file of this machine visible."""
    target = Path(f"{IMAGE}{at}")
    if os.path.isdir(source):
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    kernel.mount(source, str(target), None, kernel.MS_BIND | kernel.MS_REC)


def _hide(path: str) -> None:
    """Cover a directory of the image."""
    target = f"{IMAGE}{path}"
    if os.path.isdir(target):
        flags = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
        kernel.mount("none", target, "tmpfs", flags, "size=4k,nr_inodes=2,mode=755")


def build(python: str, hidden: Sequence[str], bpf: bytes) -> None:
    """Build the image: system folders, ``python`` (an interpreter's prefix), some of /etc, five devices; no packages.

    ``hidden`` are real paths of directories that must not be seen even where they lie inside of those. Raises
    ``OSError``.
    """
    kernel.mount("none", str(BASE), "tmpfs", kernel.MS_NOSUID, "mode=755,size=16m")
    for directory in (IMAGE, DEVICES, DEVICES / "shm", BASE / "slots"):
        directory.mkdir()
    for name in _SYSTEM:
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), IMAGE / name)
        elif os.path.isdir(f"/{name}"):
            _show(f"/{name}", f"/{name}")
    if not _part_of_system(python):
        _show(python, _python_inside(python))
    for name in ("proc", "dev", "tmp", "work", "etc"):
        (IMAGE / name).mkdir(exist_ok=True)
    for name in _ETC:
        if os.path.exists(f"/etc/{name}"):
            _show(f"/etc/{name}", f"/etc/{name}")
    for name, text in _ETC_TEXT.items():
        (IMAGE / "etc" / name).write_text(text)
    for path in map(Path, hidden):
        for shown, at in (*((f"/{name}", f"/{name}") for name in _SYSTEM), (python, _python_inside(python))):
            if Path(shown) in path.parents:
                _hide(f"{at}/{path.relative_to(shown)}")
    for prefix in {"/usr", _python_inside(python)}:
        for pattern in _PACKAGES:
            for found in Path(f"{IMAGE}{prefix}").glob(pattern):
                _hide(f"/{found.relative_to(IMAGE)}")
    for name in _DEVICES:
        (DEVICES / name).touch()
        kernel.mount(f"/dev/{name}", str(DEVICES / name), None, kernel.MS_BIND)
    for name, leads_to in _DEVICE_LINKS.items():
        os.symlink(leads_to, DEVICES / name)
    FILTER.write_bytes(bpf)


def find(program: str, path: str) -> bool:
    """Return whether a program is in the image: an absolute path, or a name looked up in ``path``."""
    if "/" in program:
        return os.path.lexists(f"{IMAGE}{program}")
    return any(os.path.lexists(f"{IMAGE}{directory}/{program}") for directory in path.split(":"))
