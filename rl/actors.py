"""The learner's processes, each in a Ray actor, as one policy."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.engine import WeightUpdate
from rollout.types import Group, WeightVersion

if TYPE_CHECKING:
    import torch

    from rl.learner.batch import Batch
    from rl.learner.spec import LearnerSpec
    from rl.learner.stats import IterationStats, Step
    from rl.objectives.protocol import Objective
    from rl.state.checkpoint import Sum
    from rl.warmup import Pair

GRACE_S = 3.0
"""Patience with the other ranks once one has failed: they fail, too, return, or wait for it for ever."""
RESUMES = "the same command resumes the run"


class LearnerDead(RuntimeError):
    """A process of the learner is gone or does not answer; the run resumes from its last checkpoint."""


@dataclass(frozen=True)
class Failure:
    """How a rank's call ended."""

    rank: int
    error: Exception


def memory_use(message: str) -> str:
    """Extract ``22.54GB used / 23.54GB limit`` from the page that Ray writes about a memory kill."""
    found = re.search(r"[\d.]+ ?GB used / [\d.]+ ?GB limit", message)
    return found.group() if found else message.partition("\n")[0][:200]


Spawn = Callable[["LearnerSpec", Path | str], Sequence[Any]]
"""Starts the actors of a learner on a model's files, rank 0 first; they begin to load it."""


