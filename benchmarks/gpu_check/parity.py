"""The kernels' own tests on the device: what ``make test-gpu`` runs of them, without engines."""

from __future__ import annotations

import math
import sys
from typing import Any

from benchmarks.common import ROOT
from benchmarks.gpu_check.case import DeviceLost, Notes, Options

NEEDS = ("torch", "triton", "transformers", "pytest", "hypothesis")
ON_DEVICE = ("tests/kernels", "-m", "gpu")
DRY = (
    "tests/moba_triton_cases.py",
    "tests/kernels",
    *("-k", "(outputs_and_gradients and 17-) or decode_over_pages or padding_slots or interpreted", "-m", "not gpu"),
)
"""Under Triton's interpreter: a handful of the same tests."""
SETTINGS = ("addopts=", "filterwarnings=default", "timeout=0")
"""Of pyproject.toml, what needs plug-ins or is meant for a machine with all packages."""


class Recorder:
    """A pytest plug-in that runs this process's share of the tests and notes each of them."""

    def __init__(self, options: Options, notes: Notes) -> None:
        self.options, self.notes = options, notes
        self.lost: DeviceLost | None = None
        self.session: Any = None

    def pytest_sessionstart(self, session: Any) -> None:
        self.session = session
        tune_all_little()

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._fail(report.nodeid, str(report.longrepr))

    def pytest_collection_finish(self, session: Any) -> None:
        """Once ``-k`` and ``-m`` have left out what is not asked for."""
        items, shards, shard = session.items, self.options.shards, self.options.shard
        share = [item for number, item in enumerate(items) if number % shards == shard]
        self.notes.plan(item.nodeid for item in share)
        items[:] = [item for item in share if item.nodeid not in self.notes.done]

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:  # noqa: ARG002
        self.notes.begin(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self._fail(report.nodeid, getattr(report, "longreprtext", "") or str(report.longrepr))
        elif report.skipped:
            self.notes.end(report.nodeid, {"skipped": str(report.longrepr[-1])})
        elif report.when == "call":
            self.notes.end(report.nodeid, {"seconds": round(report.duration, 2)})

    def _fail(self, name: str, text: str) -> None:
        errors = [line for line in text.splitlines() if line.startswith("E ")]
        try:
            self.notes.fail(name, "\n".join(errors) or text)
        except DeviceLost as lost:
            self.lost = lost
            self.session.shouldstop = str(lost)


def tune_little(kernel: Any) -> None:
    """Let an autotuned kernel take its first choice that fits into the device's memory, compiling no more than that."""
    bench = kernel._bench
    fits = False

    def first(*args: Any, config: Any, **more: Any) -> list[float]:
        nonlocal fits
        if config is kernel.configs[0]:
            fits = False
        times = [math.inf] * 3 if fits else bench(*args, config=config, **more)
        fits = fits or times[0] < math.inf
        return times

    kernel._bench = first
    kernel.do_bench = lambda call, quantiles: call() or [0.0 for _ in quantiles]


def tune_all_little() -> None:
    """Do so with block attention's kernels: dozens of shapes are compiled here, and none of them is timed.

    All choices are compiled and run in ``tiles``, at the shape that is measured.
    """
    from triton.runtime.autotuner import Autotuner

    from kernels.moba import triton_backward, triton_decode, triton_forward, triton_gate

    for module in (triton_gate, triton_forward, triton_backward, triton_decode):
        for kernel in vars(module).values():
            if isinstance(kernel, Autotuner):
                tune_little(kernel)


def work(options: Options, notes: Notes) -> None:
    """Run the tests in this process. Raises ``DeviceLost``."""
    import pytest

    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    settings = [part for setting in SETTINGS for part in ("-o", setting)]
    command = [
        "-q",
        "-p",
        "no:cacheprovider",
        "--noconftest",
        "--continue-on-collection-errors",
        f"--rootdir={ROOT}",
        *settings,
    ]
    recorder = Recorder(options, notes)
    code = pytest.main([*command, *(DRY if options.dry else ON_DEVICE)], plugins=[recorder])
    if recorder.lost is not None:
        raise recorder.lost
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"pytest ended with {code!r}")
