"""``k15`` to which something happens while an iteration is sampled: at a given moment, however busy the machine is.

    python -m tests.doomed 1=worker NOTES train --config FILE --run-dir RUN

When the first tokens of iteration 1 are in the journal, the rollout worker is killed (its engine has not been given the
last request, so it cannot be done with the others before that). ``3=driver``: in iteration 3 the worker is, and, once
all below it is gone, this process. ``NOTES`` gets a file with what was seen: the journal as it was, and who was there.

    python -m tests.doomed train/2/1,save/1/0 NOTES train ...

In the second ``train`` of the learner, rank 1 dies by SIGKILL in its midst; in the first ``save``, rank 0.
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
from tests.processes import until_gone


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


MIDST = {
    "train": "learner.optimizer.step",
    "publish": "learner.enter",
    "save": "learner.saver.start",
    "saved": "learner.saver.wait",
}
"""What a rank is in when it dies: a step when its gradients are there, and what the others do not end without it."""


def mine(host: Any, method: str) -> int:
    """Let a rank kill itself in the midst of its next ``method``; returns its process."""
    *way, last = MIDST[method].split(".")
    owner = host
    for name in way:
        owner = getattr(owner, name)
    setattr(owner, last, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    return os.getpid()


def watch_ranks(plan: dict[tuple[str, int], int], notes: Path) -> None:
    """Rank ``plan[method, n]`` dies in ``method`` when it is called for the n-th time, over all lives."""
    calls: Counter[str] = Counter()
    begin = RayPolicy._begin

    def watched(self: RayPolicy, method: str, args: Sequence[Any]) -> list[Any]:
        import ray

        calls[method] += 1
        rank = plan.pop((method, calls[method]), None)
        if rank is not None:
            pid = ray.get(self.actors[rank].__ray_call__.remote(mine, method))
            (notes / f"{method}-{rank}.json").write_text(json.dumps([pid]))
        return begin(self, method, args)

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
