"""A user's own reward as a grader: a plain function, or an object with ``grade``.

The function takes ``(problem, response)`` and returns a number or a ``Score``; named in the plural, ``(problems,
responses)``, it takes lists and returns a sequence. Either may be ``async``. Whatever goes wrong in it leaves its
responses ungradable, with file and line, and is counted; nothing that it does ends a run.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rewards.score import Score
from rollout.grading import Answered, Grader, unanswered
from rollout.plain import one_line
from rollout.types import StopReason
from rollout.user_calls import AsyncCalls, Calls, TookTooLong, TooManyHang, guarded, within
from rollout.user_code import UserCodeError, explain, load

logger = logging.getLogger(__name__)

GROUP = "k15.rewards"
"""Entry points that name rewards."""
MANY = ("problems", "responses")
"""Names of the parameters of a function that takes lists."""
BATCH = 64
"""A function that takes lists is given about so many responses at a time, when as many wait."""
REASON = 300
"""Characters of a reason that are kept."""
EXTRACTED = 10_000
"""Characters of an extracted answer that are kept."""


@dataclass(frozen=True)
class Limits:
    """The limits of a user's function."""

    timeout_s: float = 60.0
    """Longest call."""
    concurrency: int = 64
    """Calls of an ``async`` function at one time; others are called one at a time."""
    truncated: float | None = None
    """Reward of a response that was cut at the length cap or stopped for repetition; ``None``: what the function says
    of its text. It is never correct."""


@dataclass(frozen=True)
class Function:
    """A reward function, and what its signature says."""

    call: Callable[..., Any]
    file: str
    line: int
    is_batched: bool
    is_async: bool

    @property
    def place(self) -> str:
        """``my_file.py:12``, where it begins."""
        return f"{self.file}:{self.line}"


def load_reward(spec: str, limits: Limits) -> Grader:
    """Load the grader that ``spec`` names (``rollout.user_code``). Raises ``UserCodeError`` for what is none.

    A class is instantiated, without arguments.
    """
    found = load(spec, GROUP)
    if inspect.isclass(found):
        try:
            found = found()
        except Exception as error:
            raise UserCodeError(f"{explain(error, _file_of(found))} (while {spec} was instantiated)") from error
    if all(callable(getattr(found, name, None)) for name in ("grade", "counts", "close")):
        return OwnGrader(found, _file_of(type(found)))
    return FunctionGrader(described(found, spec), limits)


def described(found: Any, spec: str) -> Function:
    """Describe the function by its signature. Raises ``UserCodeError`` for what cannot be called with two values."""
    if not callable(found):
        raise UserCodeError(f"{spec}: is {type(found).__name__}, not a function (problem, response) -> float or Score")
    outer = found.func if isinstance(found, functools.partial) else found
    inner = inspect.unwrap(outer)
    code = getattr(inner, "__code__", None) or getattr(type(inner).__call__, "__code__", None)
    file, line = (code.co_filename, code.co_firstlineno) if code else (spec, 1)
    try:
        inspect.signature(found).bind(None, None)
        names = [*inspect.signature(found).parameters][:2]
    except (TypeError, ValueError) as error:
        raise UserCodeError(
            f"{file}:{line}: a reward takes (problem, response), or (problems, responses) for many at once: {error}"
        ) from error
    plural = [name in MANY for name in names]
    if any(plural) and tuple(names) != MANY:
        raise UserCodeError(
            f"{file}:{line}: parameters ({', '.join(names)}): a reward that takes many at once has (problems, "
            "responses), any other takes one response a call"
        )
    is_async = inspect.iscoroutinefunction(outer) or inspect.iscoroutinefunction(type(outer).__call__)
    return Function(found, file, line, any(plural), is_async)


def _file_of(found: Any) -> str:
    try:
        return inspect.getfile(found)
    except (TypeError, OSError):
        return str(found)


