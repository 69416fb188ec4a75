"""Evaluation of one benchmark outside of a training run, from its problems to its numbers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evals.benchmark import Benchmark
from evals.data import Loaded
from evals.evaluate import Answer, Ask, Responder, Response, Watch, by_problem, evaluate
from evals.fused import Fused, measured
from evals.fusion import Fusing, FusingResponder, settings
from evals.journal import opened
from evals.results import BenchmarkResult, Context, Speed, measure
from evals.view import EvalView
from rollout.grading import Grader, Grading, VerifierGrader

GRADERS = max(4, len(os.sched_getaffinity(0)))
"""Verifiers that work at one time. Given responses leave the processors idle, so they may use all of them."""
BusySeconds = Callable[[], tuple[float, int]]
"""Engine seconds with work so far, over all engines, and how many engines there are."""


@dataclass(frozen=True)
class Task:
    """One benchmark to be evaluated."""

    benchmark: Benchmark
    """The benchmark, with the settings of this evaluation."""
    loaded: Loaded
    asks: Sequence[Ask]
    responder: Responder
    settings: dict[str, Any]
    """What is stored as the settings; with ``identity`` it decides whether a record may be continued."""
    identity: dict[str, Any] = field(default_factory=dict)
    """What must not change either: the model's files or the endpoint."""
    first_prompt: str = ""
    pass_ks: tuple[int, ...] = ()
    busy: BusySeconds | None = None
    grader: Grader | None = None
    """A run's own grader, which then judges in place of the benchmark's ``verify``."""
    against: str = ""
    """The benchmark whose result is put beside this one, by its name; it comes before. Empty: none."""
    fusing: tuple[Fusing, ...] = ()
    """Ways in which the answers to a problem are fused into one, beside the vote."""

    @property
    def place(self) -> Path:
        """Where its record lies within the output folder; the name of an arm is its benchmark's and one more word."""
        return Path(*self.benchmark.name.split(" "))


def run_task(task: Task, folder: Path | None) -> tuple[BenchmarkResult, list[Answer]]:
    """Draw, grade and measure; with a ``folder``, keep all of it there and continue an interrupted evaluation."""
    with ExitStack() as stack:
        record = stack.enter_context(opened(folder, _settings(task))) if folder else None
        wanted = {ask.key for ask in task.asks}
        on_record = sum(key in wanted for key in record.responses) if record else 0
        grading = stack.enter_context(Grading(task.grader or VerifierGrader(task.benchmark.verify, GRADERS)))
        with EvalView(task.benchmark.title, len(task.asks), on_record) as view:
            clock = Clock(view.watch, task.busy)
            answers = evaluate(task.responder, task.asks, grading, record, clock.watch)
        speed = clock.speed()
        fused = [found for one in task.fusing if (found := fuse(task, one, answers, grading, folder))]
    context = Context(
        benchmark=task.benchmark,
        origin=task.loaded.origin,
        fingerprint=task.loaded.fingerprint,
        defects=task.loaded.defects,
        problems_in_data=len(task.loaded.problems),
        settings=task.settings,
        pass_ks=task.pass_ks,
        speed=speed,
        first_prompt=task.first_prompt,
    )
    return replace(measure(context, answers), fused=tuple(fused)), answers


def fuse(task: Task, fusing: Fusing, answers: Sequence[Answer], grading: Grading, folder: Path | None) -> Fused | None:
    """Draw and grade one answer for each problem from all of its ``answers``; with a ``folder``, a record of them is in
    one below. ``None`` when none could be graded.
    """
    groups = by_problem(answers)
    contexts = [one for group in groups if (one := fusing.contexts(group)) is not None]
    asks = [one.ask for one in contexts]
    with ExitStack() as stack:
        record = None
        if folder is not None:
            record = stack.enter_context(opened(folder / fusing.name, {**_settings(task), **settings(fusing.merging)}))
        wanted = {ask.key for ask in asks}
        on_record = sum(key in wanted for key in record.responses) if record else 0
        title = f"{task.benchmark.title}, {fusing.name}"
        view = stack.enter_context(EvalView(title, len(asks), on_record))
        found = evaluate(FusingResponder(fusing, contexts), asks, grading, record, view.watch)
    return measured(
        {answer.problem.id: answer for answer in found},
        {one.problem.id: len(one.windows) for one in contexts},
        groups,
        task.benchmark.same,
        fusing.merging.pooling,
        fusing.merging.beta,
    )


def _settings(task: Task) -> dict[str, Any]:
    """Return what may not change between processes that share a record. Samples and problems may be added."""
    fixed = {key: value for key, value in task.settings.items() if key not in ("samples", "limit")}
    code = {"code": task.benchmark.code} if task.benchmark.code else {}
    return {"benchmark": task.benchmark.name, **code, **fixed, **task.identity}


class Clock:
    """Measures the time of responses, and passes them on to another ``Watch``."""

    def __init__(self, inner: Watch, busy: BusySeconds | None) -> None:
        self.watch = replace(inner, on_response=self._on_response)
        self._inner, self._busy = inner, busy
        self._before = busy() if busy else (0.0, 0)
        self._began = self._last = time.monotonic()
        self._responses = self._tokens = 0

    def _on_response(self, response: Response) -> None:
        self._last = time.monotonic()
        self._responses += 1
        self._tokens += response.tokens or 0
        self._inner.on_response(response)

    def speed(self) -> Speed | None:
        """Return the throughput so far; ``None`` when no response was drawn."""
        if not self._responses:
            return None
        seconds, busy = self._last - self._began, None
        if self._busy and seconds > 0:
            after, engines = self._busy()
            busy = (after - self._before[0]) / (seconds * engines) if engines else None
        return Speed(self._responses, self._tokens, seconds, busy)
