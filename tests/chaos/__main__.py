"""``python -m tests.chaos [--short] [--only REGEX]``: play the table, print how each case went, and the counts as JSON.

Exit status 1 when a case is not as it must be.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

# What every run or audit needs, before anything is forked.
import pandas  # noqa: F401 - by pyarrow
import pyarrow.compute
import pyarrow.parquet  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.utils.logging import disable_progress_bar

import rewards.code.judge
import rewards.code.sandbox.client
import rewards.math.grade  # noqa: F401
import rl.learner.host  # noqa: F401
import rollout.engines.hf
import rollout.engines.hf_sampling
from tests.chaos.cases import CASES, SHORT, Case
from tests.chaos.setting import config_of
from tests.chaos.stage import Play

LONGEST_S = 1200
"""Seconds of a case at most; bounds hangs only."""
INTERVAL = 3
"""Steps between two deliveries of an engine, so that a stretch comes in several pieces."""


def play(case: Case, folder: Path) -> None:
    """Play a case in this process; its result goes to ``folder/result.json``."""
    began = time.monotonic()
    whole = folder_of(folder.parent, case.whole) / "disk" / "run" if case.whole else None
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LONGEST_S)
    try:
        found = Play(case, folder, config_of(case), whole).faults()
    except BaseException:  # noqa: BLE001 - a case of its own, whatever it is
        found = traceback.format_exc().splitlines() + said_last(folder)
    (folder / "result.json").write_text(json.dumps({"faults": found, "seconds": time.monotonic() - began}))


def too_long(*_: object) -> None:
    """End a case that hangs."""
    raise TimeoutError(f"still running after {LONGEST_S} s")


def said_last(folder: Path) -> list[str]:
    """Return the last lines of what the case's run has written."""
    return [line for path in sorted(folder.glob("output*.txt")) for line in path.read_text().splitlines()[-10:]]


def folder_of(root: Path, name: str) -> Path:
    """Return the folder of the case of that name."""
    return root / name.replace("/", "-")


def forked(case: Case, root: Path) -> int:
    """Play a case in a process of its own; returns that."""
    folder = folder_of(root, case.name)
    folder.mkdir()
    pid = os.fork()
    if pid == 0:
        os.setsid()  # where the kernel shares processors out by session, each case counts as one
        try:
            play(case, folder)
        finally:
            os._exit(0)
    return pid


def played(cases: Sequence[Case], root: Path, at_once: int) -> Iterator[tuple[Case, list[str], float]]:
    """Play cases, so many at one time; yield each with its faults and seconds when it is over."""
    waiting, running = [*cases], dict[int, Case]()
    while waiting or running:
        while waiting and len(running) < at_once:
            case = waiting.pop(0)
            running[forked(case, root)] = case
        pid, _ = os.wait()
        case = running.pop(pid)
        path = folder_of(root, case.name) / "result.json"
        result = json.loads(path.read_text()) if path.exists() else {"faults": ["its process has died"], "seconds": 0.0}
        yield case, result["faults"], result["seconds"]


def spread(cases: Sequence[Case]) -> list[Case]:
    """Return the cases with those on Ray, which take longest and wait most, among the first two thirds."""
    long = [one for one in cases if one.nodes]
    short = [one for one in cases if not one.nodes]
    every = 2 * len(short) // 3 // max(1, len(long))
    mixed: list[Case] = []
    for number, one in enumerate(long):
        mixed += [one, *short[number * every : (number + 1) * every]]
    return [*mixed, *short[len(long) * every :]]


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="the cases of the short form alone")
    parser.add_argument("--only", default="", metavar="REGEX", help="names of cases (all)")
    parser.add_argument("--at-once", type=int, default=3 * len(os.sched_getaffinity(0)), help="cases at one time")
    parser.add_argument("--keep", action="store_true", help="do not remove the runs of cases that are as they must")
    options = parser.parse_args()
    rollout.engines.hf.STREAM_INTERVAL = INTERVAL
    disable_progress_bar()
    chosen = [one for one in CASES if re.search(options.only, one.name) and (one.name in SHORT or not options.short)]
    needed = {one.whole for one in chosen}
    first = [one for one in CASES if one.name in needed]
    root = Path(tempfile.mkdtemp(prefix="k15-chaos-"))
    began, counts = time.monotonic(), {"cases": 0, "right": 0, "wrong": 0, "known": 0}
    get_checkpoint_conversion_mapping("llama")  # made once, and used by every host
    gc.freeze()
    print("| case | seconds | |\n|---|---:|---|", flush=True)
    for batch in (first, spread([one for one in chosen if one not in first])):
        for case, faults, seconds in played(batch, root, options.at_once):
            good = bool(faults) == bool(case.known)
            counts["cases"] += 1
            counts["known" if good and faults else "right" if good else "wrong"] += 1
            told = "as it must" if good and not faults else f"known: {case.known}" if good else "WRONG"
            print(f"| {case.name} | {seconds:.1f} | {told} |", flush=True)
            if not good:
                print(*(f"    {line}" for line in faults), sep="\n", flush=True)
            if good and not options.keep and case not in first:
                shutil.rmtree(folder_of(root, case.name))
    if not counts["wrong"] and not options.keep:
        shutil.rmtree(root)
    print(json.dumps({**counts, "seconds": round(time.monotonic() - began, 1)}))
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # nothing here has an end of its own, and some libraries complain of theirs
