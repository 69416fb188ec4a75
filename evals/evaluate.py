"""From problems to graded answers: the only path of evaluation, in the loop and offline [2501.12599 §3.1].

    asks  ->  responder (pool, endpoint or given responses)  ->  record  ->  grader  ->  record  ->  answers

Grading goes on beside the responder, so engines do not wait for graders.
"""

from __future__ import annotations

import statistics
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from rewards.score import Score
from rewards.stats import Estimate, bootstrap_ci, mean_ci
from rollout.grading import Answered, Grading
from rollout.seeds import seed_of
from rollout.types import Problem, StopReason

AT_ONCE = 64
"""Most responses handed to the grader in one call."""

Key = tuple[str, int]
"""Problem id and number of the sample."""


@dataclass(frozen=True)
class Ask:
    """A request for one response."""

    problem: Problem
    sample: int
    """Which of the problem's n responses, from 0."""
    seed: int = 0
    """Seed of its randomness, for responders that can be seeded."""

    @property
    def key(self) -> Key:
        """The key of the answer in a record."""
        return self.problem.id, self.sample


@dataclass(frozen=True)
class Spoke:
    """Which windows of evidence spoke in a response [2403.17552]; windows are counted from 1."""

    first: int
    """The one that spoke for the first token."""
    shares: tuple[float, ...]
    """Share of the tokens that each of the windows spoke for."""
    holder: int = 0
    """The one that holds the answer; 0: not known."""


@dataclass(frozen=True)
class Response:
    """The response to an ``Ask``."""

    text: str
    """The text that is graded: without the end token; with the tag that opens the thinking if the prompt ended in
    it."""
    stop: StopReason | None
    """``ABORTED`` when the responder gave up; ``None`` for given responses that do not say."""
    tokens: int | None
    """Response tokens, the end token included; ``None``: unknown."""
    token_ids: tuple[int, ...] = ()
    """The tokens themselves, where they are known."""
    error: str = ""
    """Why it was aborted."""
    score: Score | None = None
    """The verdict of its environment, where that gave one; the grader is then not asked."""
    spoke: Spoke | None = None
    """Of a response from several windows of evidence."""


@dataclass(frozen=True)
class Answer:
    """One graded response."""

    problem: Problem
    sample: int
    response: Response
    score: Score


Done = Callable[[Ask, Response], None]


class ResponderError(RuntimeError):
    """The responder can give no more responses; the message says why and what to do. Those so far are in the record."""


class Responder(Protocol):
    """A source of responses: engines, a server, a file."""

    def respond(self, asks: Sequence[Ask], done: Done) -> None:
        """Hand each response to ``done``, in the calling thread, as soon as it is complete; all of them, once each."""


class Record(Protocol):
    """Keeps responses and scores, so that none is made twice (``evals.journal``)."""

    @property
    def responses(self) -> Mapping[Key, Response]:
        """Responses kept by an earlier process."""

    @property
    def scores(self) -> Mapping[Key, Score]:
        """Scores kept by an earlier process."""

    def keep_response(self, key: Key, response: Response) -> None:
        """Keep a response; it is on disk when this returns."""

    def keep_score(self, key: Key, score: Score) -> None:
        """Keep a score; it is on disk when this returns. May be called from any thread."""


@dataclass(frozen=True)
class Watch:
    """Callbacks for progress."""

    on_response: Callable[[Response], None] = lambda _: None
    """Called for each new response, in the thread of ``evaluate``."""
    on_answer: Callable[[Answer], None] = lambda _: None
    """Called for each answer from grading threads, one at a time."""


def asks_of(problems: Sequence[Problem], samples: int, seed: int) -> list[Ask]:
    """Return ``samples`` asks of each problem.

    Seeds depend on (seed, problem id, sample) only, so engines that honour them repeat an evaluation exactly.
    """
    return [Ask(problem, j, seed_of(seed, "eval", problem.id, j)) for problem in problems for j in range(samples)]


