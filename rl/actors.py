"""The learner's processes, each in a Ray actor, as one policy."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.engine import WeightUpdate
from rollout.plain import first_line
from rollout.timeline import LEARNER, spanned
from rollout.types import Group, Tokens, WeightVersion

if TYPE_CHECKING:
    import torch

    from rl.learner.batch import Batch
    from rl.learner.spec import LearnerSpec
    from rl.learner.stats import IterationStats, Step
    from rl.objectives.protocol import Needs, Objective, Outputs
    from rl.state.checkpoint import Sum
    from rl.warmup import Pair, Taught

MOST = 200
"""Characters of a message of Ray's or of a rank's that are told, at most."""
GRACE_S = 3.0
"""Patience with the other ranks once one has failed: they fail, too, return, or wait for it for ever."""
RESUMES = "the same command resumes the run"
SMALLER = "lower learner.micro_batch_tokens or take more learner.ranks"
"""What helps a learner that needs more memory than there is."""
ANYWHERE = frozenset({"ready", "offload", "onload", "saving", "saved"})
"""Calls that need no device."""


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
    return found.group() if found else first_line(message)[:MOST]


def exit_detail(message: str) -> str:
    """Extract how a process ended from the page that Ray writes about an actor's death."""
    advice = "Some common causes|There are some potential root causes"
    found = re.search(rf"exit detail: (.+?)\.?(?: (?:{advice})|$)", message, re.MULTILINE)
    return found.group(1) if found else first_line(message)[:MOST]


def out_of_memory(error: BaseException) -> bool:
    """Return whether torch or Python found no memory, on a device or in the host."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)


def cause_of(error: Exception) -> Exception:
    """Return what was raised in the actor, where ``error`` is Ray's about that."""
    from ray.exceptions import RayTaskError

    return error.cause if isinstance(error, RayTaskError) else error


def described(who: str, method: str, error: Exception) -> str:
    """Return in one line why ``who`` ended, what became of ``method``, and what to do."""
    from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

    match error:
        case OutOfMemoryError():
            return (
                f"Ray ended {who} during {method} because the machine ran out of memory ({memory_use(str(error))}); "
                f"end other programs or lower learner.micro_batch_tokens, then {RESUMES}"
            )
        case RayActorError():
            return f"{who} died during {method}: {exit_detail(str(error))}; {RESUMES}"
        case RayTaskError() if out_of_memory(error.cause):
            return (
                f"{who} ran out of memory during {method}: {first_line(error.cause)[:MOST]}; {SMALLER}, then {RESUMES}"
            )
        case RayTaskError():  # the others still wait for it
            kind, what = type(error.cause).__name__, first_line(error.cause)[:MOST]
            return f"{who} failed alone during {method}: {kind}: {what}; {RESUMES}"
        case _:
            return f"{who} cannot be reached for {method}: {first_line(error)[:MOST]}; {RESUMES}"


Spawn = Callable[["LearnerSpec", Path | str], Sequence[Any]]
"""Starts the actors of a learner on a model's files, rank 0 first; they begin to load it."""


