"""Control groups, version 1 and 2: one group per slot, made once and used by one run after the other.

They lie inside of the group that k15 itself runs in where that is allowed, so that limits set on k15 hold for what it
judges. Nothing here needs a particular init.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from rewards.code.sandbox.groups import OWN_PROCESSES, Group, Polled, kill_quietly, set_value
from rewards.code.types import Limits

PREFIX = "k15-sandbox-"
_V1_CONTROLLERS = ("memory", "pids", "cpuacct")
_V2_CONTROLLERS = ("memory", "pids")
_SHARE = "cpu"
"""The controller that divides the processor up: used where it is there, not asked for."""
_PERIOD_US = 100_000


def start_time(pid: int) -> str:
    """When a process started, in ticks since boot: with its pid a name never used twice. Empty when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _keyed(path: Path, key: str) -> int:
    """Value of the line ``key value`` in a statistics file; 0 without one."""
    for line in path.read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def _pids(directory: Path) -> list[int]:
    try:
        return [int(line) for line in (directory / "cgroup.procs").read_text().split()]
    except FileNotFoundError:
        return []


class GroupV1(Group):
    """One directory under each of the controllers memory, pids, cpuacct and, where it is there, cpu."""

    counted = True

    def __init__(self, parents: dict[str, Path], name: str) -> None:
        self._at = {controller: parent / name for controller, parent in parents.items()}
        for directory in self._at.values():
            directory.mkdir(exist_ok=True)
        self._memory = self._at["memory"]
        self._swap_counted = (self._memory / "memory.memsw.limit_in_bytes").exists()
        self._cpu_ns = self._ooms = self._usage = 0

    def prepare(self, limits: Limits) -> None:
        if self._swap_counted:  # must never be below the other limit
            set_value(self._memory / "memory.memsw.limit_in_bytes", "-1")
        set_value(self._memory / "memory.limit_in_bytes", str(limits.memory_bytes))
        if self._swap_counted:
            set_value(self._memory / "memory.memsw.limit_in_bytes", str(limits.memory_bytes))
        set_value(self._at["pids"] / "pids.max", str(limits.processes + OWN_PROCESSES))
        set_value(self._memory / "memory.max_usage_in_bytes", "0")
        self._usage = int((self._memory / "memory.usage_in_bytes").read_text())
        self._ooms = _keyed(self._memory / "memory.oom_control", "oom_kill")
        if _SHARE in self._at:
            set_value(self._at[_SHARE] / "cpu.cfs_period_us", str(_PERIOD_US))
            set_value(self._at[_SHARE] / "cpu.cfs_quota_us", str(int(limits.cores * _PERIOD_US)))
        self._cpu_ns = self._cpu_now()

    def enter(self) -> None:
        for directory in self._at.values():
            (directory / "cgroup.procs").write_text("0")

    def watch(self, pid: int) -> None:
        """The kernel knows."""

    def _cpu_now(self) -> int:
        return int((self._at["cpuacct"] / "cpuacct.usage").read_text())

    def cpu_s(self) -> float:
        return (self._cpu_now() - self._cpu_ns) / 1e9

    def out_of_memory(self) -> bool:
        return _keyed(self._memory / "memory.oom_control", "oom_kill") > self._ooms

    def peak_bytes(self) -> int | None:
        return max(0, int((self._memory / "memory.max_usage_in_bytes").read_text()) - self._usage)

    def pids(self) -> list[int]:
        return sorted({pid for directory in self._at.values() for pid in _pids(directory)})

    def remove(self) -> None:
        for directory in self._at.values():
            _remove(directory)


