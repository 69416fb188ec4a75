"""From finished responses to verdicts: what a grader is, our verifiers as one, and a grader at work beside sampling.

Training, the run's own evaluations, ``k15 eval`` and ``k15 grade RUN`` all judge through a ``Grader`` [invariant 10].
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from rewards.reference import Reference
from rewards.score import GRADER_TIMEOUT_S, Score
from rewards.verify import get_verifier
from rollout.engine import AllEnginesDead
from rollout.timeline import GRADER, span
from rollout.types import Problem, StopReason
from rollout.user_code import named

THREADS = 4
"""Verifiers at work at one time; those of maths and code wait on worker processes."""
T = TypeVar("T")


@dataclass(frozen=True)
class Answered:
    """A finished response as a grader sees it."""

    problem: Problem
    text: str
    """The text that is graded (``rollout.models.prompts.Transcript.graded``): hostile input."""
    stop: StopReason | None = None
    """Why it ended; ``None`` for given responses that do not say."""


class Grader(Protocol):
    """Judges responses. Used from one event loop only, in which it may wait for an engine, a model or a server."""

    async def grade(self, answers: Sequence[Answered]) -> Sequence[Score]:
        """One score per response, in order. What the grader fails on is ungradable, and counted."""

    def counts(self) -> dict[str, float]:
        """What it counted since its start, by name: failures, time-outs, seconds. May be called from any thread."""

    def close(self) -> None:
        """Give up what it holds: threads, actors, connections."""


Verify = Callable[[Problem, str], Score]
"""``(problem, graded text) -> Score``."""


def by_name(problem: Problem, text: str, timeout_s: float = GRADER_TIMEOUT_S) -> Score:
    """Return the score of the verifier that the problem names; ``timeout_s`` is for those that can take long."""
    if not problem.verifier:
        return Score.ungradable("the problem names no verifier, and the run has no reward of its own (reward.function)")
    reference = Reference(problem.answer, problem.prompt, problem.extra)
    return get_verifier(problem.verifier, timeout_s)(text, reference)


def unanswered(stop: StopReason | None) -> Score | None:
    """Return the score that a response's end decides alone; ``None`` when its text is to be judged.

    A truncated response is wrong even if the right answer stands in it [2501.12599 §2.3.3]; an aborted one was never
    answered and is ungradable.
    """
    if stop is StopReason.ABORTED:
        return Score.ungradable("aborted")
    if stop is StopReason.LENGTH:
        return Score.wrong("truncated at the length cap")
    if stop is StopReason.REPETITION:
        return Score.wrong("stopped for repetition")
    return None


def verdict(answer: Answered, verify: Verify) -> Score:
    """Return the verdict on a finished response: by its end (``unanswered``), else by what ``verify`` says of its text.

    An exception inside a verifier is the grader's failure, not the policy's: ungradable, with its text.
    """
    settled = unanswered(answer.stop)
    if settled is not None:
        return settled
    try:
        return verify(answer.problem, answer.text)
    except Exception as error:  # noqa: BLE001  the named boundary to graders: counted as ungradable
        return Score.ungradable(named(error))


class VerifierGrader:
    """A function from problem and text to a score, by default the problem's own verifier, on a few threads."""

    def __init__(self, verify: Verify = by_name, threads: int = THREADS) -> None:
        self.verify = verify
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="grade")

    async def grade(self, answers: Sequence[Answered]) -> Sequence[Score]:
        """See ``Grader``."""
        loop = asyncio.get_running_loop()
        jobs = [loop.run_in_executor(self._threads, verdict, answer, self.verify) for answer in answers]
        return await asyncio.gather(*jobs)

    def counts(self) -> dict[str, float]:
        """Nothing: what a verifier fails on is in its scores."""
        return {}

    def close(self) -> None:
        """Stop the threads; what they are at is finished."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class LoopThread:
    """An event loop on a thread of its own, which dies with the process."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run it there; to be called from other threads."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    @property
    def alive(self) -> bool:
        """Whether the thread has not ended yet."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Cancel what runs there and end the thread, without waiting for it: a task may hang."""
        if self.alive and not self._closed:  # a loop that has ended takes no more calls
            self._closed = True
            self.loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        ended = asyncio.gather(*tasks, return_exceptions=True)
        ended.add_done_callback(lambda _: self.loop.stop())


class Grading:
    """A grader at work on a thread of its own, so that grading goes on while its user samples.

    Safe to use from any thread. ``close`` closes the grader too.
    """

    def __init__(self, grader: Grader) -> None:
        self.grader = grader
        self._host: Grading | None = None
        """Whose thread it works on; ``None``: its own."""
        self._thread: LoopThread | None = None
        self._lock = threading.Lock()

    @classmethod
    def by(cls, verify: Verify, threads: int = THREADS) -> Self:
        """With a plain function as the grader."""
        return cls(VerifierGrader(verify, threads))

    def beside(self, grader: Grader) -> Grading:
        """Return another grader at work on this one's thread, as one that shares its model or engines must be.

        It is never closed: what it holds is this one's.
        """
        other = Grading(grader)
        other._host = self._host or self
        return other

    def submit(self, answers: Callable[[], Sequence[Answered | Score]]) -> Future[list[Score]]:
        """Return the scores of the responses that ``answers`` gives, in order; it is called on another thread.

        A score among them stays what it is. Where the grader itself fails the others are ungradable; ``AllEnginesDead``
        of a judge comes through.
        """
        return self.start(self._grade(answers))

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin other work on the grader's event loop, such as asking its model."""
        if self._host is not None:
            return self._host.start(work)
        with self._lock:
            if self._thread is None:
                self._thread = LoopThread("grading")
            return self._thread.start(work)

    async def _grade(self, answers: Callable[[], Sequence[Answered | Score]]) -> list[Score]:
        with span(GRADER, "grade"):
            given = await asyncio.to_thread(answers)  # decoding takes its time
            open_ = [one for one in given if isinstance(one, Answered)]
            try:
                scores = list(await self.grader.grade(open_)) if open_ else []
                if len(scores) != len(open_):
                    raise ValueError(f"the grader gave {len(scores)} scores for {len(open_)} responses")
            except AllEnginesDead:
                raise
            except Exception as error:  # noqa: BLE001  the named boundary to graders: counted as ungradable
                scores = [Score.ungradable(named(error))] * len(open_)
        fresh = iter(scores)
        return [next(fresh) if isinstance(one, Answered) else one for one in given]

    def close(self) -> None:
        """Stop grading; what is not graded yet is cancelled."""
        if self._host is not None:
            return
        with self._lock:
            if self._thread is not None:
                self._thread.close()
        self.grader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Through:
    """A grader that is at work already, as one for another event loop: an environment's, another command's.

    It counts nothing and closes nothing: both are done where the grader is at work.
    """

    def __init__(self, grading: Grading) -> None:
        self.grading = grading

    async def grade(self, answers: Sequence[Answered]) -> Sequence[Score]:
        """See ``Grader``."""
        return await asyncio.wrap_future(self.grading.submit(lambda: answers))

    def counts(self) -> dict[str, float]:
        """Nothing."""
        return {}

    def close(self) -> None:
        """Nothing."""
