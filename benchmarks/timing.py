"""Time and memory of calls on a CPU or a CUDA device, side by side."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.common import median

Work = Callable[[], object]


class Peak:
    """Peak memory in MiB between entering and leaving, above what was in use on entering."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        self.mib = 0.0

    def _status(self, key: str) -> float:
        return int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024

    def __enter__(self) -> Peak:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated() / 2**20
        else:
            ctypes.CDLL(None).malloc_trim(0)  # what others freed must not count as room to grow into
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
            self.before = self._status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        now = torch.cuda.max_memory_allocated() / 2**20 if self.cuda else self._status("VmHWM")
        self.mib = now - self.before


@dataclass
class Measured:
    """One call's rounds."""

    seconds: list[float] = field(default_factory=list)
    """Of each round, by the clock asked for."""
    peak_mib: float = 0.0
    """Memory above what was in use before, at most."""

    @property
    def median(self) -> float:
        """Seconds."""
        return median(self.seconds)


def elapsed(work: Work, device: str, clock: str = "wall") -> float:
    """Seconds that ``work`` takes: on CUDA between two events of the device, else by the wall or the process's CPUs."""
    if device.startswith("cuda"):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3
    now = time.process_time if clock == "cpu" else time.perf_counter
    began = now()
    work()
    return now() - began


def side_by_side(
    works: Sequence[Work], device: str, seconds: float, clock: str = "wall", least: int = 3, most: int = 10
) -> list[Measured]:
    """Measure ``works`` in turn: one round to warm up, ``least`` more, then up to ``most`` while ``seconds`` last.

    Memory is that of the warm-up on a CPU, where looking at it disturbs the time, and of the first timed round on CUDA,
    where kernels that are being tuned copy what they add to.
    """
    found = [Measured() for _ in works]
    cuda = device.startswith("cuda")
    for work, measured in zip(works, found, strict=True):
        with Peak(device) as peak:
            work()
        measured.peak_mib = peak.mib
    for round_ in range(most):
        if round_ >= least and sum(sum(measured.seconds) for measured in found) > seconds:
            break
        for work, measured in zip(works, found, strict=True):
            if cuda and not round_:
                with Peak(device) as peak:
                    measured.seconds.append(elapsed(work, device, clock))
                measured.peak_mib = peak.mib
            else:
                measured.seconds.append(elapsed(work, device, clock))
    return found