class GroupV2(Group):
    """One directory of the unified hierarchy."""

    counted = True

    def __init__(self, parent: Path, name: str) -> None:
        self._at = parent / name
        self._at.mkdir(exist_ok=True)
        self._peak_fd = -1
        self._cpu_us = self._ooms = self._usage = 0

    def prepare(self, limits: Limits) -> None:
        self._start_peak()
        set_value(self._at / "memory.max", str(limits.memory_bytes))
        for name, value in (("memory.swap.max", "0"), ("memory.oom.group", "0")):
            if (self._at / name).exists():
                set_value(self._at / name, value)
        set_value(self._at / "pids.max", str(limits.processes + OWN_PROCESSES))
        if (self._at / "cpu.max").exists():
            set_value(self._at / "cpu.max", f"{int(limits.cores * _PERIOD_US)} {_PERIOD_US}")
        self._usage = int((self._at / "memory.current").read_text())
        self._ooms = _keyed(self._at / "memory.events", "oom_kill")
        self._cpu_us = _keyed(self._at / "cpu.stat", "usage_usec")

    def _start_peak(self) -> None:
        """Peaks start at the group's making; from Linux 6.12 on also at a write, for the descriptor that wrote."""
        self._close_peak()
        path = self._at / "memory.peak"
        if not path.exists():
            return
        try:
            self._peak_fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            os.write(self._peak_fd, b"0")
        except OSError:
            self._close_peak()
            _remove(self._at)
            self._at.mkdir()
            self._peak_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _close_peak(self) -> None:
        if self._peak_fd >= 0:
            os.close(self._peak_fd)
            self._peak_fd = -1

    def enter(self) -> None:
        (self._at / "cgroup.procs").write_text("0")

    def watch(self, pid: int) -> None:
        """The kernel knows."""

    def cpu_s(self) -> float:
        return (_keyed(self._at / "cpu.stat", "usage_usec") - self._cpu_us) / 1e6

    def out_of_memory(self) -> bool:
        return _keyed(self._at / "memory.events", "oom_kill") > self._ooms

    def peak_bytes(self) -> int | None:
        if self._peak_fd < 0:
            return None
        return max(0, int(os.pread(self._peak_fd, 32, 0)) - self._usage)

    def pids(self) -> list[int]:
        return _pids(self._at)

    def kill(self) -> None:
        at_once = self._at / "cgroup.kill"  # Linux 5.14
        if at_once.exists() and self.pids():
            at_once.write_text("1")
        super().kill()

    def remove(self) -> None:
        self._close_peak()
        _remove(self._at)


def _remove(directory: Path) -> None:
    """rmdir; the kernel may need a moment after the last process has gone."""
    for _ in range(200):
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.005)
        else:
            return
    directory.rmdir()


@dataclass(frozen=True)
class Hierarchy:
    """The place where this supervisor's groups are made."""

    kind: str
    """``v1``, ``v2`` or ``none``."""
    parents: dict[str, Path]
    """Controller -> directory of this supervisor; v2 has the one key ``unified``."""
    reason: str = ""
    """Why there are none."""

    @property
    def shares(self) -> bool:
        """Whether cores can be limited."""
        directory = self.parents.get(_SHARE) or self.parents.get("unified")
        if directory is None:
            return False
        return self.kind == "v1" or _SHARE in (directory / "cgroup.subtree_control").read_text().split()

    def balance(self, slots: int) -> None:
        """Give all slots together the weight of as many processes; a group has that of one by itself."""
        if self.kind == "v1" and self.shares:
            (self.parents[_SHARE] / "cpu.shares").write_text(str(1024 * slots))
        elif self.kind == "v2" and (self.parents["unified"] / "cpu.weight").exists():
            (self.parents["unified"] / "cpu.weight").write_text(str(min(10_000, 100 * slots)))

    def group(self, index: int) -> Group:
        """Return the group of a slot. Raises ``OSError``."""
        if self.kind == "v1":
            return GroupV1(self.parents, f"slot-{index}")
        if self.kind == "v2":
            return GroupV2(self.parents["unified"], f"slot-{index}")
        return Polled()

    def remove(self) -> None:
        """Remove the supervisor's own directories; the slots' are gone already."""
        for directory in self.parents.values():
            _remove(directory)


def _mounts(kind: str) -> list[tuple[str, str, list[str]]]:
    """(root, mount point, options) of the mounts of one file system type."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields, (name, _, options) = before.split(), after.split(maxsplit=2)
        if name == kind:
            found.append((fields[3], fields[4], options.split(",")))
    return found


def _own_paths() -> dict[str, str]:
    """Controller -> path of this process's group; the empty controller is v2."""
    paths = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _here(root: str, mount_point: str, path: str) -> Path:
    """Return the directory of group ``path``, seen through a mount of ``root``."""
    relative = os.path.relpath(path, root)
    return Path(mount_point) if relative.startswith("..") else Path(mount_point, relative)