def evaluate(
    responder: Responder,
    asks: Sequence[Ask],
    grading: Grading,
    record: Record | None = None,
    watch: Watch | None = None,
) -> list[Answer]:
    """Return one graded answer per ask, in order. What ``record`` holds is neither drawn nor graded again.

    What was aborted or ungradable in an earlier process is tried once more. What the responder raises passes through,
    and an interrupt; by then every complete response is in the record, and no verdict is waited for.
    """
    watch = watch or Watch()
    responses = {key: r for key, r in (record.responses if record else {}).items() if r.stop is not StopReason.ABORTED}
    scores = record.scores if record else {}
    lock = threading.Lock()
    gradings = _Gradings(grading)
    graded: dict[Key, Future[Answer]] = {}

    def judge(ask: Ask, response: Response) -> Answer:
        known = scores.get(ask.key) if ask.key in responses else None
        if known and not known.gradable:
            known = None
        score = known or response.score
        if score is None:
            score = gradings.score(Answered(ask.problem, response.text, response.stop))
        if record and not known:
            record.keep_score(ask.key, score)
        answer = Answer(ask.problem, ask.sample, response, score)
        with lock:
            watch.on_answer(answer)
        return answer

    graders = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="graded")

    def done(ask: Ask, response: Response) -> None:
        if ask.key in graded:
            raise ValueError(f"two responses for {ask.key}")
        if record:
            record.keep_response(ask.key, response)
        watch.on_response(response)
        graded[ask.key] = graders.submit(judge, ask, response)

    try:
        for ask in asks:
            if ask.key in responses:
                graded[ask.key] = graders.submit(judge, ask, responses[ask.key])
        responder.respond([ask for ask in asks if ask.key not in responses], done)
        return [graded[ask.key].result() for ask in asks]
    except BaseException:
        gradings.cancel()
        raise
    finally:
        graders.shutdown(wait=True, cancel_futures=True)


class _Gradings:
    """What is being graded, from any thread, so that it can be given up: a judge may take minutes for a verdict."""

    def __init__(self, grading: Grading) -> None:
        self._grading = grading
        self._lock = threading.Lock()
        self._open: set[Future[list[Score]]] = set()
        self._cancelled = False

    def score(self, answer: Answered) -> Score:
        """Return the score of a response. Raises ``CancelledError``."""
        with self._lock:
            if self._cancelled:
                raise CancelledError
            asked = self._grading.submit(lambda: [answer])
            self._open.add(asked)
        try:
            (score,) = asked.result()
        finally:
            with self._lock:
                self._open.discard(asked)
        return score

    def cancel(self) -> None:
        """Give up what is being graded, and take no more."""
        with self._lock:
            self._cancelled, left = True, list(self._open)
        for asked in left:
            asked.cancel()


class NothingGraded(ValueError):
    """The grader failed on every response; one line with the commonest reason."""


@dataclass(frozen=True)
class Result:
    """An evaluation of one model on one set of problems under one sampling, in a few numbers."""

    accuracy: Estimate
    """avg@n over problems with its 95 % interval; ungradable responses are left out."""
    reward: Estimate
    """Mean reward of the same responses, with a bootstrap interval over problems."""
    tokens: Estimate
    """Mean response tokens with a bootstrap interval over problems."""
    median_tokens: float
    truncated: float
    """Share of responses cut at the length cap (they count as wrong)."""
    ungradable: float
    """Share of responses that the grader failed on."""
    samples: int
    """Responses per problem."""


def by_problem(answers: Sequence[Answer]) -> list[list[Answer]]:
    """Group answers by problem, in order of first appearance."""
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.problem.id, []).append(answer)
    return list(groups.values())


def result_of(answers: Sequence[Answer], samples: int) -> Result:
    """Compute the statistics of graded answers whose lengths are known; problems are the independent units.

    Raises ``NothingGraded`` when the grader failed on every one.
    """
    groups = by_problem(answers)
    graded = [[a.score for a in group if a.score.gradable] for group in groups]
    if not any(graded):
        (reason, count), *_ = Counter(answer.score.reason for answer in answers).most_common(1)
        raise NothingGraded(
            f"none of {len(answers)} responses could be graded; {count} of them: {reason}; mend the reward or the "
            "problems, and the same command goes on"
        )
    lengths = [[float(a.response.tokens or 0) for a in group] for group in groups]
    return Result(
        accuracy=mean_ci([[float(score.correct) for score in row] for row in graded]),
        reward=bootstrap_ci([[score.reward or 0.0 for score in row] for row in graded]),
        tokens=bootstrap_ci(lengths),
        median_tokens=statistics.median(length for row in lengths for length in row),
        truncated=sum(answer.response.stop is StopReason.LENGTH for answer in answers) / len(answers),
        ungradable=sum(not answer.score.gradable for answer in answers) / len(answers),
        samples=samples,
    )
