"""Responses of a model to problems, graded and on record: for choosing from, and for judging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.benchmark import Benchmark
from evals.data import Loaded
from evals.evaluate import Answer, Ask, Done, Responder, asks_of
from evals.offline import Task, run_task
from evals.pooled import PoolResponder
from evals.store import write_samples
from recipes.commands.eval_models import files_fingerprint
from recipes.run.setup import Setup
from recipes.shorten.workers import Workers
from rl.reward_models import Site
from rl.rewarding import build_judge
from rl.stop import Stopper
from rollout.engine import Sampling
from rollout.pool.pool import Pool
from rollout.problems.source import ProblemList
from rollout.types import Problem


@dataclass(frozen=True)
class Questions:
    """The problems that are asked, and how often each."""

    name: str
    """Column ``benchmark`` of the Parquet file."""
    title: str
    """Title of the progress bar."""
    problems: tuple[Problem, ...]
    samples: int
    """Responses per problem."""
    temperature: float


def responder(setup: Setup, pool: Pool, temperature: float) -> PoolResponder:
    """Return a responder that asks as the run does, with the run's cap."""
    return PoolResponder(
        pool,
        setup.render,
        setup.transcript.graded,
        Sampling(temperature=temperature, stop_token_ids=setup.end),
        setup.config.rollout.max_tokens,
        setup.config.engine.max_model_len,
    )


@dataclass(frozen=True)
class OnDemand:
    """Gives ``model`` to the engines only if something is left to ask."""

    setup: Setup
    model: Path
    temperature: float
    stopper: Stopper
    workers: Workers

    def respond(self, asks: Sequence[Ask], done: Done) -> None:
        """See ``Responder``."""
        if not asks:
            return
        with self.stopper.interruptible():
            pool = self.workers.serve(self.setup, self.model)
            responder(self.setup, pool, self.temperature).respond(asks, done)


def answer_all(setup: Setup, questions: Questions, answering: Responder, model: Path, folder: Path) -> list[Answer]:
    """Return one graded answer per ask, in order, on record in ``folder`` and as ``samples.parquet`` there.

    What an earlier process drew is not drawn again. Raises ``JournalError`` when the folder holds answers of another
    model or under other settings.
    """
    loaded = Loaded(
        problems=questions.problems,
        origin=questions.name,
        first=questions.problems[0],
        fingerprint=ProblemList(questions.problems, questions.name).fingerprint,
        defects=0,
    )
    config = setup.config
    benchmark = Benchmark(
        name=questions.name,
        title=questions.title,
        published="",
        samples=questions.samples,
        temperature=questions.temperature,
        max_tokens=config.rollout.max_tokens,
    )
    task = Task(
        benchmark=benchmark,
        loaded=loaded,
        asks=asks_of(questions.problems, questions.samples, config.seed),
        responder=answering,
        settings={
            "samples": questions.samples,
            "temperature": questions.temperature,
            "max_tokens": config.rollout.max_tokens,
            "seed": config.seed,
        },
        identity={"model": files_fingerprint(model), "problems": loaded.fingerprint},
        grader=build_judge(config.reward, Site.of(config)),
    )
    _, answers = run_task(task, folder)
    write_samples(folder / "samples.parquet", [(questions.name, answers)])
    return answers
