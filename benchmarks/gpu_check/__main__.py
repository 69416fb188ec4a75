"""Everything that waits for a GPU, in one run of at most eight minutes: ``python -m benchmarks.gpu_check``.

Writes one JSON (``--out``), rewritten after every part, and tables to the terminal; the last line is a JSON object with
the goals. ``--dry`` goes the same ways on a CPU with tiny sizes, in a minute. Exit code 0: all parts that could run did
so in time and their results are right; 1: something failed or ran over; 2: no CUDA device. Whether the speeds are those
asked for is in ``goals`` and changes no exit code. What each part needs is under ``NEEDS`` in its module; what is
missing is said in the JSON, and the other parts run. docs/gpu_check.md explains the figures.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from benchmarks.common import ROOT, emit, say
from benchmarks.gpu_check.case import Options, Row
from benchmarks.gpu_check.report import goals, table
from benchmarks.gpu_check.runner import Part, run_parts
from rollout.strict_json import dumps

LIMIT_S, DRY_LIMIT_S = 480.0, 1800.0
OVERHEAD_S = 5.0
"""Kept for starting, ending and writing."""
HERE = "benchmarks.gpu_check"
INTERPRETED = (("TRITON_INTERPRET", "1"),)
"""How Triton's kernels run on a CPU: a variable that it reads when it is first imported."""
PLAIN_PYTEST = (("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1"), ("PYTEST_ADDOPTS", ""))
"""The tests do not depend on what else is installed."""


def parts(dry: bool, cores: int) -> list[Part]:
    """All parts in their order. Tests share the machine; what measures has it alone."""
    several = 1 if dry else max(1, min(4, cores // 3))
    tests = PLAIN_PYTEST + (INTERPRETED if dry else ())
    return [
        Part("environment", f"{HERE}.environment", 25, stage=0),
        Part("parity", f"{HERE}.parity", 90, stage=1, shards=several, environment=tests),
        Part("tiles", f"{HERE}.tiles", 90, stage=1, shards=min(3, several)),
        Part("attention", f"{HERE}.attention", 120, stage=2),
        Part("products", f"{HERE}.products", 50, stage=3),
        Part("sharded", f"{HERE}.sharded", 80, stage=4),
        Part("learner", f"{HERE}.learner", 105, stage=5),
    ]


def run(chosen: Sequence[Part], options: Options, out: Path, limit_s: float, began: float) -> Row:
    """Run the parts, within ``limit_s`` seconds after ``began``, and keep ``out`` up to date; return all that is in
    it.
    """
    found: dict[str, Row] = {}
    row: Row = {"format": 1, "dry": options.dry, "device": options.device, "limit_s": limit_s}
    row |= {"began": datetime.now(UTC).isoformat(timespec="seconds")}

    def note() -> Row:
        state = {"seconds": round(time.monotonic() - began, 1), "goals": goals(found, options.dry), "parts": found}
        state["ok"] = len(found) == len(chosen) and all(part["status"] in ("ok", "skipped") for part in found.values())
        aside = out.with_name(f"{out.name}.tmp")
        aside.write_text(dumps(row | state, indent=1) + "\n")
        aside.replace(out)
        return row | state

    whole = note()
    for results in run_parts(chosen, options, limit_s - OVERHEAD_S - (time.monotonic() - began)):
        found |= results
        for name, part in results.items():
            say("\n".join(table(name, part)))
        whole = note()
    return whole


def has_cuda() -> bool:
    """Whether torch sees a device; asked in another process, so that this one holds none of its memory."""
    ask = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", ask], check=False, capture_output=True).returncode == 0


def interrupted(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """End as after Ctrl-C: the processes of the present part are ended, and what was found is on disk."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in parts(False, 1)]
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU: proves the path, measures nothing")
    default = ROOT / "runs" / "gpu-check.json"
    parser.add_argument("--out", type=Path, default=default, help="JSON to write (runs/gpu-check.json)")
    parser.add_argument("--limit", type=float, help="seconds for everything (480; dry: 1800, against hangs)")
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="PART", help=", ".join(names))
    given = parser.parse_args(arguments)
    began = time.monotonic()
    if find_spec("torch") is None:
        say(f"gpu-check: {sys.executable} has no torch: name a Python that has it: make gpu-check GPU_PYTHON=...")
        return 2
    if not given.dry and not has_cuda():
        say("gpu-check: torch sees no CUDA device here; --dry tries the same on a CPU with tiny sizes")
        return 2
    limit_s = given.limit or (DRY_LIMIT_S if given.dry else LIMIT_S)
    chosen = [part for part in parts(given.dry, len(os.sched_getaffinity(0))) if part.name in given.parts]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, interrupted)
    with tempfile.TemporaryDirectory(prefix="k15-gpu-check-", ignore_cleanup_errors=True) as folder:
        options = Options("cpu" if given.dry else "cuda", given.dry, folder)
        if given.dry:  # tiny tensors on several threads only wait for each other
            os.environ.setdefault("OMP_NUM_THREADS", "1")
        try:
            found = run(chosen, options, given.out, limit_s, began)
        except KeyboardInterrupt:
            say(f"gpu-check: interrupted; {given.out} has the parts that ended")
            return 130
    say(f"{given.out}: {'all right' if found['ok'] else 'not all right'} after {found['seconds']:.0f} s")
    emit({"ok": found["ok"], "goals": found["goals"], "out": str(given.out)})
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
