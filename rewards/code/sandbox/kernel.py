"""The system calls that Python has no function for. Errors are ``OSError`` with the call and its target."""

from __future__ import annotations

import ctypes
import os
import signal

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 4096, 16384, 1 << 18
MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave namespaces."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def enter_mounts(namespace: int) -> None:
    """See what is mounted in the namespace behind this descriptor from now on, standing at its root."""
    _check(_libc.setns(ctypes.c_int(namespace), ctypes.c_int(CLONE_NEWNS)), "setns")


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """Attach a file system or, with MS_BIND, a folder or file."""
    encoded = [None if text is None else text.encode() for text in (source, target, kind, options)]
    result = _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])
    _check(result, f"mount on {target}")


def unmount(target: str) -> None:
    """Take the mount away at once; what still uses it keeps it until it ends."""
    _check(_libc.umount2(target.encode(), ctypes.c_int(MNT_DETACH)), f"umount {target}")


def become_subreaper() -> None:
    """Orphaned descendants become children of this process."""
    _check(_libc.prctl(ctypes.c_int(_PR_SET_CHILD_SUBREAPER), 1, 0, 0, 0), "prctl")


def die_with_parent() -> None:
    """SIGKILL for this process when its parent ends; forgotten when the user id changes."""
    _check(_libc.prctl(ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(signal.SIGKILL), 0, 0, 0), "prctl")
