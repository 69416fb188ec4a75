"""The sandbox's parts by themselves: filter, messages, limits, control groups, command lines, files."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import resource
import socket
import struct
import subprocess
from functools import cache
from pathlib import Path

import pytest

from rewards.code.sandbox import cgroups, system, wire
from rewards.code.sandbox.backends import Bubblewrap, Crun
from rewards.code.sandbox.files import Place, relative_problem
from rewards.code.sandbox.groups import Polled, descendants
from rewards.code.sandbox.seccomp import (
    ARCHITECTURES,
    DENIED,
    NEWEST_REVIEWED,
    SPECIAL,
    UNCOUNTED,
    UNHEARD,
    build_filter,
)
from rewards.code.sandbox.spawn import resource_limits
from rewards.code.sandbox.uids import RANGE, claim_uids
from rewards.code.types import MIB, Ending, Job, Limits, Outcome

ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97


@cache
def program_of(machine: str, counted: bool) -> list[tuple[int, int, int, int]]:
    """The filter's instructions."""
    return list(struct.iter_unpack("<HBBI", build_filter(machine, counted)))


def decide(machine: str, number: int, *arguments: int, audit: int | None = None, counted: bool = True) -> int:
    """What the filter answers: its program, interpreted by the kernel's rules."""
    arch = ARCHITECTURES[machine].audit if audit is None else audit
    data = struct.pack("<IIQ6Q", number, arch, 0, *(*arguments, *[0] * (6 - len(arguments))))
    program = program_of(machine, counted)
    at = accumulator = 0
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        if code == 0x20:
            accumulator = int.from_bytes(data[k : k + 4], "little")
        elif code == 0x06:
            return int(k)
        else:
            holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x25: accumulator > k, 0x45: bool(accumulator & k)}
            at += if_true if holds[code] else if_false


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_filter_decides(machine: str) -> None:
    column = ARCHITECTURES[machine].column
    number = {name: pair[column] for name, pair in (DENIED | UNCOUNTED | SPECIAL).items() if pair[column] is not None}
    for name in DENIED:
        if name in number:
            assert decide(machine, number[name]) == ERRNO | EPERM, name
    for name in UNCOUNTED:
        assert decide(machine, number[name]) == ALLOW
        assert decide(machine, number[name], counted=False) == ERRNO | EPERM
    for numbers in UNHEARD.values():
        assert decide(machine, numbers[column]) == ERRNO  # "no error", and the call is not made
    for plain in (0, 1, 3, 60, 61, 62, 202, 231, 293):  # read, write, ... on either architecture none is denied
        if plain not in number.values():
            assert decide(machine, plain) == ALLOW, plain
    assert decide(machine, number["clone3"]) == ERRNO | ENOSYS
    assert decide(machine, NEWEST_REVIEWED) == ALLOW
    assert decide(machine, NEWEST_REVIEWED + 1) == ERRNO | ENOSYS
    assert decide(machine, 1, audit=0x40000003) == KILL  # 32-bit x86
    for call in ("socket", "socketpair"):
        assert decide(machine, number[call], 1) == ALLOW
        assert {decide(machine, number[call], family) for family in (0, 2, 10, 16, 17, 38, 40)} == {
            ERRNO | EAFNOSUPPORT
        }
    assert decide(machine, number["clone"], 0x3D0F00) == ALLOW  # a thread
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert decide(machine, number["clone"], flag | 17) == ERRNO | EPERM
    assert [decide(machine, number["personality"], value) for value in (0xFFFFFFFF, 0x40000)] == [ALLOW, ERRNO | EPERM]
    assert [decide(machine, number["ioctl"], 0, value) for value in (0x5401, 0x5412, 0x541C)] == [
        ALLOW, ERRNO | EPERM, ERRNO | EPERM
    ]  # fmt: skip
    assert [decide(machine, number["prctl"], value) for value in (15, 22)] == [ALLOW, ERRNO | EPERM]


def test_x32_is_killed() -> None:
    assert decide("x86_64", 0x40000000 | 39) == KILL


def test_numbers_are_those_of_libseccomp() -> None:
    name = ctypes.util.find_library("seccomp")
    if name is None:
        pytest.skip("libseccomp is not installed")
    resolve = ctypes.CDLL(name).seccomp_syscall_resolve_name_arch
    for call, numbers in (DENIED | UNCOUNTED | UNHEARD | SPECIAL).items():
        for arch in ARCHITECTURES.values():
            number = resolve(ctypes.c_uint32(arch.audit), call.encode())
            assert number == numbers[arch.column] or (number < 0 and numbers[arch.column] is None), (call, number)


