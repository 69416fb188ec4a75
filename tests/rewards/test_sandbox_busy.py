"""What the kernel may answer with EBUSY, and what must not stay in memory: no run may fail for another's sake."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from rewards.code.sandbox import Sandbox, cgroups, groups, open_sandbox, system, wire
from rewards.code.sandbox.groups import Group
from rewards.code.sandbox.supervisor import Supervisor
from rewards.code.types import MIB, Ending, Job, Limits
from tests.processes import until
from tests.sandbox_kit import UNHURRIED, asleep, python, sleepers, wake

FULL = Job(("sh", "-c", "head -c 32000000 /dev/zero > f"), limits=Limits(memory_bytes=128 * MIB))
SMALL = Job(("true",), limits=Limits(memory_bytes=12 * MIB))


def refused(fd: int) -> dict[str, bool]:
    """Way to change a memory file -> whether the kernel forbids it."""
    libc = ctypes.CDLL(None, use_errno=True)
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)

    def dig() -> None:
        if libc.fallocate(again, 3, ctypes.c_long(0), ctypes.c_long(4096)):  # keep the size, punch a hole
            raise OSError(ctypes.get_errno(), "fallocate")

    ways = {
        "write": lambda: os.pwrite(again, b"y", 0),
        "map": lambda: mmap.mmap(again, 100),
        "shrink": lambda: os.truncate(f"/proc/self/fd/{fd}", 0),
        "grow": lambda: os.posix_fallocate(again, 0, 1 << 20),
        "dig": dig,
    }
    found = {}
    for name, way in ways.items():
        try:
            way()
        except OSError as error:
            found[name] = error.errno == errno.EPERM
        else:
            found[name] = False
    os.close(again)
    return found


def test_sealed_files_cannot_be_changed() -> None:
    fd = wire.sealed(b"x" * 5000, b"z")
    assert set(refused(fd).values()) == {True}
    assert os.pread(fd, 5001, 0) == b"x" * 5000 + b"z"
    os.close(fd)


def test_sealing_does_not_wait_for_others_to_let_go_of_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel holds pages now and then, when it reclaims or moves them; here a pipe does."""
    read, write = os.pipe()
    write_all = wire._write_all

    def write_and_hold(fd: int, data: bytes) -> None:
        write_all(fd, data)
        os.splice(fd, write, 4096, 0)

    monkeypatch.setattr(wire, "_write_all", write_and_hold)
    fd = wire.sealed(b"x" * 5000)
    assert set(refused(fd).values()) == {True}
    for each in (fd, read, write):
        os.close(each)


def test_news_of_a_closed_descriptor_are_not_taken_for_those_of_its_successor() -> None:
    """One run ends and another starts in one round of events: both may have had the same number for a descriptor."""
    supervisor = Supervisor([], [], "")
    pipes = [os.pipe() for _ in range(3)]
    first, second, quiet = (read for read, _ in pipes)
    called: list[str] = []

    def replace_other(other: int) -> None:
        called.append("first")
        supervisor._forget(other)
        os.dup2(quiet, other)  # nothing to read from this one
        supervisor._watch(other, lambda: called.append("successor"))
        supervisor.closing = True

    for fd, other in ((first, second), (second, first)):
        os.write(pipes[0 if fd == first else 1][1], b"x")
        supervisor._watch(fd, partial(replace_other, other))
    parent = os.dup(quiet)
    supervisor.serve(parent)
    assert called == ["first"]
    supervisor._epoll.close()
    for fd in (parent, *pipes[0], *pipes[1], *pipes[2]):
        os.close(fd)


@contextmanager
def own_group() -> Iterator[Group]:
    """A group of this process's making."""
    hierarchy = cgroups.detect()
    if hierarchy.kind != "v1":
        hierarchy.remove()
        pytest.skip("only version 1 refuses a limit below what is in use")
    group = hierarchy.group(0)
    try:
        yield group
    finally:
        group.remove()
        hierarchy.remove()


def fill(group: Group, mebibytes: int) -> int:
    """A memory file whose content counts in ``group``, which no process is in."""
    fd = os.memfd_create("k15-test")
    child = os.fork()
    if child == 0:
        group.enter()
        for _ in range(mebibytes):
            os.write(fd, b"x" * MIB)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    return fd


def test_limit_below_what_is_in_use_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with own_group() as group:
        group.prepare(Limits(memory_bytes=64 * MIB))
        fd = fill(group, 32)
        began = time.monotonic()
        threading.Timer(0.3, os.close, (fd,)).start()
        group.prepare(Limits(memory_bytes=16 * MIB))
        assert time.monotonic() - began > 0.25
        fd = fill(group, 8)
        monkeypatch.setattr(groups, "_SETTLED_WITHIN_S", 0.1)
        with pytest.raises(OSError, match=r"busy: '/.*/memory\.limit_in_bytes'"):
            group.prepare(Limits(memory_bytes=4 * MIB))
        os.close(fd)


def slots_seen(pid: int) -> list[str]:
    """Slots whose files are mounted where a process is."""
    text = Path(f"/proc/{pid}/mountinfo").read_text()
    return re.findall(rf" {system.BASE}/slots/(\d+) ", text)


def test_a_slot_never_has_the_mounts_of_another() -> None:
    """Even the copy that a backend starts with: it would keep a discarded slot's files in memory."""
    mark = f"k15-slot-{os.getpid()}"
    with open_sandbox(slots=3) as three, ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(three.run, python(asleep(mark), limits=UNHURRIED)) for _ in range(3)]
        until(lambda: len(sleepers(mark)) == 3, "three programs")
        below = Path(f"/proc/{three.supervisor_pid}/task/{three.supervisor_pid}/children").read_text().split()
        assert sorted(slots_seen(int(pid)) for pid in below) == [["0"], ["1"], ["2"]]
        assert len(slots_seen(three.supervisor_pid)) == 1
        wake(mark, 3)
        assert all(run.result().ok for run in runs)


def test_no_run_pays_for_the_files_of_the_last_one() -> None:
    def pairs(sandbox: Sandbox) -> set[tuple[Ending, int]]:
        outcomes = [sandbox.run(job) for _ in range(8) for job in (FULL, SMALL)]
        return {(outcome.ending, outcome.exit_code) for outcome in outcomes}

    with open_sandbox(slots=4) as four, ThreadPoolExecutor(4) as pool:
        assert set().union(*pool.map(pairs, [four] * 4)) == {(Ending.EXIT, 0)}
