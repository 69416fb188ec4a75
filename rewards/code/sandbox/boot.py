"""From a fresh process to a serving supervisor: mounts, groups, user ids, slots. The client starts ``main``."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import socket
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rewards.code.sandbox import cgroups, kernel, system, wire
from rewards.code.sandbox.backends import Backend, Bubblewrap, Crun, Unsafe
from rewards.code.sandbox.files import Place
from rewards.code.sandbox.run import Slot
from rewards.code.sandbox.seccomp import build_filter
from rewards.code.sandbox.supervisor import Supervisor
from rewards.code.sandbox.uids import claim_uids
from rewards.code.types import SandboxFacts, SandboxFailure

_LOWEST_OWN_FD = 10


@dataclass(frozen=True)
class Plan:
    """The settings that the client gives to its supervisor."""

    backend: str
    program: str
    """bwrap or crun; empty for ``unsafe``."""
    python: str
    """Prefix of the interpreter that programs get."""
    hidden: list[str]
    """Real paths of directories that no program may see."""
    fds: list[int]
    """One connection per slot."""


def _occupy_low_descriptors() -> None:
    """Children inherit 3 to 9: no descriptor that this process opens from now on may be one of them."""
    while (fd := os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)) < _LOWEST_OWN_FD:
        continue
    os.close(fd)


def _counts_per_namespace() -> bool:
    """Return whether RLIMIT_NPROC counts a user namespace by itself (Linux 5.14), and there is a program to set it
    inside.
    """
    release = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])
    return release >= (5, 14) and os.path.exists("/usr/bin/prlimit")


def _enforced(hierarchy: cgroups.Hierarchy, isolated: bool, nproc: bool) -> dict[str, str]:
    """Limit -> what enforces it."""
    counted = hierarchy.kind != "none"
    group = f"cgroup {hierarchy.kind}"
    return {
        "memory": group if counted else "address space of each process, and their sum polled",
        "processes": group if counted else "RLIMIT_NPROC" if nproc else "nothing",
        "cores": group if hierarchy.shares else "nothing",
        "cpu": f"{group}, polled; RLIMIT_CPU for each process" if counted else "polled; RLIMIT_CPU for each process",
        "wall": "supervisor",
        "output": "supervisor",
        "disk": "tmpfs" if isolated else "RLIMIT_FSIZE for each file",
        "files": "tmpfs" if isolated else "nothing",
    }


def _degraded(hierarchy: cgroups.Hierarchy, isolated: bool, nproc: bool) -> list[str]:
    """Return what is weaker than it could be."""
    found = []
    if not isolated:
        found.append("no isolation at all: programs have the rights of the user that runs k15")
    if hierarchy.kind != "none" and not hierarchy.shares:
        found.append("a program may use all cores at one time: the cpu controller is not to be had here")
    if hierarchy.kind == "none" and not nproc:
        found.append(
            "the number of a program's processes is not limited: needs Linux 5.14 and prlimit, or control groups"
        )
    if hierarchy.kind == "none":
        found.append(
            f"memory and CPU of a program's processes together are only polled ({hierarchy.reason}): run k15 as root, "
            "or as a systemd service or scope with Delegate=yes"
        )
    return found


class Machine:
    """The resources that the supervisor takes from the machine; ``release`` gives them back."""

    def __init__(self, plan: Plan) -> None:
        """Raises ``OSError`` or ``SandboxFailure`` with what to do."""
        self.plan = plan
        self.isolated = plan.backend != "unsafe"
        self.slots: list[Slot] = []
        self.hierarchy = cgroups.detect()
        if plan.backend == "crun" and self.hierarchy.kind != "v2":
            self.hierarchy.remove()
            raise SandboxFailure("crun needs version 2 control groups that k15 may write to; use bubblewrap")
        self.hierarchy.balance(len(plan.fds))
        self.bpf = b""
        self.folder = "" if self.isolated else tempfile.mkdtemp(prefix="k15-unsafe-")
        self.path = system.search_path(plan.python)
        count = len(plan.fds)
        self.uids: list[int] = []
        self._locks: list[socket.socket] = []
        if self.isolated and os.geteuid() == 0:
            self.uids, self._locks = claim_uids(count)
        if self.isolated:
            self._build_system()
        self.limits_inside = self.hierarchy.kind == "none" and not self.uids and _counts_per_namespace()
        for index in range(count):
            self.slots.append(self._slot(index))

    def _build_system(self) -> None:
        machine = platform.machine()
        try:
            self.bpf = build_filter(machine, memory_counted=self.hierarchy.kind != "none")
        except KeyError as error:
            raise SandboxFailure(f"no system-call filter for {machine}, only for x86_64 and aarch64") from error
        try:
            system.own_mounts()
        except OSError as error:
            raise SandboxFailure(
                f"cannot make mounts of its own ({error}): unprivileged user namespaces are switched off; see sysctl "
                "kernel.unprivileged_userns_clone, user.max_user_namespaces, "
                "kernel.apparmor_restrict_unprivileged_userns"
            ) from error
        system.build(self.plan.python, self.plan.hidden, self.bpf)

    def _slot(self, index: int) -> Slot:
        folder = Path(self.folder) if self.folder else system.BASE / "slots"
        place = Place(folder / str(index), system.fork_mounts() if self.isolated else None)
        backend = self._backend(place.root)
        return Slot(
            place=place,
            group=self.hierarchy.group(index),
            uid=self.uids[index] if self.uids else None,
            backend=backend,
            filter_path=str(system.FILTER) if isinstance(backend, Bubblewrap) else None,
        )

    def _backend(self, place: Path) -> Backend:
        environment = system.environment(self.plan.python)
        if self.plan.backend == "bubblewrap":
            return Bubblewrap(self.plan.program, environment, self.limits_inside)
        if self.plan.backend == "crun":
            return Crun(self.plan.program, environment, self.bpf)
        return Unsafe(environment | {"HOME": str(place / "work"), "TMPDIR": str(place / "tmp")})

    def facts(self) -> SandboxFacts:
        """For the client."""
        own_uid = bool(self.uids)
        identity = f"user ids {self.uids[0]} to {self.uids[-1]}, in user namespaces" if own_uid else "user namespaces"
        nproc = own_uid or self.limits_inside
        return SandboxFacts(
            backend=self.plan.backend,
            slots=len(self.slots),
            cgroup=self.hierarchy.kind,
            identity=identity if self.isolated else "nothing",
            enforced=_enforced(self.hierarchy, self.isolated, nproc),
            degraded=tuple(_degraded(self.hierarchy, self.isolated, nproc)),
        )

    def release(self) -> None:
        """Remove groups and folder; mounts and ids go with the process."""
        for slot in self.slots:
            slot.group.remove()
        self.hierarchy.remove()
        if self.folder:
            shutil.rmtree(self.folder)


def _greet(connection: socket.socket, header: dict[str, Any]) -> None:
    fd = wire.pack(header, [])
    wire.send(connection, [fd])
    os.close(fd)


def main() -> None:
    """Serve until the client goes. ``argv[1]`` is a ``Plan`` as JSON, ``argv[2]`` the client's process id."""
    plan = Plan(**json.loads(sys.argv[1]))
    connections = [socket.socket(fileno=fd) for fd in plan.fds]
    for connection in connections:
        connection.set_inheritable(False)
    parent = os.pidfd_open(int(sys.argv[2]))
    _occupy_low_descriptors()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the client, which then closes
    kernel.become_subreaper()
    os.umask(0o022)
    try:
        machine = Machine(plan)
    except (OSError, SandboxFailure) as error:
        _greet(connections[0], {"failure": str(error)})
        return
    _greet(connections[0], {"facts": asdict(machine.facts())})
    supervisor = Supervisor(machine.slots, connections, machine.path)
    try:
        supervisor.serve(parent)
    finally:
        supervisor.close()
        machine.release()


if __name__ == "__main__":
    main()