def _candidates(start: Path, top: Path) -> list[Path]:
    """``start`` and the directories above it, up to ``top``."""
    return [start, *(parent for parent in start.parents if parent == top or top in parent.parents)]


def _claim(directory: Path, name: str) -> Path | None:
    """Make this supervisor's directory; ``None`` where that is not allowed."""
    sweep(directory)
    claimed = directory / name
    try:
        claimed.mkdir(exist_ok=True)  # cpu and cpuacct may be mounted as one; nobody else makes this name
    except OSError:
        return None
    return claimed


def _detect_v1(name: str) -> dict[str, Path]:
    """Controller -> claimed directory, for as many controllers as there are."""
    own, claimed = _own_paths(), {}
    for controller in (*_V1_CONTROLLERS, _SHARE):
        for root, mount_point, options in _mounts("cgroup"):
            if controller not in options:
                continue
            start = _here(root, mount_point, own.get(controller, "/"))
            directory = next(filter(None, (_claim(at, name) for at in _candidates(start, Path(mount_point)))), None)
            if directory:
                claimed[controller] = directory
    return claimed


def _delegates(directory: Path) -> bool:
    """Return whether groups below ``directory`` can have limits, which are switched on where that is allowed."""
    control = directory / "cgroup.subtree_control"
    try:
        there = set(control.read_text().split())
        if missing := set(_V2_CONTROLLERS) - there:
            control.write_text(" ".join(f"+{controller}" for controller in sorted(missing)))
    except OSError:
        return False
    if _SHARE not in there:
        with contextlib.suppress(OSError):
            control.write_text(f"+{_SHARE}")
    return True


def _can_move(into: Path) -> bool:
    """Return whether a process of ours may be put there."""
    pid = os.fork()
    if pid == 0:
        try:
            (into / "cgroup.procs").write_text("0")
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def _detect_v2(name: str) -> Path | None:
    """Return the claimed directory of the unified hierarchy; ``None`` where there is none with controllers."""
    own = _own_paths().get("", "/")
    for root, mount_point, _ in _mounts("cgroup2"):
        for at in _candidates(_here(root, mount_point, own), Path(mount_point)):
            if not os.access(at, os.W_OK) or not _delegates(at):
                continue
            claimed = _claim(at, name)
            if claimed is None:
                continue
            probe = claimed / "probe"
            if _delegates(claimed):
                probe.mkdir()
                movable = _can_move(probe)
                _remove(probe)
                if movable:
                    return claimed
            _remove(claimed)
    return None


def detect() -> Hierarchy:
    """Claim directories for this process's groups, after clearing away those of dead supervisors."""
    name = f"{PREFIX}{os.getpid()}-{start_time(os.getpid())}"
    claimed = _detect_v1(name)
    if set(_V1_CONTROLLERS) <= set(claimed):
        return Hierarchy("v1", claimed)
    for directory in claimed.values():
        _remove(directory)
    unified = _detect_v2(name)
    if unified:
        return Hierarchy("v2", {"unified": unified})
    return Hierarchy("none", {}, "no control groups that this user may write to")


def sweep(parent: Path) -> None:
    """Remove what supervisors that are dead have left in ``parent``, with every process in it."""
    for left in parent.glob(f"{PREFIX}*-*"):
        pid, _, started = left.name.removeprefix(PREFIX).partition("-")
        if not pid.isdigit() or start_time(int(pid)) == started:
            continue
        for group in (*left.glob("slot-*"), *left.glob("probe"), left):
            for member in _pids(group):
                kill_quietly(member)
            _remove(group)


def sweep_everywhere() -> None:
    """``sweep`` wherever this process could have had its groups."""
    own = _own_paths()
    for kind in ("cgroup", "cgroup2"):
        for root, mount_point, options in _mounts(kind):
            for controller in set(own) & {"", *options}:
                for at in _candidates(_here(root, mount_point, own[controller]), Path(mount_point)):
                    sweep(at)
