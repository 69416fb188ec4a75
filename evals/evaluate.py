"""Held-out evaluation with the run's own pool, template and verifier: in the loop and offline alike [A.12]."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rewards.score import Score
from rewards.stats import Estimate, bootstrap_ci, mean_ci
from rollout.board import Completion
from rollout.engine import Delta, Request, Sampling
from rollout.seeds import seed_of
from rollout.types import Problem, Rollout, Segment, StopReason


class Generator(Protocol):
    """What evaluation needs of the pool."""

    def generate(
        self, requests: Sequence[Request], on_progress: Callable[[list[Delta]], None] | None = None
    ) -> list[Completion]:
        """One completion per request, in order."""


@dataclass(frozen=True)
class Answer:
    """One graded response."""

    problem: Problem
    sample: int
    """Which of the problem's n responses, from 0."""
    text: str
    tokens: int
    stop: StopReason | None
    score: Score


@dataclass(frozen=True)
class Result:
    """An evaluation of one model on one set of problems under one sampling."""

    accuracy: Estimate
    """avg@n over problems with its 95 % interval; ungradable responses are left out."""
    tokens: Estimate
    """Mean response tokens with a bootstrap interval over problems."""
    median_tokens: float
    truncated: float
    """Share of responses cut at the length cap (they count as wrong)."""
    ungradable: float
    """Share of responses that the grader failed on."""
    samples: int
    """Responses per problem."""
    answers: tuple[Answer, ...]


def evaluate(
    pool: Generator,
    problems: Sequence[Problem],
    render: Callable[[Problem], tuple[int, ...]],
    grade: Callable[[Problem, Rollout], Score],
    decode: Callable[[Sequence[int]], str],
    sampling: Sampling,
    samples: int,
    max_tokens: int,
    context: int,
    seed: int,
    on_progress: Callable[[list[Delta]], None] | None = None,
) -> Result:
    """Draw ``samples`` responses to each problem and judge them.

    Seeds depend on (seed, problem id, sample) only, so engines that honour them repeat an evaluation exactly.
    """
    requests, owners = [], []
    for problem in problems:
        prompt = render(problem)
        for j in range(samples):
            requests.append(
                Request(
                    key=f"{problem.id}#{j}",
                    token_ids=prompt,
                    max_new_tokens=min(max_tokens, context - len(prompt)),
                    sampling=sampling,
                    seed=seed_of(seed, "eval", problem.id, j),
                )
            )
            owners.append((problem, j))
    answers = []
    completions = pool.generate(requests, on_progress)
    for (problem, j), request, completion in zip(owners, requests, completions, strict=True):
        rollout = finished(request, completion)
        text = decode(rollout.token_ids)
        answers.append(Answer(problem, j, text, rollout.length, rollout.stop, grade(problem, rollout)))
    return summarise(answers, samples)


def finished(request: Request, completion: Completion) -> Rollout:
    """The completion as a finished rollout: cut at its budget is LENGTH, given up by the pool is ABORTED."""
    segment = Segment(completion.version, completion.token_ids, completion.logprobs)
    stop = StopReason.ABORTED if completion.error else completion.stop or StopReason.LENGTH
    return Rollout(request.key, request.token_ids, (segment,), stop)


def summarise(answers: Sequence[Answer], samples: int) -> Result:
    """Statistics of graded answers; problems are the independent units."""
    by_problem: dict[str, list[Answer]] = {}
    for answer in answers:
        by_problem.setdefault(answer.problem.id, []).append(answer)
    groups = list(by_problem.values())
    return Result(
        accuracy=mean_ci([[float(a.score.correct) for a in group if a.score.gradable] for group in groups]),
        tokens=bootstrap_ci([[float(a.tokens) for a in group] for group in groups]),
        median_tokens=statistics.median(answer.tokens for answer in answers),
        truncated=sum(answer.stop is StopReason.LENGTH for answer in answers) / len(answers),
        ungradable=sum(not answer.score.gradable for answer in answers) / len(answers),
        samples=samples,
        answers=tuple(answers),
    )