@dataclass
class _Waiting:
    """Responses on their way into a call of a function that takes lists."""

    answers: Sequence[Answered]
    scores: list[Score] = field(default_factory=list)


class FunctionGrader:
    """Calls a user's function within its time limit; see the module docstring.

    A function that is not ``async`` is called on one thread, one call at a time, so that it need not be safe to use
    from several. Calls that do not return in time are left behind.
    """

    def __init__(self, function: Function, limits: Limits) -> None:
        self.function = function
        self.limits = limits
        self._counts = {"failed": 0.0, "timed_out": 0.0, "calls": 0.0}
        self._runner = AsyncCalls("the reward") if function.is_async else Calls()
        at_once = limits.concurrency if function.is_async and not function.is_batched else 1
        self._turn = asyncio.Semaphore(at_once)
        self._queue: list[_Waiting] = []

    async def grade(self, answers: Sequence[Answered]) -> Sequence[Score]:
        """See ``Grader``."""
        settled = [self._settled(answer) for answer in answers]
        open_ = [answer for answer, score in zip(answers, settled, strict=True) if score is None]
        judge = self._many if self.function.is_batched else self._singly
        scores = iter(await judge(open_) if open_ else ())
        given = [score or next(scores) for score in settled]
        return [_cut(score, answer) for score, answer in zip(given, answers, strict=True)]

    def counts(self) -> dict[str, float]:
        """Calls, those that raised or returned nonsense, and those that took too long."""
        return dict(self._counts)

    def close(self) -> None:
        """Leave the threads to their end."""
        self._runner.close()

    def _settled(self, answer: Answered) -> Score | None:
        if answer.stop is not StopReason.ABORTED and self.limits.truncated is None:
            return None
        score = unanswered(answer.stop)
        return score if score is None or score.reward is None else replace(score, reward=self.limits.truncated)

    async def _singly(self, answers: Sequence[Answered]) -> list[Score]:
        async def one(answer: Answered) -> Score:
            async with self._turn:
                (score,) = await self._call((answer.problem, answer.text), 1, lambda value: [value])
                return score

        return list(await asyncio.gather(*map(one, answers)))

    async def _many(self, answers: Sequence[Answered]) -> list[Score]:
        """What has come to wait while a call was running goes into the next one together."""
        own = _Waiting(answers)
        self._queue.append(own)
        async with self._turn:
            while not own.scores:
                batch = [self._queue.pop(0)]
                while self._queue and sum(len(one.answers) for one in batch) < BATCH:
                    batch.append(self._queue.pop(0))
                given = [answer for one in batch for answer in one.answers]
                arguments = ([answer.problem for answer in given], [answer.text for answer in given])
                scores = await self._call(arguments, len(given), _as_list)
                for one in batch:
                    one.scores, scores = scores[: len(one.answers)], scores[len(one.answers) :]
        return own.scores

    async def _call(self, arguments: tuple[Any, Any], wanted: int, unpack: Callable[[Any], list[Any]]) -> list[Score]:
        """One call; ``wanted`` scores, whatever becomes of it."""
        function, seconds = self.function, self.limits.timeout_s
        self._counts["calls"] += 1
        try:
            future = self._runner.start(function.call, arguments)
            value, error = await within(future, seconds)
            if error is not None:
                raise error
            values = unpack(value)
            if len(values) != wanted:
                raise _NotAScore(f"returned {len(values)} rewards for {wanted} responses")
            scores = [score_of(value, function.place) for value in values]
            self._counts["failed"] += sum(not score.gradable for score in scores)
            return scores
        except TookTooLong:
            self._counts["timed_out"] += wanted
            await self._runner.leave()
            reason = f"{function.place}: the reward took longer than {seconds:g} s (reward.timeout_s)"
        except TooManyHang as error:
            self._counts["timed_out"] += wanted
            reason = f"{function.place}: {error}"
        except _NotAScore as error:
            self._counts["failed"] += wanted
            reason = f"{function.place}: the reward {error}"
        except Exception as error:  # noqa: BLE001  the named boundary to the user's code: counted as ungradable
            self._counts["failed"] += wanted
            reason = explain(error, function.file)
        return [Score.ungradable(reason)] * wanted