def test_messages() -> None:
    job = Job(("a", "b"), {"x/y": b"1", "z": bytes(range(256))}, b"in", Limits(cpu_s=3), ("z",), channel=True)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    request, stdin = wire.pack_job(job), wire.sealed(job.stdin)
    wire.send(ours, [request, stdin])
    received = wire.receive(theirs)
    assert [os.get_inheritable(fd) for fd in received] == [False, False], "a program would inherit the job"
    got = wire.unpack_job(received[0])
    assert (got.argv, got.files, got.limits, got.collect, got.channel) == (
        job.argv, job.files, job.limits, job.collect, True
    )  # fmt: skip
    assert os.read(received[1], 10) == b"in"
    with pytest.raises(OSError, match=r"not permitted|Bad file"):
        os.write(received[1], b"x")
    outcome = Outcome(Ending.SIGNAL, 139, b"o", b"e", 0.5, 1.5, None, {"z": b"\0"}, b"c")
    reply = wire.pack_outcome(outcome)
    assert wire.unpack_reply(reply) == outcome
    failure = wire.pack_failure("ProgramMissing", "why")
    assert wire.unpack_reply(failure) == ("ProgramMissing", "why")
    ours.close()
    assert wire.receive(theirs) == []
    theirs.close()
    for fd in (request, stdin, reply, failure, *received):
        os.close(fd)


def test_limits_of_processes() -> None:
    limits = Limits(cpu_s=2.5, memory_bytes=100 * MIB, disk_bytes=MIB, processes=7)
    counted = resource_limits(limits, counted=True, own_uid=True)
    assert counted[resource.RLIMIT_CPU] == (4, 5)
    assert counted[resource.RLIMIT_FSIZE] == (MIB, MIB)
    assert counted[resource.RLIMIT_STACK] == (100 * MIB, resource.RLIM_INFINITY)
    assert counted[resource.RLIMIT_NPROC] == (9, 9)
    assert resource.RLIMIT_AS not in counted
    alone = resource_limits(limits, counted=False, own_uid=False)
    assert alone[resource.RLIMIT_AS] == (100 * MIB, 100 * MIB)
    assert resource.RLIMIT_NPROC not in alone


@pytest.mark.skipif(os.geteuid() != 0, reason="claims ids as root does")
def test_user_ids_are_nobody_elses() -> None:
    first, locks = claim_uids(3)
    second, more = claim_uids(3)
    assert len(set(first + second)) == 6
    assert set(first + second) <= set(RANGE)
    for lock in (*locks, *more):
        lock.close()
    third, last = claim_uids(1)
    assert third[0] <= first[0]
    last[0].close()
    with pytest.raises(OSError, match=r"of 1000 user ids"):
        claim_uids(1000)


def fake_v2(root: Path, monkeypatch: pytest.MonkeyPatch, own: str, controllers: dict[str, str]) -> None:
    """A tree that looks like version 2, to see where ``detect`` would look; files are plain."""
    for path, switched_on in controllers.items():
        (root / path).mkdir(parents=True, exist_ok=True)
        (root / path / "cgroup.subtree_control").write_text(switched_on)
        (root / path / "cgroup.procs").write_text("")
    monkeypatch.setattr(cgroups, "_mounts", lambda kind: [("/", str(root), [])] if kind == "cgroup2" else [])
    monkeypatch.setattr(cgroups, "_own_paths", lambda: {"": own})


def test_where_groups_would_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cgroups._candidates(Path("/c/a/b"), Path("/c")) == [Path("/c/a/b"), Path("/c/a"), Path("/c")]
    assert cgroups._here("/", "/sys/fs/cgroup", "/a/b") == Path("/sys/fs/cgroup/a/b")
    assert cgroups._here("/box", "/sys/fs/cgroup", "/box/a") == Path("/sys/fs/cgroup/a")
    assert cgroups._here("/box", "/sys/fs/cgroup", "/") == Path("/sys/fs/cgroup")
    fake_v2(tmp_path, monkeypatch, "/a/b", {"a/b": "", "a": "cpu memory pids", "": ""})
    assert cgroups._delegates(tmp_path / "a")
    assert (tmp_path / "a" / "cgroup.subtree_control").read_text() == "cpu memory pids"


