"""How fast the sandbox is, and whether anything stays behind.

    python -m benchmarks.sandbox [--runs 10000] [--starts 200] [--slots 2]

- `start`: one program after the other, from the call to its outcome, with everything the sandbox does before and after.
  `true` is the sandbox alone; `bare` is the same Python started without a sandbox.
- `throughput`: Python programs per second with all slots busy. The paper reports 0.04 s and 120/s on 16 cores
[2501.12599 §2.3.5].
- `leak`: `runs` programs in a row, of eight kinds, most of which leave something: files, shared memory, locks, orphans,
  processes that ignore signals, too much output. Counted before, half-way and after: processes, control groups, mounts
  and open files of the supervisor, its memory and this process's, files in /tmp, System V segments.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path
from typing import Any

from benchmarks.common import emit, environment, median, say
from rewards.code.sandbox import Sandbox, open_sandbox
from rewards.code.sandbox.cgroups import PREFIX
from rewards.code.types import MIB, Job, Limits

PYTHON = ("python3", "-I", "-S", "-c", "pass")
GOAL_START_S, GOAL_PER_S = 0.040, 50.0
WARM_UP = 50

_SMALL = Limits(
    cpu_s=2.0, wall_s=20.0, memory_bytes=64 * MIB, processes=16, output_bytes=1000, disk_bytes=4 * MIB, files=100
)
_IMPATIENT = Limits(cpu_s=2.0, wall_s=0.2, memory_bytes=64 * MIB)
KINDS: tuple[Job, ...] = (
    Job(("true",), limits=_SMALL),
    Job((*PYTHON[:-1], "print(sum(range(1000)))"), limits=_SMALL),
    Job(("sh", "-c", "mkdir -p a/b; echo x > a/b/f; ln -s / l; chmod 0 a"), limits=_SMALL, collect=("l", "a/b/f")),
    Job(("sh", "-c", "echo x > /dev/shm/x; echo y > /tmp/y; sleep 100 & exit 3"), limits=_SMALL),
    Job(("sh", "-c", "cat /dev/zero"), limits=_SMALL),
    Job(("sh", "-c", "kill -SEGV $$"), limits=_SMALL),
    Job((*PYTHON[:-1], "import ctypes, os; ctypes.CDLL(None).shmget(7, 4096, 0o1600); os.fork()"), limits=_SMALL),
    Job(("cat",), stdin=b"x" * MIB, limits=Limits(output_bytes=2 * MIB)),
)
STUBBORN = Job(("sh", "-c", "trap '' TERM INT HUP; sleep 100 & wait"), limits=_IMPATIENT)
EVERY = 25
"""Of so many programs one is stubborn: it takes its wall limit."""


def seconds_of(run: Callable[[], object]) -> float:
    """How long a call takes."""
    before = time.perf_counter()
    run()
    return time.perf_counter() - before


def starts(sandbox: Sandbox, rounds: int) -> None:
    """Emit the start-up times, side by side: the kinds take turns, so that all meet the same machine."""
    python = str(Path(sys.base_prefix, "bin", "python3"))
    bare = [python, *PYTHON[1:]]
    kinds: dict[str, Callable[[], object]] = {
        "bare": lambda: subprocess.run(bare, check=True, env={}),
        "true": lambda: sandbox.run(Job(("true",))),
        "python": lambda: sandbox.run(Job(PYTHON)),
        "python with site": lambda: sandbox.run(Job(("python3", "-c", "pass"))),
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, run in kinds.items():
            times[name].append(seconds_of(run))
    for name, values in times.items():
        ordered = sorted(values)
        row: dict[str, Any] = {"benchmark": "start", "what": name, "median_s": round(median(values), 4)}
        row |= {"p10_s": round(ordered[rounds // 10], 4), "p90_s": round(ordered[rounds * 9 // 10], 4), "runs": rounds}
        emit(row | ({"goal_s": GOAL_START_S, "met": median(values) <= GOAL_START_S} if name == "python" else {}))


def throughput(sandbox: Sandbox, slots: int, runs: int) -> None:
    """Emit programs per second."""
    with ThreadPoolExecutor(slots) as pool:
        began = time.perf_counter()
        outcomes = list(pool.map(sandbox.run, [Job(PYTHON)] * runs))
        per_s = runs / (time.perf_counter() - began)
    assert all(outcome.ok for outcome in outcomes)
    row = {"benchmark": "throughput", "slots": slots, "per_s": round(per_s, 1), "runs": runs}
    emit(row | {"goal_per_s": GOAL_PER_S, "met": per_s >= GOAL_PER_S})


def resident(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def groups(supervisor: int) -> int:
    """Control groups that a supervisor made, wherever they are."""
    top = f"{PREFIX}{supervisor}-"
    return sum(name.startswith(top) for _, names, _ in os.walk("/sys/fs/cgroup") for name in names)


def settle(supervisor: int) -> None:
    """Wait until a supervisor sleeps: it closes a run's last descriptors after the client has the outcome."""
    while Path(f"/proc/{supervisor}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        time.sleep(0.01)


def state(supervisor: int) -> dict[str, int]:
    """What could pile up."""
    settle(supervisor)
    return {
        "processes": len(Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()),
        "groups": groups(supervisor),
        "mounts": len(Path(f"/proc/{supervisor}/mounts").read_text().splitlines()),
        "open_files": len(os.listdir(f"/proc/{supervisor}/fd")),
        "own_open_files": len(os.listdir("/proc/self/fd")),
        "tmp_files": len([name for name in os.listdir(tempfile.gettempdir()) if name.startswith("k15")]),
        "segments": len(Path("/proc/sysvipc/shm").read_text().splitlines()) - 1,
        "resident_mib": resident(supervisor) // MIB,
        "own_resident_mib": resident(os.getpid()) // MIB,
    }


def jobs() -> Iterator[Job]:
    """Programs of all kinds in turn, without end."""
    for index in count():
        yield STUBBORN if index % EVERY == EVERY - 1 else KINDS[index % len(KINDS)]


def leak(sandbox: Sandbox, slots: int, runs: int) -> bool:
    """Run ``runs`` programs and emit what stayed; False when something did.

    A tenth as many go first, in the same way, so that the allocator's own memory has its size when counting begins.
    """
    supervisor, some = sandbox.supervisor_pid, jobs()
    with ThreadPoolExecutor(slots) as pool:

        def tenth() -> Counter[str]:
            return Counter(outcome.ending.value for outcome in pool.map(sandbox.run, islice(some, runs // 10)))

        tenth()
        before, began, endings = state(supervisor), time.perf_counter(), Counter[str]()
        for part in range(10):
            endings += tenth()
            say(f"{(part + 1) * (runs // 10)} runs, {time.perf_counter() - began:.0f} s: {state(supervisor)}")
        after, seconds = state(supervisor), time.perf_counter() - began
    memory = ("resident_mib", "own_resident_mib")
    grown = {name: after[name] - before[name] for name in after if after[name] > before[name] + 4 * (name in memory)}
    row = {"benchmark": "leak", "runs": runs, "seconds": round(seconds), "endings": dict(endings), "grown": grown}
    emit(row | {"before": before, "after": after})
    return not grown and sandbox.restarts == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when nothing stayed behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000, help="programs in a row (10000)")
    parser.add_argument("--starts", type=int, default=200, help="starts of each kind (200)")
    parser.add_argument("--slots", type=int, default=len(os.sched_getaffinity(0)), help="programs at one time (cores)")
    parser.add_argument("--sandbox", default="auto", help="bubblewrap, crun (auto)")
    options = parser.parse_args(arguments)
    with open_sandbox(options.sandbox, options.slots) as sandbox:
        facts = sandbox.describe()
        emit({"benchmark": "sandbox", "backend": facts.backend, "cgroup": facts.cgroup, **environment()})
        for _ in range(WARM_UP):
            sandbox.run(Job(PYTHON))
        starts(sandbox, options.starts)
        throughput(sandbox, options.slots, 5 * options.starts)
        clean = leak(sandbox, options.slots, options.runs)
        supervisor = sandbox.supervisor_pid
    gone = not os.path.exists(f"/proc/{supervisor}")
    left = groups(supervisor)
    emit({"benchmark": "closed", "supervisor_gone": gone, "groups_left": left})
    return 0 if clean and gone and not left else 1


if __name__ == "__main__":
    sys.exit(main())
