"""A learner that dies as told, in one process: what it had learned is gone, and only ``replace`` makes another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from recipes.run.launching import Launcher, Machines, Site, starting_model
from recipes.run.setup import Setup
from rl.actors import ANYWHERE, LearnerDead
from rl.learner.host import LearnerHost
from rl.learner.spec import LearnerSpec, Receivers
from rl.state.run_dir import RunDir

METHODS = (
    *("publish", "score", "train", "accumulate", "close_iteration", "sft"),
    *("save", "saving", "saved", "load", "export", "offload", "onload"),
)


class MortalPolicy:
    """A ``LearnerHost`` with the methods of ``RayPolicy``.

    ``deaths``: (method, which call of it, counted over all lives from 1, whether it has done its work by then);
    ``("replace", n, ...)`` lets the n-th start fail.
    """

    def __init__(self, make: Callable[[Path | str], LearnerHost], path: Path | str, deaths: Sequence[Any]) -> None:
        self._make, self._deaths = make, set(deaths)
        self.claim: Callable[[], None] = lambda: None
        self.calls: Counter[str] = Counter()
        self.host: LearnerHost | None = make(path)

    def __getattr__(self, method: str) -> Any:
        if method not in METHODS:
            raise AttributeError(method)
        return lambda *args: self._call(method, lambda host: getattr(host, method)(*args))

    def replace(self, spec: LearnerSpec, path: Path | str) -> None:
        self.claim()
        assert self.host is None, "it was alive"
        self.calls["replace"] += 1
        if ("replace", self.calls["replace"], False) in self._deaths:
            raise LearnerDead("rank 1 died during ready")
        self.host = self._make(path)

    def _call(self, method: str, act: Callable[[LearnerHost], Any]) -> Any:
        if method not in ANYWHERE:
            self.claim()
        if self.host is None and method == "onload":
            return None
        if self.host is None:
            raise LearnerDead("the learner has ended")
        self.calls[method] += 1
        for done in (False, True):
            found = act(self.host) if done else None
            if (method, self.calls[method], done) in self._deaths:
                with suppress(Exception):
                    self.host.saved()  # what is dead writes no more; its thread in this process would
                self.host = None
                raise LearnerDead(f"rank 1 of the learner's 2 died during {method}")
        return found


def mortal(deaths: Sequence[Any], made: list[Machines]) -> Launcher:
    """A launcher of engines and a ``MortalPolicy`` in this process; ``made`` gets what it launches."""

    def launch(setup: Setup, directory: RunDir, stack: ExitStack, claim: Callable[[], None]) -> Machines:
        config = setup.config
        path = starting_model(setup, directory)

        def make(path: Path | str) -> LearnerHost:
            return LearnerHost(LearnerSpec.of(config), path, Receivers.of(config, "local"))

        site = Site(config, stack, claim)
        pool = site.engines(path, setup.end)
        policy = site.in_turn(lambda: MortalPolicy(make, path, deaths))
        made.append(Machines(policy, pool))  # type: ignore[arg-type]
        return made[-1]

    return launch
