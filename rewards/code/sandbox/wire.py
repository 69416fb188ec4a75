"""The messages between the client and its supervisor: jobs and outcomes, each in a sealed memory file.

A message is one byte on a SOCK_SEQPACKET socket with file descriptors attached, so that it arrives whole or not at all
and costs the same for a megabyte as for a byte. The file starts with a JSON header; blobs follow in its order.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rewards.code.types import Ending, Job, Limits, Outcome

_SEAL_FUTURE_WRITE = 0x10  # not yet in fcntl (Python 3.11)
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _SEAL_FUTURE_WRITE
"""F_SEAL_WRITE would first wait until nobody else holds one of the pages, and fail with EBUSY after 150 ms: the kernel
holds pages for longer at times, when it reclaims or moves memory. The other seal forbids the same but for mappings made
before it, and there are none: content is only ever written through ``write``. Linux 5.1."""
_LENGTH = 8
_MOST_FDS = 4


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sealed(*parts: bytes) -> int:
    """Return a read-only memory file with this content, opened at its start; the caller closes it."""
    writable = os.memfd_create("k15", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for part in parts:
            _write_all(writable, part)
        fcntl.fcntl(writable, fcntl.F_ADD_SEALS, _SEALS)
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writable)


def pack(header: dict[str, Any], blobs: Sequence[bytes]) -> int:
    """Return a memory file that holds a header (JSON) and blobs."""
    head = json.dumps(header | {"sizes": [len(blob) for blob in blobs]}).encode()
    return sealed(len(head).to_bytes(_LENGTH, "little"), head, *blobs)


def unpack(fd: int) -> tuple[dict[str, Any], list[bytes]]:
    """Header and blobs of a memory file."""
    size = os.fstat(fd).st_size
    data = b""
    while len(data) < size:
        data += os.pread(fd, size - len(data), len(data))
    start = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    header: dict[str, Any] = json.loads(data[_LENGTH:start])
    blobs = []
    for length in header.pop("sizes"):
        blobs.append(data[start : start + length])
        start += length
    return header, blobs


def send(connection: socket.socket, fds: Sequence[int]) -> None:
    """Hand over descriptors, which the caller still has to close."""
    socket.send_fds(connection, [b"k"], list(fds))


def receive(connection: socket.socket) -> list[int]:
    """Descriptors of the next message; empty when the other side is gone."""
    # socket.recv_fds takes flags but does not pass them on (Python 3.11): descriptors would reach sandboxed programs
    fds = array.array("i")
    data, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_LEN(_MOST_FDS * fds.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return fds.tolist() if data else []


def pack_job(job: Job) -> int:
    """Return a job without its standard input, which travels as a file of its own."""
    header = {
        "argv": job.argv,
        "files": list(job.files),
        "limits": asdict(job.limits),
        "collect": job.collect,
        "channel": job.channel,
    }
    return pack(header, list(job.files.values()))


def unpack_job(fd: int) -> Job:
    """Return the job in a memory file."""
    header, blobs = unpack(fd)
    return Job(
        argv=tuple(header["argv"]),
        files=dict(zip(header["files"], blobs, strict=True)),
        limits=Limits(**header["limits"]),
        collect=tuple(header["collect"]),
        channel=header["channel"],
    )


def pack_outcome(outcome: Outcome) -> int:
    """Return an outcome, for the client."""
    header = {
        "ending": outcome.ending.value,
        "exit_code": outcome.exit_code,
        "cpu_s": outcome.cpu_s,
        "wall_s": outcome.wall_s,
        "memory_bytes": outcome.memory_bytes,
        "files": list(outcome.files),
    }
    return pack(header, [outcome.stdout, outcome.stderr, outcome.channel, *outcome.files.values()])


def pack_failure(kind: str, message: str) -> int:
    """Return a failure of the sandbox in place of an outcome; ``kind`` is the name of its exception."""
    return pack({"failure": kind, "message": message}, [])


def unpack_reply(fd: int) -> Outcome | tuple[str, str]:
    """Return an outcome, or the kind and message of a failure."""
    header, blobs = unpack(fd)
    if "failure" in header:
        return header["failure"], header["message"]
    stdout, stderr, channel, *files = blobs
    return Outcome(
        ending=Ending(header["ending"]),
        exit_code=header["exit_code"],
        stdout=stdout,
        stderr=stderr,
        channel=channel,
        cpu_s=header["cpu_s"],
        wall_s=header["wall_s"],
        memory_bytes=header["memory_bytes"],
        files=dict(zip(header["files"], files, strict=True)),
    )
