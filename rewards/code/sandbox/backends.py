"""The command line of each backend, which starts a program, and the reading of its exit status."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rewards.code.sandbox import system
from rewards.code.types import Job

STATUS_FD, FILTER_FD = 4, 5
"""Descriptors that a backend inherits beside the program's own 0, 1, 2 and 3."""

NAMESPACES = ("user", "pid", "net", "ipc", "uts", "cgroup")
PRIVATE = {"work": system.DIRECTORY, "tmp": "/tmp", "shm": "/dev/shm"}
"""Folder of a slot's place -> where the program sees it."""


class Backend(Protocol):
    """A way to start programs."""

    @property
    def isolated(self) -> bool:
        """False for ``Unsafe`` alone."""

    @property
    def outer(self) -> Mapping[str, str]:
        """Environment that the backend itself is started with."""

    def command(self, place: Path, uid: int, job: Job, /) -> list[str]:
        """Return the command that runs a job with the files in ``place``, started as the real user ``uid``."""

    def exit_code(self, said: Mapping[str, object], waited: int, /) -> int | None:
        """Return the program's exit code, from the status documents and the backend's own; ``None``: it did not
        start.
        """


@dataclass(frozen=True)
class Bubblewrap:
    """Unprivileged containers with ``bwrap``. The standard."""

    program: str
    environment: dict[str, str]
    """All that a program finds in its own."""
    limit_processes: bool
    """Set the process limit from inside. Before the user namespace is made it would count all that the user runs."""

    isolated = True
    outer: Mapping[str, str] = field(default_factory=dict)
    """Empty: the first process inside shows to the program what it was started with."""

    def command(self, place: Path, _uid: int, job: Job, /) -> list[str]:
        """See ``Backend``."""
        count = job.limits.processes + 1
        argv = [*(("prlimit", f"--nproc={count}:{count}", "--") if self.limit_processes else ()), *job.argv]
        command = [self.program]
        command += [f"--unshare-{namespace}" for namespace in NAMESPACES]
        command += ["--die-with-parent", "--new-session", "--hostname", "judge", "--cap-drop", "ALL"]
        command += ["--uid", str(system.USER), "--gid", str(system.USER)]
        command += ["--ro-bind", str(system.IMAGE), "/", "--proc", "/proc", "--dev-bind", str(system.DEVICES), "/dev"]
        command += ["--remount-ro", "/dev"]
        for source, target in PRIVATE.items():
            command += ["--bind", str(place / source), target]
        for name, value in self.environment.items():
            command += ["--setenv", name, value]
        command += ["--chdir", system.DIRECTORY]
        command += ["--seccomp", str(FILTER_FD), "--json-status-fd", str(STATUS_FD), "--", *argv]
        return command

    def exit_code(self, said: Mapping[str, object], _waited: int, /) -> int | None:
        """bwrap reports a code only of a program that it has started."""
        code = said.get("exit-code")
        return code if isinstance(code, int) else None


# The first process inside: says on the status descriptor that it runs, closes what the program must not have, and
# stays, so that the program is not the namespace's first process, for which most signals do nothing.
_FIRST = """printf '{"started": 1}' >&4; exec 4>&-; [ "$1" = 3 ] || exec 3>&-; shift; "$@"; exit $?"""


@dataclass(frozen=True)
class Crun:
    """OCI containers with ``crun``, where version 2 control groups can be used."""

    program: str
    environment: dict[str, str]
    bpf: bytes
    """The system-call filter, which crun takes as it is."""
    isolated = True
    outer: Mapping[str, str] = field(default_factory=dict)

    def command(self, place: Path, uid: int, job: Job, /) -> list[str]:
        """See ``Backend``. Writes the bundle into ``place``, where crun keeps its state too."""
        bundle = place / "oci"
        (bundle / "config.json").write_text(json.dumps(self.config(place, uid, job)))
        base = [self.program, "--root", str(bundle), "--cgroup-manager", "disabled"]
        return [*base, "run", "--preserve-fds", "2", "--bundle", str(bundle), f"k15-{uid}"]

    def config(self, place: Path, uid: int, job: Job) -> dict[str, Any]:
        """Return the bundle's configuration. Control groups are the supervisor's: crun is told to leave them alone."""
        first = ["/bin/sh", "-c", _FIRST, "first", "3" if job.channel else "-", *job.argv]
        mapping = [{"containerID": system.USER, "hostID": uid, "size": 1}]
        mounts: list[dict[str, Any]] = [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {
                "destination": "/dev",
                "type": "bind",
                "source": str(system.DEVICES),
                "options": ["rbind", "nosuid", "ro"],
            },
        ]
        for source, target in PRIVATE.items():
            options = ["bind", "nosuid", "nodev"]
            mounts.append({"destination": target, "type": "bind", "source": str(place / source), "options": options})
        kinds = ("user", "pid", "network", "ipc", "uts", "cgroup", "mount")
        return {
            "ociVersion": "1.0.2",
            "process": {
                "terminal": False,
                "user": {"uid": system.USER, "gid": system.USER},
                "args": first,
                "env": [f"{name}={value}" for name, value in self.environment.items()],
                "cwd": system.DIRECTORY,
                "capabilities": {name: [] for name in ("bounding", "effective", "inheritable", "permitted", "ambient")},
                "noNewPrivileges": True,
            },
            "root": {"path": str(system.IMAGE), "readonly": True},
            "hostname": "judge",
            "mounts": mounts,
            "linux": {
                "namespaces": [{"type": kind} for kind in kinds],
                "uidMappings": mapping,
                "gidMappings": mapping,
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
            "annotations": {"run.oci.seccomp_bpf_data": base64.b64encode(self.bpf).decode()},
        }

    def exit_code(self, said: Mapping[str, object], waited: int, /) -> int | None:
        """crun's own status is the program's, once the first process has said that it runs."""
        return waited if "started" in said else None


@dataclass(frozen=True)
class Unsafe:
    """No isolation at all, for those who ask for it."""

    outer: Mapping[str, str]
    isolated = False

    def command(self, _place: Path, _uid: int, job: Job, /) -> list[str]:
        """See ``Backend``."""
        return list(job.argv)

    def exit_code(self, _said: Mapping[str, object], waited: int, /) -> int | None:
        """Return the exit code of the process, which is the program's own."""
        return waited if waited >= 0 else 128 - waited
