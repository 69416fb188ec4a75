"""``k15`` to which something happens while an iteration is sampled: at a given moment, however busy the machine is.

    python -m tests.doomed 1=worker NOTES train --config FILE --run-dir RUN

When the first tokens of iteration 1 are in the journal, the rollout worker is killed (its engine has not been given the
last request, so it cannot be done with the others before that). ``3=driver``: in iteration 3 the worker is, and, once
all below it is gone, this process. ``NOTES`` gets a file with what was seen: the journal as it was, and who was there.

    python -m tests.doomed train/2/1,save/1/0 NOTES train ...

The second time that the learner's ranks are in ``train``, rank 1 is killed; the first time that they save, rank 0.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from recipes.commands.cli import main
from rl.actors import RayPolicy
from rl.state.journal import Journal
from rollout.engine import Delta, Request
from rollout.engines.actor import RayEngine
from tests.processes import until, until_gone


def family(name: str = "") -> list[psutil.Process]:
    """Descendants of this process, those whose name begins so."""
    return [one for one in psutil.Process().children(recursive=True) if one.name().startswith(name)]


def kill_worker() -> list[str]:
    """SIGKILL for the engine's actor; returns the names of what ended with it: vLLM's own processes, waited for."""
    (worker,) = family("ray::RolloutWor")
    below = {one.pid: one.name() for one in worker.children(recursive=True)}
    worker.kill()
    until_gone(below)
    return sorted(below.values())


class Doom:
    """Which faults are to come, by iteration, and how far the run is."""

    def __init__(self, plan: dict[int, str], notes: Path) -> None:
        self.plan = plan
        self.notes = notes
        self.journal = Path()
        """The file that is written now."""

    @property
    def victim(self) -> str:
        """Who is to be killed in this iteration."""
        return self.plan.get(int(self.journal.stem), "") if self.journal.stem else ""

    def strike(self) -> None:
        """The moment has come."""
        victim = self.plan.pop(int(self.journal.stem))
        note = {"journal": self.journal.read_bytes().hex(), "family": {one.pid: one.name() for one in family()}}
        note["ended"] = kill_worker()
        (self.notes / f"{victim}.json").write_text(json.dumps(note))
        if victim == "driver":
            os.kill(os.getpid(), signal.SIGKILL)


def watch(doom: Doom) -> None:
    """Let ``doom`` see every journal, and keep one request from an engine that is to be killed."""
    opened, append, submit = Journal.open, Journal.append, RayEngine.submit

    def watched_open(self: Journal, iteration: int) -> list[Delta]:
        doom.journal = self._path(iteration)
        return opened(self, iteration)

    def watched_append(self: Journal, deltas: Sequence[Delta]) -> None:
        append(self, deltas)
        if doom.victim and any(len(delta.token_ids) for delta in deltas):
            doom.strike()

    async def unfinished_submit(self: RayEngine, requests: Sequence[Request]) -> None:
        await submit(self, requests[:-1] if doom.victim and len(requests) > 1 else requests)

    Journal.open = watched_open  # type: ignore[method-assign]
    Journal.append = watched_append  # type: ignore[method-assign]
    RayEngine.submit = unfinished_submit  # type: ignore[method-assign]


def watch_ranks(plan: dict[tuple[str, int], int], notes: Path) -> None:
    """Kill the rank ``plan[method, n]`` when all ranks are in ``method`` for the n-th time, over all lives."""
    calls: Counter[str] = Counter()
    begin = RayPolicy._begin

    def watched(self: RayPolicy, method: str, args: Sequence[Any]) -> list[Any]:
        import ray

        calls[method] += 1
        rank = plan.pop((method, calls[method]), None)
        if rank is None:
            return begin(self, method, args)
        pids = ray.get([actor.__ray_call__.remote(lambda _: os.getpid()) for actor in self.actors])
        found = begin(self, method, args)
        until(lambda: f".{method}" in " ".join(psutil.Process(pids[rank]).cmdline()), f"rank {rank} in {method}")
        os.kill(pids[rank], signal.SIGKILL)
        (notes / f"{method}-{rank}.json").write_text(json.dumps(pids))
        return found

    RayPolicy._begin = watched  # type: ignore[method-assign]


if __name__ == "__main__":
    victims, notes = sys.argv[1].split(","), Path(sys.argv[2])
    if "/" in victims[0]:
        ranks = (item.split("/") for item in victims)
        watch_ranks({(method, int(call)): int(rank) for method, call, rank in ranks}, notes)
    else:
        pairs = (item.split("=") for item in victims)
        watch(Doom({int(iteration): victim for iteration, victim in pairs}, notes))
    sys.exit(main(sys.argv[3:]))
