"""Run the parts in processes of their own, each within its time, and gather what they noted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT
from benchmarks.gpu_check.case import Options, Row, shortened
from benchmarks.gpu_check.worker import DEVICE_LOST

LOOK_S = 0.05
"""Seconds between two looks at the running processes."""
TAIL = 2000
"""Characters of a dead process's output that are looked at for its reason."""


@dataclass(frozen=True)
class Part:
    """One part: a module with ``NEEDS`` and ``work``."""

    name: str
    module: str
    budget_s: float
    """Seconds that are kept for it; what earlier parts leave over comes on top."""
    stage: int
    """Parts of one stage run beside each other: only such as measure no time."""
    shards: int = 1
    """Processes that share its cases."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables for its processes."""


@dataclass
class Shard:
    """One process of a part, started anew after a crash for the cases that are left."""

    part: Part
    options: Options
    process: subprocess.Popen | None = None
    error: str | None = None
    """Why the part could not go on."""
    killed: bool = False
    """True when its time was up."""
    crashed: dict[str, Row] = field(default_factory=dict)
    """Cases that ended with their process."""

    @property
    def notes(self) -> Path:
        return self.file("jsonl")

    def file(self, suffix: str) -> Path:
        return Path(self.options.folder) / f"{self.part.name}.{self.options.shard}.{suffix}"

    def start(self) -> None:
        """Start a process for the cases that have not ended."""
        command = [sys.executable, "-m", "benchmarks.gpu_check.worker", self.part.module]
        command += [self.options.json(), str(self.notes), json.dumps([*self.ended()])]
        variables = os.environ | {"PYTHONUNBUFFERED": "1"} | dict(self.part.environment)
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        with self.file("log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=variables, stdout=log, stderr=log, start_new_session=True
            )

    def finished(self) -> bool:
        """Return whether nothing of it is left to do; a crash is noted, and its successor started."""
        assert self.process is not None
        code = self.process.poll()
        if code is None:
            return False
        if code == 0:
            return True
        open_case = self.begun() - self.ended().keys()
        for name in open_case:
            self.crashed[name] = {"ok": False, "error": f"the process ended with {self.reason(code)}"}
        if open_case or code == DEVICE_LOST:
            self.start()
            return False
        self.error = self.reason(code)
        return True

    def reason(self, code: int) -> str:
        """The signal or exit code, and the last that the process said."""
        end = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        said = self.file("log").read_text(errors="replace")[-TAIL:].strip().splitlines()
        return shortened(f"{end}: {' | '.join(said[-3:])}")

    def stop(self) -> None:
        """End its process and all that this has started."""
        if self.process is not None and self.process.poll() is None:
            self.killed = True
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it noted; a line that was being written when the process was killed is left out."""
        if self.notes.exists():
            for line in self.notes.read_text().splitlines(keepends=True):
                if line.endswith("\n"):
                    yield json.loads(line)

    def begun(self) -> set[str]:
        return {line["case"] for line in self.lines() if line["event"] == "begin"}

    def ended(self) -> dict[str, Row]:
        return {line["case"]: line["row"] for line in self.lines() if line["event"] == "end"} | self.crashed

    def planned(self) -> list[str]:
        return next((line["cases"] for line in self.lines() if line["event"] == "plan"), [])

    def skipped(self) -> str | None:
        return next((line["reason"] for line in self.lines() if line["event"] == "skip"), None)


def result(part: Part, shards: Sequence[Shard], seconds: float, limit_s: float) -> Row:
    """What became of a part, for the JSON."""
    cases = {name: row for shard in shards for name, row in shard.ended().items()}
    not_run = [name for shard in shards for name in shard.planned() if name not in cases]
    error = next((shard.error for shard in shards if shard.error), None)
    skipped = next((reason for shard in shards if (reason := shard.skipped())), None)
    late = any(shard.killed for shard in shards)
    wrong = any(not row["ok"] for row in cases.values())
    if late and error is None:
        error = f"stopped after {limit_s:.0f} s; not run or not finished: {', '.join(not_run) or 'unknown'}"
    status = "skipped" if skipped else "failed" if wrong or (error and not late) else "out of time" if late else "ok"
    return {
        "status": status,
        "seconds": round(seconds, 1),
        "budget_s": part.budget_s,
        "limit_s": round(limit_s, 1),
        "error": error or skipped,
        "cases": cases,
        "not_run": not_run,
    }


def run_stage(parts: Sequence[Part], options: Options, limit_s: float) -> dict[str, Row]:
    """Run ``parts`` beside each other for ``limit_s`` seconds at most."""
    began = time.monotonic()
    shards = [
        Shard(part, replace(options, shard=number, shards=part.shards))
        for part in parts
        for number in range(part.shards)
    ]
    took: dict[str, float] = {}
    try:
        for shard in shards:
            shard.start()
        waiting = list(shards)
        while waiting and time.monotonic() - began < limit_s:
            time.sleep(LOOK_S)
            waiting = [shard for shard in waiting if not shard.finished()]
            for part in parts:
                if part.name not in took and not any(shard.part is part for shard in waiting):
                    took[part.name] = time.monotonic() - began
    finally:
        for shard in shards:
            shard.stop()
    spent = time.monotonic() - began
    return {
        part.name: result(part, [s for s in shards if s.part is part], took.get(part.name, spent), limit_s)
        for part in parts
    }


def run_parts(parts: Sequence[Part], options: Options, limit_s: float) -> Iterator[dict[str, Row]]:
    """Run all stages within ``limit_s`` seconds; yield each stage's results as they come.

    A stage may take what the ones after it do not need: its own budget, and what those before it left over.
    """
    end = time.monotonic() + limit_s
    stages = [list(stage) for _, stage in groupby(parts, key=lambda part: part.stage)]
    needs = [max(part.budget_s for part in stage) for stage in stages]
    share = min(1.0, limit_s / sum(needs))
    for number, stage in enumerate(stages):
        kept = share * sum(needs[number + 1 :])
        yield run_stage(stage, options, max(0.0, end - time.monotonic() - kept))
