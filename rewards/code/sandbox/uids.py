"""A user id for each slot that nobody else on this machine has, not even another sandbox."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

RANGE = range(60706, 61184)
"""Ids that no distribution hands out (between those of systemd's containers and its dynamic users)."""


def _mapped(uid: int) -> bool:
    """Return whether this user namespace knows the id."""
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= uid < first + count:
            return True
    return False


def claim_uids(count: int) -> tuple[list[int], list[socket.socket]]:
    """Ids, and the locks that hold them while they are open. Raises ``OSError`` when too few are free.

    A lock is an abstract socket address: the kernel drops it with its owner, and it needs no file.
    """
    uids: list[int] = []
    locks: list[socket.socket] = []
    for uid in RANGE:
        if len(uids) == count:
            break
        if not _mapped(uid):
            continue
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            lock.bind(f"\0k15-sandbox-uid-{uid}")
        except OSError as error:
            lock.close()
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        uids.append(uid)
        locks.append(lock)
    if len(uids) < count:
        raise OSError(f"only {len(uids)} of {count} user ids between {RANGE[0]} and {RANGE[-1]} are free")
    return uids, locks