class RayPolicy:
    """Proxy of the learner in its actors, as ``rl.loop.Policy``. Every call has a time limit and a named error.

    Every call goes to all ranks; what rank 0 returns counts. When one of them dies, the others are ended, too: what
    they had begun together cannot be finished. ``replace`` starts them anew.
    """

    def __init__(
        self, spawn: Spawn, spec: LearnerSpec, model_path: Path | str, timeout_s: float, start_timeout_s: float
    ) -> None:
        self.timeout_s = timeout_s
        self.start_timeout_s = start_timeout_s
        """Limit for loading a model."""
        self._spawn = spawn
        self.actors: list[Any] = []
        self._start(spec, model_path)

    def _start(self, spec: LearnerSpec, model_path: Path | str) -> None:
        self.actors = [*self._spawn(spec, model_path)]
        self.call("ready", timeout_s=self.start_timeout_s)

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        """Run ``method`` in all actors and wait for them; return the result of rank 0.

        Raises ``LearnerDead`` when an actor is gone or silent, at the latest ``GRACE_S`` after Ray knows; exceptions of
        the method itself arrive as they are.
        """
        import ray

        if not self.actors:
            raise LearnerDead(f"the learner has ended, so there is no {method}; {RESUMES}")
        shared = args if len(self.actors) == 1 else [ray.put(arg) for arg in args]
        calls = [getattr(actor, method).remote(*shared) for actor in self.actors]
        limit = timeout_s or self.timeout_s
        results, failures = self._wait(calls, limit)
        if failures:
            raise self._failed(method, failures, len(results) + len(failures) == len(calls))
        if len(results) < len(calls):
            silent = sorted(set(range(len(calls))) - results.keys())
            self.end()
            raise LearnerDead(f"{self._named(silent)} did not finish {method} within {limit:.0f} s")
        return results[0]

    def _wait(self, calls: Sequence[Any], limit: float) -> tuple[dict[int, Any], list[Failure]]:
        """Return results by rank, and failures in the order in which they came; ranks without either have been given
        up.
        """
        import ray
        from ray.exceptions import RayError

        waiting = {call: rank for rank, call in enumerate(calls)}
        results: dict[int, Any] = {}
        failures: list[Failure] = []
        end = time.monotonic() + limit
        while waiting and (left := end - time.monotonic()) > 0:
            ready, _ = ray.wait([*waiting], num_returns=1, timeout=left)
            for call in ready:
                rank = waiting.pop(call)
                try:
                    results[rank] = ray.get(call)
                except RayError as error:
                    if not failures:
                        end = min(end, time.monotonic() + GRACE_S)
                    failures.append(Failure(rank, error))
        return results, failures

    def _failed(self, method: str, failures: Sequence[Failure], all_ended: bool) -> Exception:
        """Return what to raise; ends the actors unless all of them are alive and ready for the next call."""
        from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

        own = [failure for failure in failures if not isinstance(failure.error, RayTaskError)]
        if all_ended and not own:
            error = failures[0].error
            assert isinstance(error, RayTaskError)
            cause: Exception = error.cause
            cause.__cause__ = error
            return cause
        failure = (own or failures)[0]
        who = self._named([failure.rank])
        self.end()
        match failure.error:
            case OutOfMemoryError():
                dead = LearnerDead(
                    f"Ray ended {who} during {method} because the machine ran out of memory "
                    f"({memory_use(str(failure.error))}); end other programs or lower learner.micro_batch_tokens, "
                    f"then {RESUMES}"
                )
            case RayActorError():
                dead = LearnerDead(f"{who} died during {method}: {failure.error}; {RESUMES}")
            case RayTaskError():  # the others still wait for it
                what = str(failure.error.cause).partition("\n")[0]
                kind = type(failure.error.cause).__name__
                dead = LearnerDead(f"{who} failed alone during {method}: {kind}: {what}; {RESUMES}")
            case _:
                dead = LearnerDead(f"{who} cannot be reached for {method}: {failure.error}; {RESUMES}")
        dead.__cause__ = failure.error
        return dead

    def _named(self, ranks: Sequence[int]) -> str:
        if len(self.actors) == 1:
            return "the learner process"
        return f"rank {', '.join(map(str, ranks))} of the learner's {len(self.actors)}"

    def end(self) -> None:
        """End all actors; only ``replace`` can be called then. Idempotent."""
        import ray

        actors, self.actors = self.actors, []
        for actor in actors:
            ray.kill(actor)

    def publish(self, version: WeightVersion) -> WeightUpdate:
        """See ``rl.loop.Policy``."""
        return self.call("publish", version)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See ``rl.loop.Policy``."""
        return self.call("score", sequences)

    def train(
        self, groups: Sequence[Group], advantages: Sequence[Sequence[float | None]], version: WeightVersion
    ) -> IterationStats:
        """See ``rl.loop.Policy``."""
        return self.call("train", groups, advantages, version)

    def sft(self, pairs: Sequence[Pair], lr: float) -> float:
        """See ``rl.warmup.Trainee``."""
        return self.call("sft", pairs, lr)

    def step(self, batch: Batch, objective: Objective, lr: float) -> Step:
        """See ``rl.learner.host.LearnerHost``."""
        return self.call("step", batch, objective, lr)

    def logprobs(self, batch: Batch, objective: Objective) -> torch.Tensor:
        """See ``rl.learner.host.LearnerHost``."""
        return self.call("logprobs", batch, objective)

    def load(self, folder: Path) -> None:
        """See ``rl.planned.Kept``."""
        self.call("load", folder)

    def export(self, folder: Path, dtype: str = "float32") -> None:
        """See ``rl.learner.host.LearnerHost``."""
        self.call("export", folder, dtype)

    def save(self, folder: Path) -> None:
        """See ``rl.state.checkpoint.Saves``."""
        self.call("save", folder)

    def saving(self) -> bool:
        """See ``rl.state.checkpoint.Saves``."""
        return self.call("saving")

    def saved(self) -> dict[str, Sum]:
        """See ``rl.state.checkpoint.Saves``."""
        return self.call("saved")

    def replace(self, spec: LearnerSpec, model_path: Path | str) -> None:
        """See ``rl.learner.host.LearnerHost``; starts the actors anew when they have ended."""
        if self.actors:
            self.call("replace", spec, model_path, timeout_s=self.start_timeout_s)
        else:
            self._start(spec, model_path)