class OwnGrader:
    """A user's grader object; what it raises, or returns that is no score, leaves its responses ungradable.

    How long it takes is its own affair: it may wait for an engine or a model.
    """

    def __init__(self, grader: Any, file: str) -> None:
        self.grader, self.file = grader, file
        self._failed = 0

    async def grade(self, answers: Sequence[Answered]) -> Sequence[Score]:
        """See ``Grader``."""
        found, error = await guarded(self.grader.grade, (answers,))
        try:
            if error is not None:
                raise error
            values = _as_list(found)
            if len(values) != len(answers):
                raise _NotAScore(f"returned {len(values)} rewards for {len(answers)} responses")
            scores = [score_of(value, self.file) for value in values]
        except _NotAScore as wrong:
            scores = [Score.ungradable(f"{self.file}: the reward {wrong}")] * len(answers)
        except Exception as wrong:  # noqa: BLE001  the named boundary to the user's code: counted as ungradable
            scores = [Score.ungradable(explain(wrong, self.file))] * len(answers)
        self._failed += sum(not score.gradable for score in scores)
        return scores

    def counts(self) -> dict[str, float]:
        """Return what it counted, and how many responses it did not grade."""
        try:
            own = {str(name): float(value) for name, value in self.grader.counts().items()}
        except Exception as error:  # noqa: BLE001  what cannot be counted must not end a run
            logger.warning("reward: %s (while it was asked for its counts)", explain(error, self.file))
            own = {}
        return {"failed": float(self._failed), **own}

    def close(self) -> None:
        """Close it; that it fails to is told, and costs nothing else."""
        try:
            self.grader.close()
        except Exception as error:  # noqa: BLE001  what the run has made must not be lost by it
            logger.warning("reward: %s (while it was closed)", explain(error, self.file))


class _NotAScore(ValueError):
    """A function returned what is neither a number nor a ``Score``."""


def _as_list(value: Any) -> list[Any]:
    try:
        return list(value)
    except TypeError:
        raise _NotAScore(f"returned {type(value).__name__}, not a sequence of numbers or Scores") from None


def plain_score(score: Score) -> Score:
    """A user's ``Score`` in plain types, its texts cut to a bearable length."""
    reward = None if score.reward is None else float(score.reward)
    parts = {str(name): float(part) for name, part in score.parts.items()}
    reason, extracted = one_line(str(score.reason), REASON), str(score.extracted)[:EXTRACTED]  # may be the response
    return Score(reward, bool(score.correct), parts, reason, extracted, str(score.opinion)[-EXTRACTED:])


def score_of(value: Any, place: str) -> Score:
    """What a function returned as a score: a ``Score``, or a number, which counts as correct from 1 on.

    Ungradable when it is neither, or not finite. ``place`` is the function's file and line.
    """
    if isinstance(value, Score):
        return plain_score(value)
    if value is None or isinstance(value, str | bytes):
        return Score.ungradable(f"{place}: the reward returned {value!r:.80}, neither a number nor a Score")
    try:
        reward = float(value)
    except (TypeError, ValueError):
        return Score.ungradable(f"{place}: the reward returned {type(value).__name__}, neither a number nor a Score")
    if not math.isfinite(reward):
        return Score.ungradable(f"{place}: the reward returned {reward}, which is not finite")
    return Score(reward, reward >= 1.0)


def _cut(score: Score, answer: Answered) -> Score:
    """Make the score of a response that was cut: it is never correct [2501.12599 §2.3.3], whatever its reward."""
    ended = unanswered(answer.stop)
    if ended is None or not score.gradable:
        return score
    return replace(score, correct=False, reason=score.reason or ended.reason)
