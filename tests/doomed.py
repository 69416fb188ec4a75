"""``k15`` to which something happens while an iteration is sampled: at a given moment, however busy the machine is.

    python -m tests.doomed 1=worker,3=driver NOTES train --config FILE --run-dir RUN

When the first tokens of iteration 1 are in the journal, the rollout worker is killed; at those of iteration 3 this
process is. Before that it writes what it saw to ``NOTES``: the journal as it was, and who was running.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from recipes.cli import main
from rl.journal import Journal
from rollout.engine import Delta
from tests.processes import until_gone


def family(name: str = "") -> list[psutil.Process]:
    """Descendants of this process, those whose name begins so."""
    return [one for one in psutil.Process().children(recursive=True) if one.name().startswith(name)]


def kill_worker() -> list[str]:
    """SIGKILL for the engine's actor; returns what ended with it: vLLM's own processes, waited for."""
    (worker,) = family("ray::RolloutWor")
    below = {one.pid: one.name() for one in worker.children(recursive=True)}
    worker.kill()
    until_gone(below)
    return sorted(below.values())


class Doom:
    """Faults by iteration, each at the first tokens that the journal takes."""

    def __init__(self, plan: dict[int, str], notes: Path) -> None:
        self.plan = plan
        self.notes = notes

    def after_append(self, journal: Journal, deltas: Sequence[Delta]) -> None:
        """Called once ``deltas`` are on record."""
        path = Path(journal._file.name) if journal._file else Path()
        victim = self.plan.get(int(path.stem), "") if any(delta.token_ids for delta in deltas) else ""
        if not victim:
            return
        del self.plan[int(path.stem)]
        note = {"journal": path.read_text(), "family": {one.pid: one.name() for one in family()}}
        if victim == "worker":
            note["ended"] = kill_worker()
        (self.notes / f"{victim}.json").write_text(json.dumps(note))
        if victim == "driver":
            os.kill(os.getpid(), 9)


if __name__ == "__main__":
    pairs = (item.split("=") for item in sys.argv[1].split(","))
    doom = Doom({int(iteration): victim for iteration, victim in pairs}, Path(sys.argv[2]))
    append = Journal.append

    def appended(journal: Journal, deltas: Sequence[Delta]) -> None:
        append(journal, deltas)
        doom.after_append(journal, deltas)

    Journal.append = appended  # type: ignore[method-assign]
    sys.exit(main(sys.argv[3:]))
