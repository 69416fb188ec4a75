"""The child's side of a start: from the supervisor's fork to the backend's exec. Never returns."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rewards.code.sandbox import kernel
from rewards.code.sandbox.backends import FILTER_FD, STATUS_FD
from rewards.code.sandbox.groups import OWN_PROCESSES, Group
from rewards.code.types import MIB, Limits

_OPEN_FILES = 512
_PLAIN_STACK = 16 * MIB


@dataclass(frozen=True)
class Start:
    """All that the child needs."""

    command: Sequence[str]
    environment: Mapping[str, str]
    directory: str
    uid: int | None
    """Real user and group to become; ``None``: stay."""
    group: Group
    limits: Limits
    fds: Mapping[int, int]
    """Target descriptor -> descriptor of the supervisor; its own are all above the targets."""
    filter_path: str | None
    own_session: bool
    supervisor: int
    """Its process id; should it be gone before the child can tie its life to it, nothing is started."""


def resource_limits(limits: Limits, counted: bool, own_uid: bool) -> dict[int, tuple[int, int]]:
    """Resource -> (soft, hard). They hold for each process alone, so they are the second line where there are groups.

    Where memory is counted for all together, the stack may use all of it: deep recursion works. Elsewhere the address
    space is limited, and every thread's stack counts in full. A program may raise its stack's soft limit as it likes,
    as on the judges that it was written for: memory is limited by itself.
    """
    cpu = math.ceil(limits.cpu_s)
    chosen = {
        resource.RLIMIT_CPU: (cpu + 1, cpu + 2),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_FSIZE: (limits.disk_bytes, limits.disk_bytes),
        resource.RLIMIT_NOFILE: (_OPEN_FILES, _OPEN_FILES),
        resource.RLIMIT_MEMLOCK: (0, 0),
        resource.RLIMIT_MSGQUEUE: (MIB, MIB),
        resource.RLIMIT_STACK: (limits.memory_bytes, resource.RLIM_INFINITY),
    }
    if not counted:
        chosen[resource.RLIMIT_STACK] = (min(_PLAIN_STACK, limits.memory_bytes), resource.RLIM_INFINITY)
        chosen[resource.RLIMIT_AS] = (limits.memory_bytes, limits.memory_bytes)
    if own_uid:
        count = limits.processes + OWN_PROCESSES
        chosen[resource.RLIMIT_NPROC] = (count, count)
    return chosen


def _limit(chosen: Mapping[int, tuple[int, int]]) -> None:
    for kind, (soft, hard) in chosen.items():
        finite = [limit for limit in (hard, resource.getrlimit(kind)[1]) if limit != resource.RLIM_INFINITY]
        highest = min(finite, default=resource.RLIM_INFINITY)
        resource.setrlimit(kind, (min([soft, *finite]), highest))


def become(start: Start) -> None:
    """Turn this freshly forked process into the backend. A failure is written to the status descriptor."""
    try:
        start.group.enter()
        for target, source in start.fds.items():
            os.dup2(source, target)
        if start.filter_path:
            os.dup2(os.open(start.filter_path, os.O_RDONLY), FILTER_FD)
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")  # under memory pressure of the whole machine these processes go first
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.chdir(start.directory)
        if start.own_session:
            os.setsid()
        own_uid = start.uid is not None
        _limit(resource_limits(start.limits, start.group.counted, own_uid))
        if start.uid is not None:
            os.setgroups([])
            os.setresgid(start.uid, start.uid, start.uid)
            os.setresuid(start.uid, start.uid, start.uid)
        kernel.die_with_parent()
        if os.getppid() != start.supervisor:
            os._exit(1)
        os.execvpe(start.command[0], list(start.command), dict(start.environment))
    except BaseException as error:  # noqa: BLE001  # whatever it is, the supervisor's loop must not run twice
        os.write(STATUS_FD, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
    finally:
        os._exit(1)