class RayPolicy:
    """Proxy of the learner in its actors, as ``rl.parts.Policy``. Every call has a time limit and a named error.

    Every call goes to all ranks; what rank 0 returns counts. When one of them dies, the others are ended, too: what
    they had begun together cannot be finished. ``replace`` starts them anew.
    """

    def __init__(
        self, spawn: Spawn, spec: LearnerSpec, model_path: Path | str, timeout_s: float, start_timeout_s: float
    ) -> None:
        self.timeout_s = timeout_s
        self.start_timeout_s = start_timeout_s
        """Limit for loading a model."""
        self.claim: Callable[[], None] = lambda: None
        """Called before the learner's devices are used: whoever has them meanwhile gives them up (``rl.turns``)."""
        self._spawn = spawn
        self.actors: list[Any] = []
        self._start(spec, model_path)

    @spanned(LEARNER, "start")
    def _start(self, spec: LearnerSpec, model_path: Path | str) -> None:
        from ray.exceptions import RayError

        try:
            self.actors = [*self._spawn(spec, model_path)]
        except RayError as error:  # the node of a rank is gone, and no other has its place
            raise LearnerDead(described("the learner", "its start", error)) from error
        try:
            self.call("ready", timeout_s=self.start_timeout_s)
        except BaseException:
            self.end()
            raise

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        """Run ``method`` in all actors and wait for them; return the result of rank 0.

        Raises ``LearnerDead`` when an actor is gone or silent, at the latest ``GRACE_S`` after Ray knows; exceptions of
        the method itself arrive as they are if all ranks have ended the call.
        """
        if method not in ANYWHERE:
            self.claim()
        if not self.actors:
            raise LearnerDead(f"the learner has ended; {RESUMES}")
        calls = self._begin(method, args)
        limit = timeout_s or self.timeout_s
        results, failures = self._wait(calls, limit)
        if failures:
            raise self._failed(method, failures, len(results) + len(failures) == len(calls))
        if len(results) < len(calls):
            silent = self._named(sorted(set(range(len(calls))) - results.keys()))
            self.end()
            raise LearnerDead(f"{silent} did not finish {method} within {limit:.0f} s; {RESUMES}")
        return results[0]

    def _begin(self, method: str, args: Sequence[Any]) -> list[Any]:
        """Give the call to all actors."""
        import ray

        shared = args if len(self.actors) == 1 else [ray.put(arg) for arg in args]
        try:
            return [getattr(actor, method).remote(*shared) for actor in self.actors]
        except BaseException:  # a signal, too: what some have begun the others never will
            self.end()
            raise

    def _wait(self, calls: Sequence[Any], limit: float) -> tuple[dict[int, Any], list[Failure]]:
        """Return results by rank, and failures in the order in which they came; ranks without either have been given
        up.
        """
        from ray.exceptions import RayError

        # Not ray.wait: what a signal's handler raises there neither ends the wait nor comes out as it is.
        waiting: dict[Future[Any], int] = {call.future(): rank for rank, call in enumerate(calls)}
        results: dict[int, Any] = {}
        failures: list[Failure] = []
        end = time.monotonic() + limit
        while waiting and (left := end - time.monotonic()) > 0:
            for call in wait(waiting, left, FIRST_COMPLETED).done:
                rank = waiting.pop(call)
                try:
                    results[rank] = call.result()
                except RayError as error:
                    if not failures:
                        end = min(end, time.monotonic() + GRACE_S)
                    failures.append(Failure(rank, error))
        return results, failures

    def _failed(self, method: str, failures: Sequence[Failure], all_ended: bool) -> Exception:
        """Return what to raise; ends the actors unless all of them are alive and ready for the next call."""
        from ray.exceptions import RayTaskError

        own = [failure for failure in failures if not isinstance(failure.error, RayTaskError)]
        short = [failure for failure in failures if out_of_memory(cause_of(failure.error))]
        if all_ended and not own and not short:
            cause = cause_of(failures[0].error)
            cause.__cause__ = failures[0].error
            return cause
        failure = (own or short or failures)[0]
        who = self._named([failure.rank])
        self.end()
        dead = LearnerDead(described(who, method, failure.error))
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

    @spanned(LEARNER, "publish")
    def publish(self, version: WeightVersion) -> WeightUpdate:
        """See ``rl.parts.Policy``."""
        return self.call("publish", version)

    @spanned(LEARNER, "score")
    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See ``rl.parts.Policy``."""
        return self.call("score", sequences)

    @spanned(LEARNER, "train")
    def train(
        self, groups: Sequence[Group], advantages: Sequence[Sequence[float | None]], version: WeightVersion
    ) -> IterationStats:
        """See ``rl.parts.Policy``."""
        return self.call("train", groups, advantages, version)

    @spanned(LEARNER, "train")
    def accumulate(
        self, groups: Sequence[Group], advantages: Sequence[Sequence[float | None]], version: WeightVersion
    ) -> None:
        """See ``rl.learner.host.LearnerHost``."""
        self.call("accumulate", groups, advantages, version)

    @spanned(LEARNER, "train")
    def close_iteration(self, version: WeightVersion) -> IterationStats:
        """See ``rl.learner.host.LearnerHost``."""
        return self.call("close_iteration", version)

    @spanned(LEARNER, "train")
    def sft(self, pairs: Sequence[Pair], lr: float) -> Taught:
        """See ``rl.warmup.Trainee``."""
        return self.call("sft", pairs, lr)

    @spanned(LEARNER, "train")
    def pretrain(self, rows: Sequence[Tokens], lr: float, step: int, balance: float) -> Taught:
        """See ``rl.pretraining.Trainee``."""
        return self.call("pretrain", rows, lr, step, balance)

    @spanned(LEARNER, "train")
    def step(self, batch: Batch, objective: Objective, lr: float) -> Step:
        """See ``rl.learner.host.LearnerHost``."""
        return self.call("step", batch, objective, lr)

    @spanned(LEARNER, "score")
    def logprobs(self, batch: Batch, objective: Objective) -> torch.Tensor:
        """See ``rl.learner.host.LearnerHost``."""
        return self.call("logprobs", batch, objective)

    @spanned(LEARNER, "score")
    def judged(self, batch: Batch, needs: Needs) -> Outputs:
        """See ``rl.learner.host.LearnerHost``."""
        return self.call("judged", batch, needs)

    @spanned(LEARNER, "load")
    def load(self, folder: Path) -> None:
        """See ``rl.planned.Kept``."""
        self.call("load", folder)

    @spanned(LEARNER, "save")
    def export(self, folder: Path, dtype: str = "float32") -> None:
        """See ``rl.learner.host.LearnerHost``."""
        self.call("export", folder, dtype)

    @spanned(LEARNER, "save")
    def save(self, folder: Path) -> None:
        """See ``rl.state.checkpoint.Saves``."""
        self.call("save", folder)

    def saving(self) -> bool:
        """See ``rl.state.checkpoint.Saves``."""
        return self.call("saving")

    @spanned(LEARNER, "save")
    def saved(self) -> dict[str, Sum]:
        """See ``rl.state.checkpoint.Saves``."""
        return self.call("saved")

    @spanned(LEARNER, "offload")
    def offload(self) -> None:
        """See ``rl.learner.host.LearnerHost``."""
        self.call("offload")

    @spanned(LEARNER, "onload")
    def onload(self) -> None:
        """See ``rl.learner.host.LearnerHost``; a learner that has ended needs none, the next one starts on its
        devices.
        """
        if self.actors:
            self.call("onload")

    @spanned(LEARNER, "start")
    def replace(self, spec: LearnerSpec, model_path: Path | str) -> None:
        """See ``rl.learner.host.LearnerHost``; starts the actors anew when they have ended."""
        self.claim()
        if self.actors:
            self.call("replace", spec, model_path, timeout_s=self.start_timeout_s)
        else:
            self._start(spec, model_path)