def test_without_groups_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "_mounts", lambda kind: [])
    found = cgroups.detect()
    assert (found.kind, found.parents) == ("none", {})
    assert "no control groups" in found.reason
    assert isinstance(found.group(0), Polled)


def test_sweep_takes_only_what_dead_supervisors_left(tmp_path: Path) -> None:
    living = tmp_path / f"{cgroups.PREFIX}{os.getpid()}-{cgroups.start_time(os.getpid())}"
    reused = tmp_path / f"{cgroups.PREFIX}{os.getpid()}-1"  # the pid of a dead one, given to another process
    other = tmp_path / "user.slice"
    for directory in (living, reused, reused / "slot-0", other):
        directory.mkdir()
    cgroups.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([living.name, other.name])


def test_polled_processes() -> None:
    child = subprocess.Popen(["sh", "-c", "sleep 30 & wait"])
    group = Polled()
    group.prepare(Limits(memory_bytes=1))
    group.watch(child.pid)
    while len(descendants(child.pid)) < 2:
        continue
    group.look()
    assert group.out_of_memory()
    assert (group.peak_bytes() or 0) > 100_000
    pids = group.pids()
    for pid in pids:
        os.kill(pid, 9)
    child.wait()
    assert descendants(child.pid) == []


@pytest.mark.parametrize("path", ["a", "a/b.c", "\u00e9", ".hidden/x", "..a"])
def test_good_paths(path: str) -> None:
    assert not relative_problem(path)


def test_plain_place(tmp_path: Path) -> None:
    place = Place(tmp_path / "slot", mounts=None)
    place.create({"a/b/c": b"1", "a/b/d": b"2"}, Limits(), os.geteuid())
    (place.root / "work" / "link").symlink_to("a/b/c")
    assert place.collect(("a/b/c", "link", "a", "none/x"), 10) == {"a/b/c": b"1"}
    assert place.collect(("a/b/d",), 0) == {"a/b/d": b""}
    place.discard()
    assert not place.root.exists()


def test_bubblewrap_command() -> None:
    backend = Bubblewrap("/usr/bin/bwrap", {"PATH": "/bin"}, limit_processes=False)
    command = backend.command(Path("/x/0"), 60706, Job(("prog", "--bind", "/", "/")))
    words = command[: command.index("--")]
    assert command[command.index("--") + 1 :] == ["prog", "--bind", "/", "/"], "a program's words are not bwrap's"
    for wanted in ("user", "pid", "net", "ipc", "uts", "cgroup"):
        assert f"--unshare-{wanted}" in words
    assert {"--die-with-parent", "--new-session", "--seccomp", "--remount-ro"} <= set(words)
    assert [words[i + 1] for i, word in enumerate(words) if word == "--bind"] == ["/x/0/work", "/x/0/tmp", "/x/0/shm"]
    assert backend.outer == {}
    inside = Bubblewrap("/usr/bin/bwrap", {}, limit_processes=True).command(
        Path("/x"), 1, Job(("p",), limits=Limits(processes=5))
    )
    assert inside[-4:] == ["prlimit", "--nproc=6:6", "--", "p"]
    assert [backend.exit_code(said, 1) for said in ({"exit-code": 7}, {"child-pid": 3}, {})] == [7, None, None]


def test_crun_configuration(tmp_path: Path) -> None:
    (tmp_path / "oci").mkdir()
    backend = Crun("/usr/bin/crun", {"PATH": "/bin"}, build_filter("x86_64"))
    command = backend.command(tmp_path, 60706, Job(("prog", "x")))
    assert command[:5] == ["/usr/bin/crun", "--root", str(tmp_path / "oci"), "--cgroup-manager", "disabled"]
    config = json.loads((tmp_path / "oci" / "config.json").read_text())
    assert config["process"]["args"][-3:] == ["-", "prog", "x"]
    assert config["process"]["noNewPrivileges"] is True
    assert config["process"]["capabilities"]["bounding"] == []
    assert config["root"] == {"path": str(system.IMAGE), "readonly": True}
    assert {space["type"] for space in config["linux"]["namespaces"]} >= {
        "user",
        "pid",
        "network",
        "ipc",
        "uts",
        "cgroup",
    }
    assert config["linux"]["uidMappings"] == [{"containerID": 1000, "hostID": 60706, "size": 1}]
    assert len(config["annotations"]["run.oci.seccomp_bpf_data"]) > 1000
    assert [backend.exit_code(said, 5) for said in ({"started": 1}, {})] == [5, None]
